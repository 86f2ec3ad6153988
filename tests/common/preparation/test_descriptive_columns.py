"""Columns for subgroups: what is stored of headers, and how datasets of before get them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_factory import write_ct
from prepared import contents, prepare_dicom, write_series_files

from common.preparation import DicomReader
from common.preparation.headers import HEADER_COLUMNS
from common.slices.table import SliceTable

NEW = ["spacing_slice", "slice_thickness", "kvp", "manufacturer", "model", "age_decade", "sex"]
NEW += ["contrast"]
OF_INDEX = ["spacing_between_slices", *NEW[3:]]


def write_slices(folder: Path, heights_mm: list[float | None], **tags: object) -> None:
    for number, height in enumerate(heights_mm):
        position = None if height is None else [0.0, 0.0, height]
        ids = {"SOPInstanceUID": f"1.9.{number}", "InstanceNumber": number + 1}
        ids["ImagePositionPatient"] = position
        pixels = np.full((16, 16), 1000 + number, np.uint16)
        write_ct(folder / f"{number}.dcm", pixels, **(ids | tags))


def column(folder: Path, name: str) -> list[object]:
    _, frame = prepare_dicom(folder / "in", folder / "out")
    return frame[name].astype(object).where(frame[name].notna(), None).tolist()


def test_spacing_is_that_of_positions_before_that_of_the_tag(tmp_path: Path) -> None:
    write_slices(tmp_path / "in", [0.0, 2.5, 5.0, 10.0], SpacingBetweenSlices="4")
    assert column(tmp_path, "spacing_slice") == [2.5] * 4


@pytest.mark.parametrize(
    ("tag", "expected"), [("4", 4.0), ("0", None), ("-4", None), ("1e6", None)]
)
def test_the_tag_counts_where_no_positions_are(
    tmp_path: Path, tag: str, expected: float | None
) -> None:
    write_slices(tmp_path / "in", [None, None], SpacingBetweenSlices=tag)
    assert column(tmp_path, "spacing_slice") == [expected] * 2


@pytest.mark.parametrize(
    ("name", "keyword", "values"),
    [
        ("slice_thickness", "SliceThickness", {"5": 5.0, "0": None, "-5": None, "": None}),
        ("kvp", "KVP", {"120": 120.0, "0": None, "120000": None, "-1": None}),
    ],
)
def test_implausible_values_are_unknown(
    tmp_path: Path, name: str, keyword: str, values: dict[str, float | None]
) -> None:
    for number, (text, expected) in enumerate(values.items()):
        folder = tmp_path / str(number)
        write_slices(folder / "in", [0.0, 5.0], **{keyword: text})
        assert column(folder, name) == [expected] * 2


def test_a_kernel_of_several_values_is_whole(tmp_path: Path) -> None:
    write_slices(tmp_path / "in", [0.0, 5.0], ConvolutionKernel=["Hr38", "3"])
    assert column(tmp_path, "kernel") == ["Hr38\\3"] * 2


def as_before(folder: Path) -> None:
    """Make a dataset one of the version without the columns."""
    index = folder / "index" / "headers.parquet"
    pd.read_parquet(index).drop(columns=OF_INDEX).to_parquet(index)
    slices = folder / "slices.parquet"
    pd.read_parquet(slices).drop(columns=NEW).to_parquet(slices)


def test_a_dataset_of_before_gets_them_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that share an id, which only pixels tell apart, included."""
    tags = {"SliceThickness": "5", "Manufacturer": "Siemens", "PatientAge": "093Y"}
    write_slices(tmp_path / "in", [0.0, 5.0, 10.0], SOPInstanceUID="1.9", **tags)
    write_series_files(tmp_path / "in" / "away", "1.2")
    _, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    store = contents(tmp_path / "out" / "store")
    assert frame.loc[frame["manufacturer"] == "SIEMENS", "age_decade"].tolist() == [90] * 3
    as_before(tmp_path / "out")
    table = SliceTable.load(tmp_path / "out")
    assert table.frame[NEW].isna().all(axis=None)

    def forbidden(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(DicomReader, "read_pixels", forbidden)
    _, again = prepare_dicom(tmp_path / "in", tmp_path / "out")
    pd.testing.assert_frame_equal(again, frame)
    assert contents(tmp_path / "out" / "store") == store
    # Files that are not seen this time keep their rows, with what was known of them.
    as_before(tmp_path / "out")
    (tmp_path / "in" / "away" / "1.2-1.dcm").unlink()
    _, again = prepare_dicom(tmp_path / "in", tmp_path / "out")
    is_kept = again["series_id"] == "1.2"
    assert again.loc[is_kept, NEW].isna().all(axis=None)
    pd.testing.assert_frame_equal(
        again[~is_kept].reset_index(drop=True),
        frame[frame["series_id"] != "1.2"].reset_index(drop=True),
    )


def test_no_date_and_no_name_is_kept(tmp_path: Path) -> None:
    tags = {"PatientAge": "045Y", "PatientBirthDate": "19741231", "StudyDate": "20200317"}
    tags |= {"PatientName": "Doe^Jane", "PatientSex": "F", "OperatorsName": "Roe"}
    write_slices(tmp_path / "in", [0.0, 5.0], **tags)
    _, frame = prepare_dicom(tmp_path / "in", tmp_path / "out")
    assert set(OF_INDEX) <= set(HEADER_COLUMNS)
    for part in (frame, pd.read_parquet(tmp_path / "out" / "index" / "headers.parquet")):
        text = part.astype("str").to_csv().lower()
        assert not [word for word in ("19741231", "20200317", "doe", "roe", "045y") if word in text]


def test_a_real_head_and_its_odd_relatives(tmp_path: Path, test_data: Path) -> None:
    _, frame = prepare_dicom(test_data / "ge_head", tmp_path / "head")
    assert frame["slice_thickness"].value_counts().to_dict() == {4.0: 14, 7.0: 14}
    assert frame["spacing_slice"].round(2).unique().tolist() == [4.0]
    known = ["kvp", "manufacturer", "model"]
    assert frame[known].drop_duplicates().to_numpy().tolist() == [
        [120.0, "GE MEDICAL SYSTEMS", "HISPEED DUAL"]
    ]
    _, odd = prepare_dicom(test_data / "odd_dicom", tmp_path / "odd")
    assert set(odd["age_decade"].dropna()) <= {*range(0, 100, 10)}
    assert set(odd["sex"].dropna()) <= {"M", "F", "O"}
    for name in ("kvp", "slice_thickness", "spacing_slice"):
        assert (odd[name].dropna() > 0).all()
    assert odd["contrast"].eq(True).sum() >= odd["status"].eq("contrast").sum() > 0
