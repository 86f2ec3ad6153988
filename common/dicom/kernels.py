"""Sharp reconstructions (bone, lung, edge), by the names of kernels and by descriptions."""

import functools
import re
from collections.abc import Iterator

from common.dicom.vocabulary import WORDS, any_of, plain

_W = WORDS["kernel"]
_SHARP, _SOFT = any_of(_W["sharp"]), any_of(_W["soft"])
_SHARP_NAME = any_of(_W["sharp"], _W["sharp_names"])
_SOFT_NAME = any_of(_W["soft"], _W["soft_names"])


@functools.lru_cache(maxsize=4096)
def is_sharp(kernel: str, description: str) -> bool | None:
    """Return whether a series was reconstructed with a sharp kernel; None where nothing says so.

    Args:
        kernel: ConvolutionKernel, of several values the first that says something counts.
        description: SeriesDescription, which counts where the kernel says nothing.
    """
    for name in map(plain, kernel.split("\\")):
        found = _by_name(name)
        if found is not None:
            return found
    text = plain(description)
    if re.search(_SHARP, text):
        return True
    numbers = next(_by_number(text, "text"), None)
    return False if numbers is None and re.search(_SOFT, text) else numbers


def _by_name(kernel: str) -> bool | None:
    letters = kernel.strip("+ ")
    if letters in _W["letters"]["sharp"] or re.search(_SHARP_NAME, kernel):
        return True
    if letters in _W["letters"]["soft"] or re.search(_SOFT_NAME, kernel):
        return False
    return next(_by_number(kernel, "kernel"), None)


def _by_number(text: str, key: str) -> Iterator[bool]:
    """Yield whether the kernels with a number in a text are sharp, where that is known."""
    for entry in _W["numbers"]:
        for found in (
            re.finditer(rf"(?<![A-Z]){entry[key]}(?![A-Z\d])", text) if key in entry else ()
        ):
            number = int(next(filter(None, found.groups())))
            if _is_within(number, entry["sharp"]):
                yield True
            elif _is_within(number, entry["soft"]):
                yield False


def _is_within(number: int, ranges: list[list[int]]) -> bool:
    return any(low <= number <= high for low, high in ranges)
