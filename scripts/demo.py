"""Makes demo data, prepares them, trains and evaluates: what ./train.sh does in a checkout.

Flags are those of the training. With another --data_dataset, or --tr_resume 1, nothing is made.
"""

import signal
import subprocess
import sys
from types import FrameType

from common.cli import log_to_console, run_script
from config import parse_config
from scripts import ich
from train import GROUPS


def main() -> None:
    """Run the three commands in processes of their own; the first that fails gives the status."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    flags = sys.argv[1:]
    places = ["--data_input_folder", config.data.data_input_folder]
    if config.data.data_dataset == "demo" and not config.training.tr_resume:
        run("prepare", "--pre_source", "demo", "--data_dataset", "demo", *places)
    experiment = run("train", *flags, keep_output=True).strip()
    print(experiment)
    places += ["--output_dir", config.general.output_dir]
    run("evaluate", "--experiment_id", experiment, *places)


def run(command: str, *arguments: str, keep_output: bool = False) -> str:
    """Run a command of `ich` and return its stdout if kept; ends this process where it fails."""
    process = subprocess.Popen(
        [*ich.process_command(), command, *arguments],
        stdout=subprocess.PIPE if keep_output else None,
        text=True,
        # A group of its own: Ctrl+C comes once, by the handler below.
        process_group=0,
    )

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    output, _ = process.communicate()
    for number, handler in before.items():
        signal.signal(number, handler)
    if process.returncode:
        sys.exit(process.returncode)
    return output or ""


if __name__ == "__main__":
    run_script(main)
