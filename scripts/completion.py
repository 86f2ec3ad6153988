"""Prints the completion of commands and flags for a shell: ich completion bash, or zsh."""

import importlib
import sys

from common.cli import run_script
from common.errors import InputError
from config import GROUPS
from flags.parsing import build_parser
from scripts import ich

SHELLS = ("bash", "zsh")


def main() -> None:
    """Print a script that the shell is to source."""
    if len(sys.argv) != 2 or sys.argv[1] not in SHELLS:
        raise InputError(
            'name one shell, bash or zsh: eval "$(ich completion bash)" belongs into ~/.bashrc'
        )
    print(completion(sys.argv[1]))


def completion(shell: str) -> str:
    """Return the completion script of `ich` for a shell, made by jsonargparse and shtab."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="ich")
    commands = parser.add_subcommands()
    for name, command in ich.COMMANDS.items():
        groups = getattr(importlib.import_module(command.module), "GROUPS", ())
        own = build_parser("", tuple(GROUPS[group] for group in groups), frozenset())
        commands.add_subcommand(name, own, help=command.summary)
    return str(parser.get_completion_script(f"shtab-{shell}"))


if __name__ == "__main__":
    run_script(main)
