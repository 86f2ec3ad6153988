"""The keys of metrics.json, as docs/reference/columns.md lists them."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import yaml

from docs.generate_reference import FOLDER
from rsna_task import LABELS


def leaves(value: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys, one for all labels and `[]` for the elements of a list of objects."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, f"{key}.{'<label>' if name in LABELS else name}".strip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from leaves(item, f"{key}[]")
    else:
        yield key


def listed(*sections: str) -> list[str]:
    """The patterns of the sections, `[` made literal."""
    meanings = yaml.safe_load((FOLDER / "meanings.yaml").read_text("utf-8"))
    return [key.replace("[]", "[[]]") for section in sections for key in meanings[section]]


def check_keys(*metrics: dict[str, Any], several: bool = False) -> None:
    """Every key is listed; every key that is listed is there."""
    sections = ["metrics.json", *["metrics.json of several predictors"] * several]
    found = {key for each in metrics for key in leaves(each)}
    patterns = listed(*sections)
    unlisted = {key for key in found if not any(fnmatchcase(key, each) for each in patterns)}
    assert not unlisted, f"docs/reference/meanings.yaml lacks {sorted(unlisted)}"
    own = listed(sections[-1])
    if not several:
        absent = [each for each in own if not any(fnmatchcase(key, each) for key in found)]
        assert not absent, f"docs/reference/meanings.yaml has {absent}: no such key"
