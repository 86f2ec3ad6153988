"""Reads flags declared as dataclasses, and the rules that their values must keep.

A group of flags is a frozen dataclass: a field is a flag, its docstring the help, and the rules
stand in `__post_init__`, whichever way a value came in.
"""

import copy
import difflib
import functools
import itertools
import math
import re
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from common.cli import shown_name
from common.errors import InputError
from common.files import parse_yaml
from flags.help import FULL_HELP, HELP, prepare_help


def parse_flags(
    description: str,
    groups: Sequence[type],
    argv: Sequence[str] | None = None,
    passed_over: Set[str] = frozenset(),
) -> tuple[dict[str, Any], frozenset[str]]:
    """Read flags and --config files.

    Args:
        groups: the dataclasses whose fields are the script's flags.
        passed_over: names that a --config file may hold although the script has no such flag.

    Returns:
        The value of every flag, and the names of those that were given.

    Raises:
        InputError: an unknown flag, or a value that is not of the flag's type.
    """
    argv = _config_first(sys.argv[1:] if argv is None else argv)
    parser = build_parser(description, tuple(groups), frozenset(passed_over))
    if not set(HELP).isdisjoint(argv):
        prepare_help(parser, FULL_HELP in argv)
    rules = _rules(groups)
    given = _parse(parser, argv, rules)
    values = copy.deepcopy(_defaults(parser)) | given
    for name, kind in _types(groups).items():
        value = values[name]
        if value is None and type(None) not in get_args(kind):
            raise InputError(f"--{name} null: must be {rules[name]}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"--{name} {value}: must be a finite number")
    return values, frozenset(name for name, value in given.items() if value is not None)


def require(group: Any, name: str, holds: object, rule: str) -> None:
    """Raise InputError with the flag, its value and the rule, unless the rule holds."""
    if not holds:
        value = getattr(group, name)
        raise InputError(f"--{name} {EMPTY if value == '' else value}: must be {rule}")


def at_least(group: Any, lowest: float, *names: str) -> None:
    """Require that the named flags are `auto`, or not below `lowest`."""
    for name in names:
        value = getattr(group, name)
        require(group, name, value == AUTO or value >= lowest, f"at least {lowest}")


def between(group: Any, lowest: float, highest: float, *names: str) -> None:
    """Require that the named flags are within both bounds, these included."""
    for name in names:
        inside = lowest <= getattr(group, name) <= highest
        require(group, name, inside, f"from {lowest} to {highest}")


def above(group: Any, lowest: float, *names: str) -> None:
    """Require that the named flags are greater than `lowest`."""
    for name in names:
        require(group, name, getattr(group, name) > lowest, f"greater than {lowest}")


def matches(group: Any, pattern: str, rule: str, *names: str) -> None:
    """Require that the named flags, where they have a value, match the whole pattern."""
    for name in names:
        value = getattr(group, name)
        require(group, name, value is None or re.fullmatch(pattern, value), rule)


def names_folder(group: Any, *names: str) -> None:
    """Require that the named flags, where they have a value, can be names of folders."""
    rule = "letters, digits, _, . and - only: it names a folder"
    matches(group, r"[A-Za-z0-9][A-Za-z0-9_.-]*", rule, *names)


def _config_first(argv: Sequence[str]) -> list[str]:
    """The arguments with --config in front: it gives defaults, which flags win over anywhere."""
    files: list[str] = []
    others: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--config":
            files += [argument, *itertools.islice(arguments, 1)]
        else:
            (files if argument.startswith("--config=") else others).append(argument)
    return files + others


@functools.cache
def build_parser(description: str, groups: tuple[type, ...], passed_over: frozenset[str]) -> Any:
    """Built once for each script: reading the docstrings of the flags takes 0.2 s."""
    from jsonargparse import ArgumentParser, set_loader, set_parsing_settings

    def load_own(text: str) -> Any:
        """One file serves all scripts: the flags of other scripts in it are passed over."""
        value = parse_yaml(text)
        if isinstance(value, dict):
            return {name: item for name, item in value.items() if name not in passed_over}
        return value

    mode = f"own_flags_{hash(passed_over)}"
    set_loader(mode, load_own, exceptions=(yaml.YAMLError,))
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        description=description, exit_on_error=False, default_env=False, parser_mode=mode
    )
    parser.add_argument("--config", action="config", help="YAML file whose values become defaults.")
    parser.add_argument(FULL_HELP, action="help", help="Show all flags and exit.")
    for group in groups:
        parser.add_class_arguments(group, as_group=True)
    return parser


@functools.cache
def _defaults(parser: Any) -> dict[str, Any]:
    """Made once: that takes longer than reading what was given."""
    return dict(parser.get_defaults(skip_validation=True).as_dict())


def _parse(parser: Any, argv: list[str], rules: Mapping[str, str]) -> dict[str, Any]:
    """Return the flags that were given; null where a file says so."""
    from argparse import ArgumentError

    prints_all = any(word.startswith("--print_config") for word in argv)  # and exits
    try:
        values = parser.parse_args(argv, defaults=prints_all).as_dict()
    except ArgumentError as error:
        message = str(error)
        unknown = re.match(r"unrecognized arguments: --([\w-]+)", message, re.IGNORECASE)
        if unknown:
            message = _nearest(unknown[1], [option[2:] for option in parser._option_string_actions])
        raise InputError(_flag_message(message, rules)) from error
    values.pop("config", None)
    return dict(values)


def _nearest(name: str, known: Sequence[str]) -> str:
    """Return the message for a flag that there is not, with the known flag nearest to it."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    advice = f"did you mean --{near[0]}?" if near else f"{FULL_HELP} shows those there are"
    return f"--{name} is no flag of {shown_name()}: {advice}"


_LISTS = {int: "[200,300]", float: "[0.5,1.0]", str: "[a,b]"}


def _types(groups: Sequence[type]) -> dict[str, Any]:
    return {name: kind for group in groups for name, kind in get_type_hints(group).items()}


def _rules(groups: Sequence[type]) -> dict[str, str]:
    """Return what the value of each flag must be, by its type."""
    return {name: _rule_of(kind) for name, kind in _types(groups).items()}


def _rule_of(kind: Any) -> str:
    """Return a type in words; None, which is a flag left out, goes without saying."""
    kinds = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Literal:
        words = [str(word) for word in kinds]
        return " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"
    if get_origin(kind) is list:
        return f"a list such as {_LISTS[kinds[0]]}"
    if kinds:
        return " or ".join(map(_rule_of, kinds))
    return {int: "a whole number", float: "a number", str: "text"}[kind]


def _flag_message(message: str, rules: Mapping[str, str]) -> str:
    """Return a message of the parser as flag, value and rule."""
    message = " ".join(message.split())
    key = re.search(r'Parser key "(\w+)"', message)
    # Of a union, each kind says what it was given: the first is enough.
    value = re.search(r"(?:Got|Given) value: ?(.*?)( - Expected .*)?$", message)
    if key and value and key[1] in rules:
        return f"--{key[1]} {value[1] or EMPTY}: must be {rules[key[1]]}"
    missing = re.match(r"argument --(\w+): expected one argument", message)
    if missing:
        return f"--{missing[1]}: needs a value: {rules.get(missing[1], 'a file')}"
    unknown = re.match(r"unrecognized arguments: (.*)", message, re.IGNORECASE)
    if unknown:
        return f"{unknown[1]}: is no flag; a flag begins with -- and takes one value"
    return re.sub(r'Parser key "(\w+)"', r"--\1", message)


EMPTY = '""'
Switch = Literal[0, 1]
AUTO: Any = "auto"
"""Value of a flag that `flags.automatic` chooses by the machine, in `Config.resolved`."""
if TYPE_CHECKING:  # the types of what is chosen
    AutoSwitch = Switch
    AutoCount = int
else:
    AutoSwitch = Literal["auto", 0, 1]
    AutoCount = int | Literal["auto"]


def _known(group: Any, name: str, known: Sequence[str]) -> None:
    require(group, name, getattr(group, name) in known, f"one of {', '.join(known)}")


def ids_in(name: str, value: str) -> frozenset[str]:
    """Return the ids that a flag gives: in a file, or separated by commas."""
    path = Path(value)
    if path.suffix.lower() in (".csv", ".tsv", ".txt") and not path.is_file():
        raise InputError(f"--{name} {value}: no such file")
    text = path.read_text("utf-8-sig") if path.is_file() else value
    return frozenset(filter(None, (part.strip() for part in re.split(r"[,\n]", text))))
