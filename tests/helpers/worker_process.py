"""A worker with the stand-in child in a process of its own, to be killed; arguments are a JSON."""

import json
import signal
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]


def main() -> None:
    from common.delivery.sending import open_destination
    from common.preparation.workers.limits import Limits
    from flags.worker import WorkerConfig
    from rsna.worker.child import Child
    from rsna.worker.fronts import FolderFront, OrthancFront
    from rsna.worker.journal import JOURNAL_FILE, Journal, locked
    from rsna.worker.outbox import Outbox
    from rsna.worker.records import Records
    from rsna.worker.worker import Model, Worker

    given = json.loads(sys.argv[1])
    work = Path(given["work"])
    work.mkdir(exist_ok=True)
    with locked(work):
        journal = Journal(work / JOURNAL_FILE)
        records = Records(work, journal)
        send = given.get("send")
        destination = send and open_destination(send, "ICH", given.get("commit_port", 0))
        outbox = Outbox(work, journal, records, destination)
        settings = {"digest": "a", "seconds": given.get("seconds", 0.0)}
        settings["num_padded"] = given.get("num_padded", 0)
        child = Child("worker_standin", settings, Limits(60, 2000))
        watched = given.get("watch")
        front = (
            FolderFront(Path(watched), None) if watched else OrthancFront(given["orthanc"], None)
        )
        flags = WorkerConfig(wk_stable_s=given.get("stable_s", 2.0), wk_disk_mb=0.0)
        worker = Worker(flags, front, child, Model("a", "a" * 64), journal, records, outbox)
        worker.recover()
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        worker.run(stopped.is_set)


if __name__ == "__main__":
    main()
