"""Label tables with blank rows, and NIfTI files of many writers: small inputs from bug reports."""

import logging
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.preparation import prepare_dataset
from common.preparation.checks.check import check_dataset
from common.preparation.label_tables import read_label_table
from rsna.sources.ct_ich import CtIchSource
from rsna_task import LABELS, SUBTYPES


def prepare(folder: Path, dataset: Path) -> pd.DataFrame:
    prepare_dataset(CtIchSource(folder), dataset, n_jobs=0)
    return pd.read_parquet(dataset / "slices.parquet")


@pytest.mark.parametrize(("case", "num_blank"), [("42b", "2 blank rows"), ("42c", "1 blank row")])
def test_blank_rows_of_a_label_table_are_skipped_and_counted(
    case: str, num_blank: str, test_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slices = prepare(test_data / "cases" / case / "in", tmp_path / "out")
    assert f"{num_blank} skipped" in caplog.text
    assert slices["status"].eq("ok").all()
    assert slices[list(LABELS)].notna().all(axis=None)
    assert slices["subdural"].eq(1).any()
    checked = check_dataset(tmp_path / "out", subtypes=SUBTYPES, union="any", n_jobs=0)
    assert "no_labels" not in {found.kind for found in checked.findings}


def test_nifti_files_of_many_writers(test_data: Path, tmp_path: Path) -> None:
    slices = prepare(test_data / "cases" / "42" / "in", tmp_path / "out")
    slices["name"] = slices["source_file"].str.extract(r"/(\d+)\.", expand=False)
    usable = slices[slices["status"] == "ok"]
    others = slices[slices["status"] != "ok"].set_index("name")["reason"]
    # 002 is (x, y, z, 1), 005 has no qform and no sform, 012 is called .NII.
    whole = ["001", "002", "003", "004", "005", "006", "007", "008", "009", "012"]
    assert usable["name"].value_counts().sort_index().to_dict() == dict.fromkeys(whole, 8)
    assert usable[list(LABELS)].notna().all(axis=None)
    noted = usable["reason"].str.contains("orientation was assumed", na=False)
    assert usable.loc[noted, "name"].tolist() == ["005"] * 8
    assert sorted(others.index) == ["010", "011"]
    assert "three dimensions" in others["010"]
    assert "not axial" in others["011"]


def test_a_fourth_dimension_of_one_changes_no_pixel(tmp_path: Path, test_data: Path) -> None:
    case = test_data / "cases" / "42c" / "in"
    for name in ("three", "four"):
        (tmp_path / name / "ct_scans").mkdir(parents=True)
        shutil.copy(case / "hemorrhage_diagnosis_raw_ct.csv", tmp_path / name)
    shutil.copy(case / "ct_scans" / "001.nii", tmp_path / "three" / "ct_scans" / "001.nii")
    image = nibabel.load(case / "ct_scans" / "001.nii")
    more = nibabel.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine)
    more.to_filename(tmp_path / "four" / "ct_scans" / "001.nii")
    shutil.move(tmp_path / "four/ct_scans/001.nii", tmp_path / "four/ct_scans/001.NII")
    columns = ["image_id", "position_mm", "hu_mean", "hu_min", "hu_max", "any"]
    one, other = (prepare(tmp_path / name, tmp_path / f"{name}_out") for name in ("three", "four"))
    pd.testing.assert_frame_equal(one[columns], other[columns])


def test_labels_that_match_no_file_are_refused_before_pixels_are_read(
    test_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(test_data / "cases" / "42b" / "in", folder)
    path = folder / "hemorrhage_diagnosis_raw_ct.csv"
    table = path.read_text(encoding="utf-8-sig").replace("\n1,", "\n77,")
    path.write_text(table, encoding="utf-8")
    with pytest.raises(InputError, match="no label matches a file"):
        prepare(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "store").exists()


def test_a_check_finds_that_all_labels_are_lost(test_data: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "out"
    slices = prepare(test_data / "cases" / "42b" / "in", dataset)
    slices[list(LABELS)] = np.nan
    slices.to_parquet(dataset / "slices.parquet")
    studies = pd.read_parquet(dataset / "studies.parquet")
    studies[list(LABELS)] = np.nan
    studies.to_parquet(dataset / "studies.parquet")
    checked = check_dataset(dataset, subtypes=SUBTYPES, union="any", n_jobs=0)
    lost = [found for found in checked.findings if found.kind == "no_labels"]
    assert [found.count for found in lost] == [len(slices)]


def test_cells_stay_text_and_blank_rows_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf id ,any\r\n001,1\r\n,\r\n\r\n 12.0 ,\r\n1e3,0\r\n")
    table = read_label_table(path)
    assert table["id"].tolist() == ["001", "12.0", "1e3"]
    assert table.index.tolist() == [2, 5, 6]
    assert table["any"].tolist() == ["1", "", "0"]
    assert "a.csv: 2 blank rows skipped" in caplog.text
