"""Scanner, patient and contrast medium as a header tells them, for subgroups.

Nothing here rejects a file: what is malformed or implausible is unknown. No name and no date is
kept, and of an age only its decade.
"""

import re
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from common.dicom import elements
from common.dicom.contrast import ELEMENTS, is_contrast_given
from common.dicom.vocabulary import WORDS, any_of, plain

OLDEST_YEARS = 110
"""Nobody is scanned at a greater age: dates made up by anonymizers lead there."""
LAST_DECADE = 90
"""Of all ages above 89, which are as good as a name (HIPAA, 45 CFR 164.514(b)(2)(i)(C))."""

_MAX_NAME = 64
_AGE = re.compile(r"(\d{1,4}(?:\.\d+)?) ?(?:([DWMY])[A-Z]*)?")
_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0, None: 1.0}
_DATE = re.compile(r"(1[89]|20)\d{6}")
_SEXES = {sex: any_of(words) for sex, words in WORDS["sex"].items()}


_READ = (
    "SpecificCharacterSet", "SpacingBetweenSlices", "Manufacturer", "ManufacturerModelName",
    "PatientAge", "PatientBirthDate", "StudyDate", "PatientSex", *ELEMENTS,
)  # fmt: skip
_MOST_KNOWN = 1024
_known: dict[tuple[Any, ...], dict[str, Any]] = {}
"""Results by what the elements hold, which is the same in most slices of a series."""


def describe(dataset: Dataset, frame: int) -> dict[str, Any]:
    """Return the fields of a `SliceHeader` that only describe a slice, each None where unknown.

    They are spacing_between_slices in mm as written, manufacturer and model in capitals,
    age_decade (0, 10, ... 90), sex (M, F or O), and contrast: whether medium was given.
    """
    values = elements.raw_values(dataset, _READ)
    if values is None:
        return _read(dataset, frame)
    if values not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[values] = _read(dataset, frame)
    return _known[values]


def _read(dataset: Dataset, frame: int) -> dict[str, Any]:
    try:
        contrast = is_contrast_given(dataset, frame)
    except Exception:  # see `_value`
        contrast = None
    return {
        "spacing_between_slices": _number(dataset, "SpacingBetweenSlices", frame),
        "manufacturer": _name(dataset, "Manufacturer"),
        "model": _name(dataset, "ManufacturerModelName"),
        "age_decade": _age_decade(dataset),
        "sex": _sex(_text(dataset, "PatientSex")),
        "contrast": contrast,
    }


def _value(dataset: Dataset, keyword: str, frame: int = 0) -> Any:
    """Return the first value of an element, None where there is none or pydicom can't convert it.

    It raises errors of many kinds for values that their VR does not allow.
    """
    try:
        value = elements.find(dataset, keyword, frame)
    except Exception:
        return None
    if isinstance(value, tuple | list | MultiValue):
        return value[0] if len(value) else None
    return value


def _text(dataset: Dataset, keyword: str) -> str:
    """Return an element as text in capitals; empty where it is a sequence, bytes or a name."""
    value = _value(dataset, keyword)
    text = str(value) if isinstance(value, str | int | float) else ""
    return " ".join(text.replace("\0", " ").split()).upper()


def _number(dataset: Dataset, keyword: str, frame: int) -> float | None:
    value = _value(dataset, keyword, frame)
    return float(value) if isinstance(value, int | float) else None


def _name(dataset: Dataset, keyword: str) -> str | None:
    text = _text(dataset, keyword)[:_MAX_NAME].rstrip()
    return text if any(map(str.isalpha, text)) and text.isprintable() else None


def _age_decade(dataset: Dataset) -> int | None:
    """Return the decade of PatientAge, or of the age at the study by the date of birth."""
    found = _AGE.fullmatch(_text(dataset, "PatientAge"))
    years = float(found[1]) / _PER_YEAR[found[2]] if found else None
    if years is None or years > OLDEST_YEARS:
        years = _years_between(_text(dataset, "PatientBirthDate"), _text(dataset, "StudyDate"))
    if years is None or not 0 <= years <= OLDEST_YEARS:
        return None
    return min(int(years // 10) * 10, LAST_DECADE)


def _years_between(birth: str, study: str) -> float | None:
    """Return the whole years between two DA, also in the old form with dots."""
    dates = [text.replace(".", "") for text in (birth, study)]
    if not all(map(_DATE.fullmatch, dates)):
        return None
    return (int(dates[1]) - int(dates[0])) // 10000


def _sex(text: str) -> str | None:
    word = plain(text)
    return next((sex for sex, words in _SEXES.items() if re.fullmatch(words, word)), None)
