"""Takes studies from an Orthanc or a folder, and sends the results to a PACS, until it is ended."""

import os
import signal
import threading

from common.cli import command_line, log_to_console, run_script
from common.errors import CheckFailed, Interrupted
from common.words import count
from config import parse_config

GROUPS = ("general", "predictor", "engine", "delivery", "worker")


def main() -> None:
    """Work until a signal comes; see to the studies of a worker with --wk_status or --wk_retry."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.worker.setup import open_worker, require_packages, work_folder

    if config.worker.wk_status or config.worker.wk_retry is not None:
        require_packages()
        from rsna.worker.records import retry, status

        if config.worker.wk_retry is not None:
            print(f"{count(retry(work_folder(config), config.worker.wk_retry), 'study')} to retry")
            return
        lines, alarms = status(work_folder(config))
        print(*lines, sep="\n")
        if alarms:
            raise CheckFailed(alarms)
        return
    os.umask(0o077)  # Results that wait have the patient's name in them.
    # No exception: readers of files would take it for a fault of the file that they read.
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with open_worker(config) as worker:
        worker.run(stopped.is_set)
    raise Interrupted(signal.SIGTERM, command_line())


if __name__ == "__main__":
    run_script(main)
