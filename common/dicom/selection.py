"""Sort slices by their header: axial or not, head or not, with contrast medium or not.

Headers are filled in by people and by scanners' habits, so a slice is left out only where
something speaks against it, never because an element is absent. Texts are matched by whole words
and never quoted: what a site writes there can hold names. Kernels are ignored: bone
reconstructions are in Hounsfield units too.
"""

import math
import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

from common.dicom import elements
from common.dicom.geometry import LARGEST_TILT_DEG, slice_normal

MAX_TEXT = 256
"""Letters of a text that are looked at; DICOM allows 64."""
_NAMED_PLANE_DEG = 20.0

_SCREEN = ("SCREEN SAVE", "SCREEN_SAVE", "SCREENSHOT", "DOSE_INFO", "DOSE INFO")
# Siemens writes CT_SOM5 TOP for a topogram, CT_SOM5 PROT for the page with the doses.
_SIEMENS = re.compile(r"CT_SOM\d+ (TOP|PROT)")
_DERIVED = {
    "MIP": "a projection",
    "MINIP": "a projection",
    "MAX_IP": "a projection",
    "MIN_IP": "a projection",
    "PROJECTION IMAGE": "a projection",
    "VRT": "a rendering",
    "SSD": "a rendering",
    "VOLUME_RENDER": "a rendering",
    "VOLUME_RENDERED": "a rendering",
    "SUBTRACT": "a subtraction",
    "SUBTRACTION": "a subtraction",
    "PERFUSION": "a perfusion map or a slice of a perfusion series",
    "CBF": "a perfusion map",
    "CBV": "a perfusion map",
    "MTT": "a perfusion map",
    "TTP": "a perfusion map",
    "TMAX": "a perfusion map",
    "RCBF": "a perfusion map",
    "IODINE": "an iodine map",
}


def _words(*patterns: str) -> re.Pattern[str]:
    """Return a pattern that finds any of these as whole words; a digit ends a word."""
    return re.compile(rf"(?<![A-Z])(?:{'|'.join(patterns)})(?![A-Z])")


_SCOUT = _words("SCOUTS?", "TOPOGRAMS?", "LOCALI[SZ]ERS?", "SURVIEW", "SCANOGRAM", "SCANO")
# English, and what German, French, Spanish and Italian consoles write.
_BOTH = _words(
    r"W ?(?:/|AND|&|\+) ?W ?/? ?O(?:UT)?", r"W/?WO", "WITH (?:AND|&) WITHOUT", "SENZA E CON"
)
_WITHOUT = _words(
    r"W ?/ ?O(?:UT)?", "WO", "WITHOUT", r"NON[ _-]?(?:CONTRAST|CON|CE|ENHANCED|IONIC)", "NC",
    "NCCT", "NECT", "UNENHANCED", r"PRE[ _-]?(?:CONTRAST|CON|KM)", "PLAIN", "NATI[VF]E?", "OHNE",
    "SANS", "SIN", "SENZA", "BASALE?", r"C ?-(?= |$|\))", "NO CONTRAST",
)  # fmt: skip
_WITH = _words(
    r"C ?\+", r"\+ ?C", r"POST[ _-]?(?:CONTRAST|CON|KM|C)", "CONTRAST(?:E|O|ED)?", "ENHANCED",
    r"W ?/ ?C(?:ON)?", "CECT", "CE", "KM", "CTA", "CTV", "CTP", "ANGIO(?:GRAPH[YI]E?|GRAFIA)?",
    "VENOGRA(?:M|PHY)", "PERFUSION", "ARTERIAL", "VENOUS", "BOLUS", "SMART ?PREP",
    r"(?:(?<=\d)|(?<=\d ))(?:CC|ML)",
)  # fmt: skip
_NO_AGENT = re.compile(
    r"[\W\d_]*|NO|NONE?|N/?A|NIL|NULL|FALSE|UNKNOWN|KEINE?S?|OHNE|WITHOUT.*|W/?O.*"
)
_NOT_IN_VEINS = re.compile(r"(?:PER )?(?:ORAL(?:LY)?|RECTAL(?:LY)?|WATER|AIR)")
_HEAD = _words(
    "HEAD", "BRAIN", "SKULL", "CRANI(?:UM|AL|O|E)", "CEREBR(?:AL|UM|O)", "CEREBRALE", "NEURO",
    "ENCEPHAL(?:E|O|ON)", "ENCEFALO", "CCT", "KOPF", "SCHAEDEL", "SCHÄDEL", "HIRN", "TETE", "TÊTE",
    "CABEZA", "TESTA", "CABE[CÇ]A", "STROKE", "HEADNECK", "HEADBRAIN", "ORBITS?", "SINUS(?:ES)?",
    "FACE", "FACIAL", "TEMPORAL",
)  # fmt: skip
_ELSEWHERE = _words(
    "CHEST", "THORAX", "TORAX", "TORACE", "LUNGS?", "PULMONARY", "HEART", "CARDIAC", "CORONARY",
    "AORTA", "ABD(?:OMEN|OMINAL|O)?", "ABDOMENPELVIS", "ADDOME", "PELVIS", "BECKEN", "BACINO",
    "LIVER", "PANCREAS", "KIDNEYS?", "RENAL", "UROGRA(?:M|PHY)", "KUB", "COLON", "HIPS?", "KNEES?",
    "SHOULDERS?", "ELBOWS?", "WRISTS?", "ANKLES?", "HANDS?", "FOOT", "FEET", "LEGS?", "ARMS?",
    "FEMUR", "TIBIA", "EXTREMIT(?:Y|IES)", "[CTL]?SPINE", "HWS", "BWS", "LWS",
    "WIRBELSAEULE", "NECK", "HALS", "COLLO", "CUELLO", "WHOLEBODY",
)  # fmt: skip


def why_left_out(
    dataset: Dataset, frame: int, orientation: Sequence[float] | None
) -> tuple[str, str] | None:
    """Return status and reason where a slice is no axial slice of a head without contrast medium.

    Args:
        dataset: the header.
        frame: number of the frame in it.
        orientation: row and column of the slice, or None where they are unknown.

    Returns:
        A key of `rejection.STATUSES` and a sentence; None where nothing speaks against the slice.
    """
    series = _text(dataset, "SeriesDescription")
    return (
        _other_image(dataset, frame, series)
        or _other_plane(orientation)
        or _other_region(dataset, series)
        or _contrast(dataset, frame, series)
    )


def _other_image(dataset: Dataset, frame: int, series: str) -> tuple[str, str] | None:
    """Return why an image is no measured slice at all."""
    kinds = {value.upper() for value in elements.texts(dataset, "ImageType")}
    kinds |= {value.upper() for value in elements.texts(dataset, "FrameType", frame)}
    for kind in sorted(kinds):
        siemens = _SIEMENS.fullmatch(kind)
        if "LOCALIZER" in kind or (siemens and siemens[1] == "TOP"):
            return "localizer", "ImageType says localizer"
        if siemens or kind in _SCREEN:
            return "not_ct", "ImageType says that it is a screen shot or a report"
        if kind in _DERIVED:
            return "derived", f"ImageType says {kind}: {_DERIVED[kind]}"
    if _SCOUT.search(series):
        return "localizer", "SeriesDescription says scout, topogram or the like"
    return None


def _other_plane(orientation: Sequence[float] | None) -> tuple[str, str] | None:
    """Return why a slice is not axial, by ImageOrientationPatient."""
    if orientation is None:
        return None
    cosines = [abs(float(value)) for value in slice_normal(orientation)]
    degrees = [math.degrees(math.acos(min(1.0, cosine))) for cosine in cosines]
    if degrees[2] <= LARGEST_TILT_DEG:
        return None
    names = ("a sagittal", "a coronal", "an axial")
    nearest = degrees.index(min(degrees))
    name = names[nearest] if degrees[nearest] <= _NAMED_PLANE_DEG else "an oblique"
    return "not_axial", f"{name} slice, {degrees[2]:.0f} degrees from axial"


def _other_region(dataset: Dataset, series: str) -> tuple[str, str] | None:
    """Return why a slice is not of a head.

    SeriesDescription decides where it names a part of the body: BodyPartExamined is often that of
    the study. Otherwise another part has to be named, and the head nowhere.
    """
    if _HEAD.search(series):
        return None
    if _ELSEWHERE.search(series):
        return "not_head", "SeriesDescription names another part of the body, and not the head"
    keywords = ("BodyPartExamined", "ProtocolName", "StudyDescription")
    texts = {keyword: _text(dataset, keyword) for keyword in keywords}
    if any(_HEAD.search(text) for text in texts.values()):
        return None
    named = [keyword for keyword, text in texts.items() if _ELSEWHERE.search(text)]
    if not named:
        return None
    return "not_head", f"{named[0]} names another part of the body, and nothing names the head"


def _contrast(dataset: Dataset, frame: int, series: str) -> tuple[str, str] | None:
    """Return why contrast medium is to be expected in a slice.

    SeriesDescription decides where it names contrast or its absence, as scanners note the agent of
    an examination in the series before it, too. StudyDescription is not consulted.
    """
    described = _BOTH.sub(" ", series)
    if _WITHOUT.search(described):
        return None
    if _WITH.search(described):
        return "contrast", "SeriesDescription says contrast medium, angiography or perfusion"
    if "NO" in elements.texts(dataset, "ContrastBolusAgentAdministered", frame):
        return None
    agent = _text(dataset, "ContrastBolusAgent")
    if agent and not _NO_AGENT.fullmatch(agent) and not _NOT_IN_VEINS.fullmatch(agent):
        return "contrast", "ContrastBolusAgent names a contrast medium"
    if not agent and elements.find(dataset, "ContrastBolusAgentSequence", frame):
        return "contrast", "ContrastBolusAgentSequence names a contrast medium"
    return None


def _text(dataset: Dataset, keyword: str) -> str:
    """Return the start of an element in upper case with single spaces; ^ and _ count as such."""
    text = elements.text(dataset, keyword)[:MAX_TEXT]
    return " ".join(re.sub(r"[\^_]", " ", text).upper().split())
