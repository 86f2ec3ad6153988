"""Contrast medium, by all elements that speak of it; negation is handled here alone."""

import functools
import re
from typing import Literal

from pydicom.dataset import Dataset

from common.dicom import elements
from common.dicom.vocabulary import WORDS, any_of, text_of

Reading = Literal["with", "without", "both"]

_TEXTS = ("SeriesDescription", "ProtocolName", "StudyDescription")
ELEMENTS = (
    *_TEXTS, "ContrastBolusAgent", "ContrastBolusRoute", "ContrastBolusAgentAdministered",
    "ContrastBolusAgentSequence", "ContrastBolusVolume",
)  # fmt: skip
"""All that is read here."""

_W, _AGENT = WORDS["contrast"], WORDS["agent"]
_WEIGHTS: dict[str, int] = _W["weights"]

# Expressions, which `re` compiles and keeps when they are first used: that takes 0.1 s.
_NOUN, _MEDIUM = any_of(_W["medium"], _W["short"]), any_of(_W["medium"])
_BETWEEN, _SHORT = any_of(_W["between"]), any_of(_W["short"])
_WITH, _WITHOUT, _NOT = any_of(_W["with"]), any_of(_W["without"]), any_of(_W["not"])
_ML, _NOTHING, _AND = any_of(_W["milliliters"]), any_of(_W["nothing"]), f" ?{any_of(_W['and'])} ?"
# The words of a negation: WITHOUT [ANY IV CONTRAST]. The loops are possessive (*+): trying other
# ways through a long text would take for ever.
_REST = f"(?: ?{any_of(_W['between'], _W['medium'], _W['short'])})*+"
_IGNORED, _PHASE = any_of(_W["ignored"]), any_of(_W["phase"])
_BOTH = f"{any_of(_W['both'])}|{_WITH}{_AND}{_WITHOUT}|{_WITHOUT}{_AND}{_WITH}"
_NEGATED = (
    f"{_WITHOUT}{_REST}"
    f"|{_NOT}(?: {_BETWEEN})* ?{_NOUN}{_REST}"
    f"|{_MEDIUM}(?: {_BETWEEN})* (?:{_NOTHING}|(?:{_NOT}|0)$)"
    f"|{any_of(_W['plain'])}"
    f"|{_NOUN} ?-(?=[ /]|$)|(?:^| )-{_NOUN}(?=[ /]|$)"
    rf"|(?<![\d.])0+(?:\.0+)? ?{_ML}{_REST}"
)
_GIVEN = rf"{_MEDIUM}|{_WITH} ?{_SHORT}|{_NOUN} ?\+(?![A-Z\d])|\+ ?{_NOUN}|\d ?{_ML}"
_BESIDE_NOTHING = any_of(
    _AGENT["given"], *(_W[name] for name in ("nothing", "between", "medium", "short"))
)
_NO_AGENT = f"(?:{_NOTHING}|{_NOT}|{_WITHOUT})(?: ?{_BESIDE_NOTHING})*+"
_BESIDE_ORAL = any_of(_AGENT["not_in_veins"], _W["between"], _W["medium"])
_NOT_IN_VEINS = rf"{any_of(_AGENT['not_in_veins'])}(?: ?(?:{_BESIDE_ORAL}|[\d.]+ ?{_ML}?))*+"


@functools.lru_cache(maxsize=4096)
def read_contrast(text: str) -> Reading | None:
    """Return what a `plain` text says of contrast medium; None where it says nothing."""
    text, num_both = re.subn(_BOTH, " ; ", re.sub(_IGNORED, " ; ", text))
    text, num_negated = re.subn(_NEGATED, " ; ", text)
    if num_both or (num_negated and re.search(_GIVEN, text)):
        return "both"
    if num_negated:
        return "without"
    return "with" if re.search(_GIVEN, text) or re.search(_PHASE, text) else None


def why_contrast(dataset: Dataset, frame: int) -> str | None:
    """Return why contrast medium is to be expected in a slice; None where it is not."""
    votes = _votes(dataset, frame)
    if sum(weight for weight, _ in votes) < _WEIGHTS["enough"]:
        return None
    return max(votes, key=lambda vote: vote[0])[1]


def is_contrast_given(dataset: Dataset, frame: int) -> bool | None:
    """Return whether contrast medium is to be expected; None where nothing decides it."""
    total = sum(weight for weight, _ in _votes(dataset, frame))
    return True if total >= _WEIGHTS["enough"] else False if total < 0 else None


def _votes(dataset: Dataset, frame: int) -> list[tuple[int, str]]:
    """Return the votes of all elements that speak of contrast medium, each with a reason."""
    votes: list[tuple[int, str]] = []
    for keyword in _TEXTS:
        reading, weight = read_contrast(text_of(dataset, keyword)), _WEIGHTS[keyword]
        if reading == "both" and keyword == "SeriesDescription":
            reason = f"{keyword} says with and without contrast medium"
            votes.append((_WEIGHTS["both"], reason))
        elif reading in ("with", "without"):
            reason = f"{keyword} says contrast medium, angiography or perfusion"
            votes.append((weight if reading == "with" else -weight, reason))
    return votes + _bolus_votes(dataset, frame)


def _bolus_votes(dataset: Dataset, frame: int) -> list[tuple[int, str]]:
    """Return the votes of the elements for contrast medium: agent, volume and route."""
    agent, weight = text_of(dataset, "ContrastBolusAgent"), _WEIGHTS["ContrastBolusAgent"]
    route = text_of(dataset, "ContrastBolusRoute")
    if "NO" in elements.texts(dataset, "ContrastBolusAgentAdministered", frame):
        return [(-weight, "ContrastBolusAgentAdministered is NO")]
    if any(re.fullmatch(_NOT_IN_VEINS, text) for text in (agent, route)):
        return []
    votes = []
    if _is_none(agent):
        votes.append((-weight, "ContrastBolusAgent says none"))
    elif re.search("[A-Z]", agent):
        votes.append((weight, "ContrastBolusAgent names a contrast medium"))
    elif not agent and elements.find(dataset, "ContrastBolusAgentSequence", frame):
        votes.append((weight, "ContrastBolusAgentSequence names a contrast medium"))
    volume = elements.first_number(dataset, "ContrastBolusVolume")
    if volume is not None and volume >= 0:
        weight = _WEIGHTS["ContrastBolusVolume"]
        votes.append((weight if volume else -weight, "ContrastBolusVolume is above 0 ml"))
    return votes


def _is_none(agent: str) -> bool:
    """Return whether a `plain` ContrastBolusAgent says that nothing was given."""
    is_zero = re.fullmatch(r"[0.]+", agent) is not None
    return is_zero or bool(re.fullmatch(_NO_AGENT, agent)) or read_contrast(agent) == "without"
