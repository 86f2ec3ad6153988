"""The words of headers in thirteen languages, with the meaning that people gave them by hand."""

import csv
import io
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from common.dicom import read_headers
from common.dicom.contrast import read_contrast
from common.dicom.selection import why_left_out
from common.dicom.vocabulary import WORDS, any_of, is_in, plain, text_of

TABLE = Path(__file__).parents[2] / "saved" / "header_words.csv"
LANGUAGES = {"en", "de", "fr", "es", "pt", "it", "nl", "sv", "da", "no", "pl", "cs", "tr"}
HEAD, ELSEWHERE = (any_of(WORDS["region"][name]) for name in ("head", "elsewhere"))
LOCALIZER = any_of(WORDS["localizer"]["words"])


class Phrase(NamedTuple):
    """One row of the table; contrast and region are empty where the text does not name them."""

    language: str
    text: str
    contrast: str
    region: str
    localizer: str


PHRASES = [Phrase(**row) for row in csv.DictReader(TABLE.read_text("utf-8").splitlines())]


def status(**tags: object) -> str:
    found = left_out(**tags)
    return found[0] if found else "ok"


def left_out(**tags: object) -> tuple[str, str] | None:
    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return why_left_out(dataset, 0, None)


def test_the_table_has_all_languages_and_meanings() -> None:
    assert len(PHRASES) >= 150
    assert len({phrase.text for phrase in PHRASES}) >= len(PHRASES) - 1  # Hals, nl and no
    for language in LANGUAGES:
        found = {phrase.contrast for phrase in PHRASES if phrase.language == language}
        assert found >= {"with", "without"}, language
    assert {phrase.language for phrase in PHRASES} == LANGUAGES


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: f"{phrase.language}-{phrase.text}")
def test_a_phrase_means_what_the_table_says(phrase: Phrase) -> None:
    text = plain(phrase.text)
    assert (read_contrast(text) or "") == phrase.contrast
    named = (is_in(text, HEAD), is_in(text, ELSEWHERE))
    regions = {"head": (True, False), "mixed": (True, True), "other": (False, True)}
    assert named == regions.get(phrase.region, (False, False))
    assert is_in(text, LOCALIZER) == (phrase.localizer == "yes")


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: f"{phrase.language}-{phrase.text}")
def test_case_accents_and_separators_change_nothing(phrase: Phrase) -> None:
    text = plain(phrase.text)
    assert plain(text) == text and text.isascii()
    for written in (text.lower(), text.replace(" ", "_"), text.replace(" ", "^"), f" {text} "):
        assert plain(written) == text


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: f"{phrase.language}-{phrase.text}")
def test_the_series_decides(phrase: Phrase) -> None:
    """The status of a phrase as SeriesDescription, with headers that say nothing or the reverse."""
    expected = "localizer" if phrase.localizer == "yes" else "ok"
    if expected == "ok" and phrase.region == "other":
        expected = "not_head"
    elif expected == "ok" and phrase.contrast in ("with", "both"):
        expected = "contrast"
    assert status(SeriesDescription=phrase.text) == expected
    if phrase.contrast in ("with", "without") or phrase.region == "other":
        agent = "NONE" if phrase.contrast == "with" else "OMNIPAQUE 350"
        tags = {"ContrastBolusAgent": agent, "StudyDescription": "CT HEAD"}
        assert status(SeriesDescription=phrase.text, **tags) == expected


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("NO", "ok"), ("No", "ok"), ("N", "ok"), ("None", "ok"), ("NONE GIVEN", "ok"),
        ("NO CONTRAST", "ok"), ("NON CONTRAST", "ok"), ("SIN CONTRASTE", "ok"), ("0", "ok"),
        ("0 ml", "ok"), ("0.0 ML", "ok"), ("0CC", "ok"), ("NOT APPLICABLE", "ok"), ("N.A.", "ok"),
        ("N/A", "ok"), ("No IV contrast", "ok"), ("W/O", "ok"), ("WITHOUT CONTRAST", "ok"),
        ("SEM CONTRASTE", "ok"), ("ohne", "ok"), ("OHNE KM", "ok"), ("kein KM", "ok"),
        ("KEINE", "ok"), ("keines", "ok"), ("sans", "ok"), ("AUCUN", "ok"), ("NESSUNO", "ok"),
        ("Ninguno", "ok"), ("nenhum", "ok"), ("geen", "ok"), ("ingen", "ok"), ("Inget", "ok"),
        ("brak", "ok"), ("nie podano", "ok"), ("žádný", "ok"), ("yok", "ok"), ("hayır", "ok"),
        ("UNKNOWN", "ok"), ("NIL", "ok"), ("FALSE", "ok"), ("-", "ok"), ("--", "ok"), ("", "ok"),
        ("SALINE", "ok"), ("NaCl 50 ml", "ok"), ("ORAL", "ok"), ("ORAL CONTRAST", "ok"),
        ("PO", "ok"), ("per os", "ok"), ("RECTAL", "ok"), ("WATER", "ok"), ("NATIV", "ok"),
        ("Omnipaque 350", "contrast"), ("OMNIPAQUE", "contrast"), ("ISOVUE300/100", "contrast"),
        ("Ultravist 370 80ml", "contrast"), ("CE", "contrast"), ("IV", "contrast"),
        ("ORAL & IV", "contrast"), ("ORAL AND IV", "contrast"), ("APPLIED", "contrast"),
        ("Non-ionic", "contrast"), ("Kontrastmittel", "contrast"), ("JOD", "contrast"),
        ("YES", "contrast"), ("100 ml", "contrast"), ("CONTRAST", "contrast"),
    ],
)  # fmt: skip
def test_what_agents_mean(agent: str, expected: str) -> None:
    assert status(SeriesDescription="Head 4.0", ContrastBolusAgent=agent) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ContrastBolusVolume": "0"}, "ok"),
        ({"ContrastBolusVolume": "80"}, "contrast"),
        ({"ContrastBolusAgent": "CE", "ContrastBolusVolume": "0"}, "ok"),
        ({"ContrastBolusAgent": "CE", "ContrastBolusVolume": "80"}, "contrast"),
        ({"ContrastBolusAgent": "NONE", "ContrastBolusVolume": "80"}, "ok"),
        ({"ContrastBolusAgent": "OMNIPAQUE", "ContrastBolusRoute": "ORAL"}, "ok"),
        ({"ContrastBolusAgent": "OMNIPAQUE", "ContrastBolusRoute": "PER OS"}, "ok"),
        ({"ContrastBolusAgent": "OMNIPAQUE", "ContrastBolusRoute": "IV"}, "contrast"),
        ({"ContrastBolusVolume": "80", "ContrastBolusRoute": "ORAL"}, "ok"),
        ({"ContrastBolusAgent": "CE", "ProtocolName": "HEAD W/O"}, "contrast"),
        ({"ContrastBolusAgent": "CE", "StudyDescription": "HEAD W/O"}, "contrast"),
        (
            {"ContrastBolusAgent": "CE", "StudyDescription": "CCT nativ", "ProtocolName": "Plain"},
            "ok",
        ),
        ({"ProtocolName": "CTA HEAD", "StudyDescription": "CTA HEAD"}, "ok"),
        ({"SeriesDescription": "HEAD W/WO", "ContrastBolusAgent": "NONE"}, "ok"),
        ({"SeriesDescription": "HEAD W/WO", "ProtocolName": "HEAD W/O"}, "ok"),
        ({"SeriesDescription": "HEAD C+", "ContrastBolusAgent": "NONE"}, "contrast"),
        ({"SeriesDescription": "HEAD C-", "ContrastBolusVolume": "80"}, "ok"),
    ],
)
def test_all_elements_on_contrast_are_weighed(tags: dict[str, str], expected: str) -> None:
    assert status(**tags) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"BodyPartExamined": "HEAD", "StudyDescription": "CT HEAD AND THORAX"}, "ok"),
        ({"SeriesDescription": "Schädel 5.0", "StudyDescription": "Thorax Abdomen"}, "ok"),
        ({"SeriesDescription": "Thorax 5.0", "StudyDescription": "Schädel Thorax"}, "not_head"),
        ({"SeriesDescription": "5.0", "BodyPartExamined": "TORACE", "ProtocolName": "Encéfalo"},
         "ok"),
        ({"SeriesDescription": "5.0", "BodyPartExamined": "CHEST", "ProtocolName": "Thorax",
          "StudyDescription": "Head and chest"}, "not_head"),
        ({"SeriesDescription": "5.0", "BodyPartExamined": "HEAD", "ProtocolName": "Thorax",
          "StudyDescription": "Head"}, "ok"),
        ({"SeriesDescription": "Hals", "BodyPartExamined": "HEAD", "ProtocolName": "Head"},
         "not_head"),
        ({"BodyPartExamined": "XYZ", "ProtocolName": "1.2"}, "ok"),
    ],
)  # fmt: skip
def test_all_elements_on_the_body_are_weighed(tags: dict[str, str], expected: str) -> None:
    assert status(**tags) == expected


def test_reasons_are_true_sentences_without_a_quotation() -> None:
    tags = {"BodyPartExamined": "CHEST", "ProtocolName": "Thorax Doe"}
    both = "ProtocolName and BodyPartExamined name another part of the body"
    assert left_out(**tags) == ("not_head", f"{both}, and nothing names the head")
    tags["StudyDescription"] = "Head and chest of Doe"
    weighed = f"{both}, which counts for more than the head in StudyDescription"
    assert left_out(**tags) == ("not_head", weighed)
    assert left_out(ContrastBolusVolume="70") == (
        "contrast", "ContrastBolusVolume is above 0 ml"
    )  # fmt: skip
    assert left_out(SeriesDescription="Kopf ohne/mit KM") == (
        "contrast", "SeriesDescription says with and without contrast medium"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("ISO_IR 100", "latin-1"), ("ISO_IR 101", "iso8859_2"), ("ISO_IR 192", "utf-8")]
    + [("", "latin-1"), ("", "utf-8")],
)
def test_texts_are_decoded_with_and_without_a_character_set(charset: str, codec: str) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = charset
    dataset.add_new("SeriesDescription", "LO", "Schädel ohne KM".encode(codec))
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    found = read_dataset(io.BytesIO(stream.getvalue()), False, True)
    assert text_of(found, "SeriesDescription") == "SCHADEL OHNE KM"


def test_a_backslash_counts_as_a_slash() -> None:
    dataset = Dataset()
    dataset.add_new("SeriesDescription", "LO", ["HEAD W", "O CONTRAST"])
    assert text_of(dataset, "SeriesDescription") == "HEAD W/O CONTRAST"


def test_long_texts_are_cut_and_take_no_time() -> None:
    assert len(plain("HEAD " * 10_000)) <= 256
    parts = ("W/ ", "NO ", "WITHOUT IV ", "A", "+C-", "CONTRAST ", "NO CONTRAST ", "0 ML ", "ORAL ")
    for text in (start + part * 5000 for part in parts for start in ("", "X ", "NO ", "ORAL ")):
        for cut in (text, f"{text[:250]} X"):
            start = time.perf_counter()
            status(SeriesDescription=cut, ContrastBolusAgent=cut, ContrastBolusRoute=cut)
            assert time.perf_counter() - start < 5


def test_ways_to_write_that_no_contrast_medium_was_given(test_data: Path) -> None:
    paths = sorted((test_data / "cases" / "19" / "in").glob("*.dcm"))
    assert len(paths) == 23
    for path in paths:
        assert [header.left_out for header in read_headers(path, sort_out=True)] == [""], path.name
