"""Kernels by vendor and descriptions by language, with what people know of them."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_factory import write_ct

from common.dicom import read_headers
from common.dicom.kernels import is_sharp
from common.preparation import prepare_dataset
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource

TABLE = Path(__file__).parents[2] / "saved" / "kernels.csv"
ROWS = list(csv.DictReader(TABLE.read_text("utf-8").splitlines()))
SHARP = {"yes": True, "no": False, "": None}


def test_the_table_has_every_vendor() -> None:
    assert len([row for row in ROWS if row["kernel"]]) >= 60
    for vendor in ("Siemens", "GE", "Philips", "Toshiba", "Canon", "Neusoft", "United Imaging"):
        assert {row["sharp"] for row in ROWS if row["vendor"] == vendor} >= {"yes", "no"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['kernel']}-{row['description']}")
def test_what_is_sharp(row: dict[str, str]) -> None:
    expected = SHARP[row["sharp"]]
    assert is_sharp(row["kernel"], row["description"]) is expected
    assert is_sharp(row["kernel"].lower(), row["description"].upper()) is expected


def test_the_kernel_outweighs_the_description() -> None:
    assert is_sharp("H31s", "Head bone window") is False
    assert is_sharp("H60s", "Head soft") is True
    assert is_sharp("", "Head soft") is False


def test_headers_have_it_and_so_does_the_dataset(tmp_path: Path) -> None:
    expected = {"1": True, "2": False, "3": None, "4": True}
    tags: dict[str, dict[str, object]] = {
        "1": {"ConvolutionKernel": ["J70h", "3"]},
        "2": {"ConvolutionKernel": "STANDARD", "SeriesDescription": "bone"},
        "3": {},
        "4": {"SeriesDescription": "Schädel Knochen", "SpecificCharacterSet": "ISO_IR 100"},
    }
    for uid, more in tags.items():
        path = tmp_path / "in" / f"{uid}.dcm"
        write_ct(path, np.full((32, 32), 1050, np.uint16), SeriesInstanceUID=f"1.{uid}", **more)
        (header,) = read_headers(path)
        assert header.is_sharp is expected[uid]
    prepare_dataset(DicomSource(tmp_path / "in"), tmp_path / "out", n_jobs=0)
    frame = SliceTable.load(tmp_path / "out").frame.sort_values("source_file")
    assert str(frame["is_sharp"].dtype) == "boolean"
    assert [None if x is pd.NA else bool(x) for x in frame["is_sharp"]] == list(expected.values())
