"""Findings of a check of a dataset."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

NUM_EXAMPLES = 3

RUN_AGAIN = "run preprocessing.py again as it was run"
RESTORE = "delete these files of store/ and run preprocessing.py again as it was run"
CORRECT_LABELS = "correct the label file, then run preprocessing.py again"


@dataclass(frozen=True)
class Finding:
    """One kind of fault, with how often it is there.

    Attributes:
        kind: a short name that stays the same.
        what: the things at fault, in the plural.
        count: how many of them.
        examples: the first image ids or file names, never ids of patients.
        advice: what the user does about it.
    """

    kind: str
    what: str
    count: int
    examples: tuple[str, ...]
    advice: str

    def line(self) -> str:
        """Return the finding in one line: what, how many, the first ones, what to do."""
        first = f" (first {', '.join(self.examples)})" if self.examples else ""
        return f"{self.what}: {self.count}{first}: {self.advice}"


def finding(kind: str, what: str, at_fault: Iterable[Any], advice: str) -> list[Finding]:
    """Return a finding about image ids or file names; an empty list where none is at fault.

    Names that are unknown, or must not be shown, are None.
    """
    names = list(at_fault)
    if not names:
        return []
    known = (str(name) for name in names if not pd.isna(name))
    examples = tuple(name for name, _ in zip(known, range(NUM_EXAMPLES)))
    return [Finding(kind, what, len(names), examples, advice)]
