"""Base of all sources: those of this task's labels."""

from collections.abc import Callable, Sequence

from common.preparation import Source
from rsna_task import LABELS


class AbstractSource(Source):
    """A source whose labels are those of the task."""

    label_names: Sequence[str] = LABELS


def ends_in(*suffixes: str) -> Callable[[str], bool]:
    """Return whether a name has one of the endings, given in lower case; its own case is free."""
    return lambda name: name.lower().endswith(suffixes)
