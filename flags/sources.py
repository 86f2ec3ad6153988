"""The files of --config: their keys are checked, and an error names the file that it lies in."""

import contextlib
import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from common.errors import InputError
from flags.help import FULL_HELP
from flags.parsing import EMPTY

_ADVICE = "write lines of `flag: value`"


class Source(NamedTuple):
    """The file that gives a flag, and the value that it gives."""

    file: str
    value: Any


def command_line_names(argv: Sequence[str]) -> frozenset[str]:
    """Return the names of the flags that stand on the command line itself."""
    return frozenset(re.findall(r"^--(\w+)", "\n".join(argv), re.MULTILINE))


def read_sources(argv: Sequence[str], known: Collection[str]) -> dict[str, Source]:
    """Return the flags that the files of --config give, the last of several files counts.

    Raises:
        InputError: a file can't be read as flags, or a key in it is no flag.
    """
    text = "\n".join(argv)
    sources = {}
    for file in re.findall(r"^--config[=\n](.*)$", text, re.MULTILINE):
        for name, value in _flags_in(file).items():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                advice = f"did you mean {near[0]}?" if near else f"{FULL_HELP} shows the flags"
                raise InputError(f"{file}: {name}: {value}: there is no such flag; {advice}")
            sources[name] = Source(file, value)
    return sources


@contextlib.contextmanager
def naming_file(argv: Sequence[str], known: Collection[str]) -> Iterator[None]:
    """Put the file in front of an error of the block about a flag whose value comes from it."""
    sources = read_sources(argv, known)
    try:
        yield
    except InputError as error:
        found = re.match(r"--(\w+) ?(.*?): ", str(error))
        source = sources.get(found[1]) if found else None
        if found is None or source is None:
            raise
        is_overridden = found[1] in command_line_names(argv)
        if is_overridden and found[2] != str(source.value):
            raise
        advice = ": put it in quotes" if str(error).endswith("must be text") else ""
        raise InputError(f"{source.file}: {error}{advice}") from error


def _flags_in(file: str) -> dict[Any, Any]:
    try:
        text = Path(file).read_text(encoding="utf-8")
        flags, names = yaml.safe_load(text), _names_in(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "no YAML"
        raise InputError(f"--config {file}{place}: {problem}: {_ADVICE}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--config {file}: is no text: {_ADVICE}") from error
    except OSError as error:
        raise InputError(f"--config {file or EMPTY}: {error.strerror}: name a YAML file") from error
    if not isinstance(flags, dict):
        raise InputError(f"--config {file}: holds no flags: {_ADVICE}")
    twice = next((name for name in flags if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"--config {file}: {twice} stands there twice: remove one")
    return flags


def _names_in(text: str) -> list[str]:
    """Return the names of all lines of YAML; of equal ones `safe_load` keeps the last."""
    node = yaml.compose(text, yaml.SafeLoader)
    lines = node.value if isinstance(node, yaml.MappingNode) else []
    return [str(name.value) for name, _ in lines]
