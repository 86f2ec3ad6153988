"""The two layouts of CT-ICH, made from the same volume: they must give the same dataset."""

import gzip
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.preparation import prepare_dataset
from common.slices.table import SliceTable
from rsna.sources.ct_ich import BONE_WINDOW, BRAIN_WINDOW, CtIchSource, image_id
from rsna_task import LABELS

PATIENTS = (49, 101)
NUM_SLICES, ROWS, COLUMNS = 4, 40, 32
TILT = np.deg2rad(12.0)


def slices_hu(patient: int) -> np.ndarray:
    """HU (slices, rows, columns) as displayed: smooth, with another corner in every slice."""
    row, column = np.mgrid[:ROWS, :COLUMNS]
    image = np.stack([20 + row + 0.5 * column + 3 * k + patient % 7 for k in range(NUM_SLICES)])
    image[:, :8, :8] = -1000  # the patient's right front
    return np.rint(image).astype(np.int16)


def write_labels(path: Path) -> None:
    rows = []
    for patient in PATIENTS:
        for number in range(1, NUM_SLICES + 1):
            subtypes = {"Intraventricular": 0, "Intraparenchymal": int(number == 2),
                        "Subarachnoid": int(number == 3), "Epidural": 0,
                        "Subdural": int(patient == 101)}  # fmt: skip
            row = {"PatientNumber": patient, "SliceNumber": number, **subtypes}
            rows.append(row | {"No_Hemorrhage": int(not any(subtypes.values()))})
    pd.DataFrame(rows).to_csv(path, index=False)


def write_jpegs(folder: Path) -> None:
    for patient in PATIENTS:
        for index, image_hu in enumerate(slices_hu(patient)):
            for kind, (low, width) in (("brain", BRAIN_WINDOW), ("bone", BONE_WINDOW)):
                grey = np.clip((image_hu - low) / width * 255, 0, 255).round().astype(np.uint8)
                path = folder / "Patients_CT" / f"{patient:03d}" / kind / f"{index + 1}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), grey, [cv2.IMWRITE_JPEG_QUALITY, 100])
    write_labels(folder / "hemorrhage_diagnosis.csv")


def volume(patient: int, codes: str = "LPS", tilt: float = 0.0) -> nibabel.Nifti1Image:
    """The volume with its axes along `codes`; slice k of the file stays slice k."""
    # As displayed: x to the patient's left, y to the back. nibabel's world is right, front, head.
    data = slices_hu(patient).transpose(2, 1, 0)
    affine = np.diag([-0.5, -0.45, 5.0, 1.0])
    if tilt:
        turn = np.array(
            [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
        )
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (8.0, 9.0, 100.0)
    image = nibabel.Nifti1Image(data, affine)
    target = nibabel.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), target))  # fmt: skip


def write_volumes(
    folder: Path, codes: str = "LPS", ending: str = ".nii", tilt: float = 0.0
) -> None:
    (folder / "ct_scans").mkdir(parents=True)
    for patient in PATIENTS:
        nibabel.save(volume(patient, codes, tilt), folder / "ct_scans" / f"{patient:03d}{ending}")
    write_labels(folder / "hemorrhage_diagnosis_raw_ct.csv")


def prepared_table(folder: Path, out: Path) -> SliceTable:
    prepare_dataset(CtIchSource(folder), out, n_jobs=0, num_folds=2)
    return SliceTable.load(out)


def test_both_layouts_give_the_same_ids_labels_order_and_images(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "jpeg")
    write_volumes(tmp_path / "nifti")
    jpeg = prepared_table(tmp_path / "jpeg", tmp_path / "out_jpeg")
    nifti = prepared_table(tmp_path / "nifti", tmp_path / "out_nifti")
    same = ["image_id", "patient_id", "study_id", "series_id", "rank", "num_slices", "split",
            "label_source", "rows", "columns", *LABELS]  # fmt: skip
    pd.testing.assert_frame_equal(jpeg.frame[same], nifti.frame[same])
    assert nifti.frame["image_id"][1] == image_id("049", 2)
    assert nifti.frame["intraparenchymal"].tolist() == [0, 1, 0, 0] * 2
    assert nifti.frame["spacing_column"].unique() == [0.5]
    assert nifti.frame["spacing_row"].to_numpy() == pytest.approx(0.45)
    assert np.diff(nifti.frame["position_mm"][:4]) == pytest.approx([5] * 3)
    assert (tmp_path / "out_jpeg" / "folds.csv").read_text() == (
        tmp_path / "out_nifti" / "folds.csv"
    ).read_text()
    for row in range(len(nifti)):
        exact = slices_hu(int(nifti.frame["patient_id"][row]))[row % NUM_SLICES]
        assert np.array_equal(nifti.image_hu(row), exact)
        # Of two windows come steps of half a unit, and JPEG's rings.
        inside = exact > 0
        assert np.abs(jpeg.image_hu(row)[inside].astype(int) - exact[inside]).max() <= 4


@pytest.mark.parametrize("codes", ["RAS", "RPS", "PLS", "LPI"])
def test_a_volume_is_turned_as_it_is_displayed(codes: str, tmp_path: Path) -> None:
    write_volumes(tmp_path / "in", codes)
    table = prepared_table(tmp_path / "in", tmp_path / "out")
    displayed = slices_hu(49)
    by_number = table.frame[table.frame["patient_id"] == "049"]
    assert by_number["rank"].tolist() == [0, 1, 2, 3]
    for row, image in zip(by_number.index, displayed):
        assert np.array_equal(table.image_hu(row), image)
    # The numbers of slices are those of the file, whichever way it runs.
    numbers = [4, 3, 2, 1] if codes.endswith("I") else [1, 2, 3, 4]
    assert by_number["image_id"].tolist() == [image_id("049", number) for number in numbers]
    positions = by_number["position_mm"].tolist()
    assert positions == pytest.approx([100, 105, 110, 115])


def test_tilt_is_known_and_compressed_volumes_are_read(tmp_path: Path) -> None:
    write_volumes(tmp_path / "in", "RAS", ".nii.gz", tilt=TILT)
    frame = prepared_table(tmp_path / "in", tmp_path / "out").frame
    assert np.abs(frame["tilt_deg"]).to_numpy() == pytest.approx(12.0)
    assert np.diff(frame["position_mm"][:4]) == pytest.approx([5] * 3)
    assert frame["spacing_row"].to_numpy() == pytest.approx(0.45)


def test_values_are_scaled_rounded_and_clipped(tmp_path: Path) -> None:
    write_volumes(tmp_path / "in")
    values = np.full((COLUMNS, ROWS, 2), 30.4, np.float32)
    values[0, 0] = (np.nan, -3024)
    values[1, 1] = (1e9, -1e9)
    nibabel.save(
        nibabel.Nifti1Image(values, np.diag([-0.5, -0.5, 5, 1])), tmp_path / "in/ct_scans/049.nii"
    )
    table = prepared_table(tmp_path / "in", tmp_path / "out")
    first, second = (table.image_hu(row) for row in (0, 1))
    assert (first[0, 0], first[1, 1], first[2, 2]) == (-1024, 31767, 30)
    assert (second[0, 0], second[1, 1], second[2, 2]) == (-1024, -1024, 30)
    assert table.frame["num_padding"].sum() == 2


def test_volumes_that_can_not_be_read_cost_only_themselves(tmp_path: Path) -> None:
    write_volumes(tmp_path / "in")
    scans = tmp_path / "in" / "ct_scans"
    whole = (scans / "101.nii").read_bytes()
    (scans / "060.nii").write_bytes(whole[:-100])
    (scans / "061.nii").write_bytes(b"nothing")
    (scans / "062.nii.gz").write_bytes(gzip.compress(whole)[:-200])
    nibabel.save(volume(49, "ASL"), scans / "063.nii")
    data = np.zeros((4, 4, 2, 3), np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), scans / "064.nii")
    prepared = prepare_dataset(
        CtIchSource(tmp_path / "in"), tmp_path / "out", n_jobs=0, num_folds=2
    )
    assert prepared.num_slices == 2 * NUM_SLICES
    frame = SliceTable.load(tmp_path / "out").frame
    statuses = frame[frame["status"] != "ok"].groupby("patient_id")["status"].first().to_dict()
    assert statuses == {
        "060": "truncated", "061": "corrupt", "062": "truncated", "063": "not_axial",
        "064": "corrupt",
    }  # fmt: skip


def test_volumes_come_before_jpegs_and_no_layout_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_jpegs(tmp_path / "in")
    assert CtIchSource(tmp_path / "in").layout == "jpeg"
    write_volumes(tmp_path / "more")
    (tmp_path / "more" / "ct_scans").rename(tmp_path / "in" / "ct_scans")
    assert CtIchSource(tmp_path / "in").layout == "jpeg"
    (tmp_path / "more" / "hemorrhage_diagnosis_raw_ct.csv").rename(
        tmp_path / "in" / "hemorrhage_diagnosis_raw_ct.csv"
    )
    assert CtIchSource(tmp_path / "in").layout == "nifti"
    assert "both layouts" in caplog.text
    with pytest.raises(InputError, match="neither"):
        CtIchSource(tmp_path / "more")
