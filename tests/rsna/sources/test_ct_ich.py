import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from common.dicom import RejectedFile
from common.errors import InputError
from common.preparation import prepare_dataset
from common.slices.table import SliceTable
from rsna.sources.ct_ich import CtIchSource, combine_windows, image_id
from rsna_task import LABELS, SUBTYPES

PATIENTS = ("049", "050")


@pytest.fixture
def subset(test_data: Path, tmp_path: Path) -> Path:
    """Two patients of the real data, slices 9 to 12 of each."""
    folder = tmp_path / "ct_ich"
    for patient in PATIENTS:
        for kind in ("brain", "bone"):
            (folder / "Patients_CT" / patient / kind).mkdir(parents=True)
            for number in range(9, 13):
                name = f"Patients_CT/{patient}/{kind}/{number}.jpg"
                shutil.copy(test_data / "ct_ich" / name, folder / name)
    shutil.copy(test_data / "ct_ich" / "hemorrhage_diagnosis.csv", folder)
    return folder


def test_hu_equal_the_formula_where_no_window_saturates() -> None:
    brain = np.array([[4, 100, 128, 251]], np.uint8)
    bone = np.array([[70, 72, 75, 78]], np.uint8)
    image_hu, note = combine_windows(brain, bone)
    assert image_hu.tolist() == [[round(v / 255 * 120 - 20) for v in (4, 100, 128, 251)]]
    assert note == ""


def test_saturated_pixels_come_from_the_bone_image_and_stay_outside_the_brain_window() -> None:
    brain = np.array([[0, 255, 253, 2, 240, 20]], np.uint8)
    bone = np.array([[0, 255, 74, 75, 200, 5]], np.uint8)
    image_hu, _ = combine_windows(brain, bone)
    from_bone = [round(v / 255 * 3200 - 900) for v in (200, 5)]
    assert image_hu.tolist() == [[-900, 2300, 100, -20, *from_bone]]


def test_a_missing_image_is_noted() -> None:
    brain = np.array([[0, 128, 255]], np.uint8)
    image_hu, note = combine_windows(brain, None)
    assert image_hu.tolist() == [[-1000, 40, 1000]]
    assert "bone image is missing" in note
    image_hu, note = combine_windows(None, np.array([[0, 255]], np.uint8))
    assert image_hu.tolist() == [[-900, 2300]]
    assert "brain image is missing" in note
    with pytest.raises(RejectedFile, match="differ"):
        combine_windows(brain, brain.T)


def test_real_slices_have_tissue_at_its_hu_and_labels_of_the_table(
    subset: Path, tmp_path: Path
) -> None:
    prepared = prepare_dataset(CtIchSource(subset), tmp_path / "out", n_jobs=0, num_folds=2)
    assert prepared.line() == "read 8 files, stored 8 slices in 2 series, rejected 0"
    table = SliceTable.load(tmp_path / "out")
    frame = table.frame
    assert frame["patient_id"].tolist() == ["049"] * 4 + ["050"] * 4
    assert frame["position_mm"].tolist() == [40, 45, 50, 55] * 2
    assert set(frame["split"]) == {"train"}
    assert (frame["window_center"] == 40).all() and (frame["window_width"] == 120).all()
    assert set(frame["label_source"]) == {"slices"}
    given = pd.read_csv(subset / "hemorrhage_diagnosis.csv")
    for row, patient, number in zip(frame.index, frame["patient_id"], (9, 10, 11, 12) * 2):
        expected = given.set_index(["PatientNumber", "SliceNumber"]).loc[(int(patient), number)]
        labels = [float(expected[name.capitalize()]) for name in SUBTYPES]
        assert frame.loc[row, list(LABELS)].tolist() == [*labels, 1.0 - expected["No_Hemorrhage"]]
        image_hu = table.image_hu(row)
        assert image_hu.shape == (650, 650)
        brain = cv2.imread(str(subset / frame["source_file"][row]), cv2.IMREAD_GRAYSCALE)
        tissue = image_hu[(brain > 60) & (brain < 190) & (image_hu > -20) & (image_hu < 100)]
        assert 20 < np.median(tissue) < 60
    folds = pd.read_csv(tmp_path / "out" / "folds.csv", dtype={"patient_id": "str"})
    assert folds.groupby("fold")["patient_id"].nunique().tolist() == [1, 1]


def test_missing_and_damaged_images(subset: Path, tmp_path: Path) -> None:
    patient = subset / "Patients_CT" / "049"
    (patient / "bone" / "9.jpg").unlink()
    (patient / "brain" / "10.jpg").unlink()
    damaged = patient / "brain" / "11.jpg"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    (patient / "bone" / "12.jpg").write_bytes(b"nothing" + b"\xff\xd9")
    prepared = prepare_dataset(CtIchSource(subset), tmp_path / "out", n_jobs=0)
    assert prepared.rejected == {"truncated": 1, "corrupt": 1}
    assert sorted(prepared.notes.values()) == [1, 1]
    assert prepared.num_slices == 6
    frame = SliceTable.load(tmp_path / "out").frame.set_index("image_id")
    assert frame.loc[image_id("049", 11), "status"] == "truncated"
    assert frame.loc[image_id("049", 11), "any"] in (0, 1)


def test_other_folders_and_tables_are_refused(subset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"v1\.0\.0.*v1\.3\.1"):
        CtIchSource(tmp_path)
    path = subset / "hemorrhage_diagnosis.csv"
    table = pd.read_csv(path)
    table.assign(No_Hemorrhage=1 - table["No_Hemorrhage"]).to_csv(path, index=False)
    with pytest.raises(InputError, match="contradicts"):
        CtIchSource(subset).labels()
    pd.concat([table, table.head(1)]).to_csv(path, index=False)
    with pytest.raises(InputError, match="repeats"):
        CtIchSource(subset).labels()
    table.drop(columns="Epidural").to_csv(path, index=False)
    with pytest.raises(InputError, match="epidural"):
        CtIchSource(subset).labels()


def test_any_is_unknown_where_a_subtype_and_no_hemorrhage_are(subset: Path) -> None:
    path = subset / "hemorrhage_diagnosis.csv"
    table = pd.read_csv(path).head(4)
    types = [name for name in table if name.lower() in SUBTYPES]
    table[types] = [[0] * 5, [0] * 5, [0] * 5, [1, 0, 0, 0, 0]]
    table["No_Hemorrhage"] = [1, 0, None, None]
    table[types[-1]] = None
    table.to_csv(path, index=False)
    found = CtIchSource(subset).labels()["any"].tolist()
    assert found[:2] == [0, 1] and np.isnan(found[2]) and found[3] == 1
