"""The command `ich`: every script by a short name, each with its own flags.

Installed it is `ich train ...`; in a checkout `python -m scripts.ich train ...` does the same.
"""

import difflib
import importlib
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from common.cli import EXIT_INPUT, Launcher, launch_by, run_script
from common.errors import InputError
from common.requirements import program_version

ONLY_LINUX = "only Linux is supported: on Windows use WSL 2, on macOS a Linux container"
ROOT = Path(__file__).resolve().parent.parent


class Command(NamedTuple):
    """A module with a main(), and its line in --help."""

    module: str
    summary: str


COMMANDS = {
    "demo": Command("scripts.demo", "make demo data, train on them and evaluate: begin here"),
    "prepare": Command("preprocessing", "turn DICOM, or a known dataset, into a prepared dataset"),
    "train": Command("train", "train a network; prints the id of the experiment"),
    "evaluate": Command("evaluate", "write metrics and a report of an experiment"),
    "validate": Command("scripts.validate", "score several datasets by a frozen protocol"),
    "import": Command("scripts.import_weights", "make an experiment of a published network"),
    "calibrate": Command("scripts.calibrate", "fit a predictor's calibration to your own labels"),
    "export": Command("scripts.export", "write engines that predict without torch, for CPUs"),
    "compare": Command("scripts.compare", "compare experiments on the same patients"),
    "drift": Command("scripts.drift", "find, without labels, how new studies differ"),
    "review": Command("scripts.review", "pages of the studies worth a look, with labels to tick"),
    "predict": Command("predict", "predict a folder of DICOM, a zip archive or a dataset"),
    "deliver": Command("deliver", "write reports, key images and heat maps of studies in DICOM"),
    "worker": Command("scripts.worker", "take studies from an Orthanc, send results to a PACS"),
    "ensemble": Command("ensemble", "blend experiments"),
    "lr-find": Command("lr_finder", "suggest a learning rate"),
    "second-level": Command("scripts.second_level", "smooth or boost predictions along the series"),
    "pseudo-label": Command("scripts.pseudo_label", "make a dataset of a model's sure predictions"),
    "resend": Command("scripts.resend", "send a run monitor what it has missed"),
    "monitor": Command("scripts.monitor", "show the curves of experiments in the browser"),
    "doctor": Command("scripts.doctor", "check the installation: what works and what does not"),
    "completion": Command("scripts.completion", "print the completion for bash or zsh"),
}


def main() -> None:
    """Run the command that the first argument names, and end with its exit status."""
    if sys.platform != "linux":
        print(f"error: {ONLY_LINUX}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
    elif arguments[0] == "--version":
        print(f"ich {program_version()}")
    elif arguments[0] in COMMANDS:
        run_command(arguments[0])
    else:
        run_script(lambda: refuse(arguments[0]))


def run_command(name: str) -> None:
    """Run a command with the arguments behind its name; ends the process."""
    names = {command.module.rpartition(".")[2]: own for own, command in COMMANDS.items()}
    launch_by(Launcher(shown_command(), name, names))
    del sys.argv[1]
    run_script(importlib.import_module(COMMANDS[name].module).main)


def refuse(name: str) -> None:
    """Raise InputError with the command whose name is nearest."""
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else "see --help for those there are"
    raise InputError(f"{name} is no command: {advice}")


def usage() -> str:
    """Return the text of --help: one line per command."""
    shown = " ".join(shown_command())
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {shown} <command> [--flag value ...]",
            "",
            "Intracranial hemorrhage in head CT: prepare, train, evaluate, predict.",
            "Research software, not a medical device.",
            "",
            *lines,
            "",
            f"{shown} <command> --help shows the flags that matter most, --help_all all of them;",
            f"{shown} --version the version. Data are read from ./input, results go to ./output.",
        ]
    )


def shown_command() -> tuple[str, ...]:
    """Return how the user started this command, for messages that name it."""
    this = Path(sys.argv[0])
    if this.suffix != ".py":
        found = shutil.which(this.name)
        return (this.name if found and Path(found).samefile(this) else str(this),)
    return ("python", "-m", module_name())


def process_command() -> list[str]:
    """Return the start of a command line that starts this command in a process of its own."""
    this = Path(sys.argv[0])
    return [sys.executable, *(["-m", module_name()] if this.suffix == ".py" else [str(this)])]


def module_name() -> str:
    """Return the module that Python starts this command by."""
    return "scripts.ich" if (ROOT / "pyproject.toml").is_file() else ROOT.name


if __name__ == "__main__":
    main()
