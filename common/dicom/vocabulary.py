"""The words of headers (`header_words.toml`), and how texts are compared with them."""

import functools
import re
import tomllib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from common.dicom import elements

MAX_TEXT = 256
"""Letters of a text that are looked at; DICOM allows 64."""
WORDS: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("header_words.toml").read_text(encoding="utf-8")
)

_LETTERS = str.maketrans({"Ø": "O", "Ł": "L", "Æ": "AE", "Œ": "OE", "Đ": "D"})
_ABBREVIATION = re.compile(r"(?<![A-Z])(?:[A-Z]\.)+[A-Z]?(?![A-Z])")
_BLANK = re.compile(r"[^A-Z0-9/&+.\-]|(?<!\d)\.|\.(?!\d)|(?<=[A-Z])-(?=[A-Z])")


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return an element as `plain` text; a backslash, which parts values, counts as a slash."""
    return plain("/".join(elements.texts(dataset, keyword)))


@functools.lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return the start of a text in capitals from A to Z, with single blanks.

    Accents are dropped, and so are the dots of abbreviations and all signs but / & + and -.
    """
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", _as_written(text[:MAX_TEXT])).upper()
    text = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = _ABBREVIATION.sub(lambda found: found[0].replace(".", ""), text)
    return " ".join(_BLANK.sub(" ", text).split())


def any_of(*lists: Iterable[str]) -> str:
    """Return a regular expression for any phrase of some lists, by whole words.

    Longer phrases are tried first; a digit ends a word, too.
    """
    phrases = sorted({phrase for words in lists for phrase in words}, key=len, reverse=True)
    return f"(?:{'|'.join(map(_expression, phrases))})"


@functools.lru_cache(maxsize=4096)
def is_in(text: str, expression: str) -> bool:
    """Return whether a `plain` text has what `any_of` looks for."""
    return re.search(expression, text) is not None


def _expression(phrase: str) -> str:
    escaped = re.escape(phrase).replace(r"\*", "[A-Z]*").replace(r"\ ", " ").replace("/", " ?/ ?")
    before, after = phrase[0].isalpha(), phrase[-1].isalpha() or phrase[-1] == "*"
    return f"{'(?<![A-Z])' * before}{escaped}{'(?![A-Z])' * after}"


def _as_written(text: str) -> str:
    """Return a text that was read as Latin-1 for want of a character set, and is UTF-8."""
    try:
        return text if text.isascii() else text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
