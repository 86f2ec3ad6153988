"""Which studies are analysed: CT from elsewhere than this program, as --wk_admit asks."""

import datetime
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from common.errors import InputError

FIELDS = {
    "station": "the StationName of a series matches this regular expression",
    "description": "the description of the study or of a series matches this regular expression",
    "age": "the patient is this many years old, such as 18-120",
    "days": "the study is at most this many days old",
}
MOST_CHARACTERS = 256
"""Of a header's string that is looked at."""


@dataclass(frozen=True)
class Instance:
    """An image, as a front knows it.

    Attributes:
        name: what the key is made of.
        place: where the front has it.
        num_bytes: its size; 0 where the front does not say.
    """

    uid: str
    name: str
    place: str
    num_bytes: int = 0


@dataclass(frozen=True)
class Arrival:
    """The CT images of a study that a front has now, and the headers that admission looks at.

    Attributes:
        study: hash of what identifies the study.
        instances: its CT images that are not ours.
        stations, descriptions: those of its series and of the study.
        age_years: of the patient, where the front knows it.
    """

    study: str
    instances: tuple[Instance, ...]
    stations: frozenset[str] = frozenset()
    descriptions: frozenset[str] = frozenset()
    age_years: float | None = None
    date: datetime.date | None = None


@dataclass(frozen=True)
class Rule:
    """The rules of --wk_admit, such as `station=CT1|CT2,description=head|brain,days=3`.

    All fields that it names must hold; a header that is missing does not hold. Regular expressions
    are searched for without regard to case; a comma ends a field.

    Raises:
        InputError: the text is none.
    """

    text: str = ""
    _checks: list[tuple[str, Callable[[Arrival, datetime.date], bool]]] = field(
        default_factory=list, init=False
    )

    def __post_init__(self) -> None:
        for part in filter(None, self.text.split(",")):
            name, _, value = part.strip().partition("=")
            try:
                self._checks.append((name, _check(name, value)))
            except (ValueError, re.error, KeyError) as error:
                known = "; ".join(f"{field}: {meaning}" for field, meaning in FIELDS.items())
                raise InputError(f"--wk_admit {part}: must be field=value ({known})") from error

    def refusal(self, arrival: Arrival, today: datetime.date) -> str:
        """Return the field that keeps a study out; empty for one that is admitted."""
        return next((name for name, holds in self._checks if not holds(arrival, today)), "")


def _check(name: str, value: str) -> Callable[[Arrival, datetime.date], bool]:
    if name in ("station", "description"):
        pattern = re.compile(value, re.IGNORECASE)
        return lambda one, _: any(map(pattern.search, getattr(one, f"{name}s")))
    if name == "age":
        low, high = (float(part) for part in value.split("-"))
        return lambda one, _: one.age_years is not None and (low <= one.age_years <= high)
    if name == "days":
        most = int(value)
        return lambda one, today: one.date is not None and (today - one.date).days <= most
    raise KeyError(name)


def clean(value: object) -> str:
    """Return a header's string, bounded and without control characters; empty for other values."""
    text = value[:MOST_CHARACTERS] if isinstance(value, str) else ""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def texts(values: Iterable[object]) -> frozenset[str]:
    """Return the strings among values that are not empty, cleaned."""
    return frozenset(filter(None, map(clean, values)))


def date_of(value: object) -> datetime.date | None:
    """Return a DICOM date (DA), or None where it is none."""
    try:
        return datetime.datetime.strptime(clean(value), "%Y%m%d").date()
    except ValueError:
        return None


def age_of(birth: object, date: datetime.date | None, age: object = "") -> float | None:
    """Return the years of a DICOM age (AS), or those from birth (DA) to the date."""
    match = re.fullmatch(r"(\d{3})([DWMY])", clean(age))
    if match:
        return int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match[2]]
    born = date_of(birth)
    return None if born is None or date is None else (date - born).days / 365.25
