"""What the files of the RSNA challenge have that others do not; rsna/sources/README.md lists it."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_factory import write_rsna
from prepared import contents

from common.preparation import prepare_dataset
from common.slices.table import SliceTable
from rsna.sources.rsna import RSNASource
from rsna_task import LABELS

TILTED = [1.0, 0.0, 0.0, 0.0, 0.968, -0.250]


def write_slice(folder: Path, image_id: str, z: float = 0.0, **tags: object) -> np.ndarray:
    """Write one slice, of the patient that the fourth letter names; returns its stored values."""
    file_name = str(tags.pop("file_name", f"{image_id}.dcm"))
    split = tags.pop("split", "train")
    dtype = tags.pop("dtype", np.int16)
    shape = tags.pop("shape", (16, 16))
    rng = np.random.default_rng(len(image_id))
    stored = np.asarray(tags.pop("stored", rng.integers(0, 2000, shape))).astype(dtype)  # type: ignore[call-overload]
    elements = {"ImagePositionPatient": [0.0, 0.0, z], "PatientID": f"ID_{image_id[3]}"}
    write_rsna(folder / f"stage_2_{split}" / file_name, stored, image_id, **(elements | tags))
    return stored


def write_labels(folder: Path, *image_ids: str) -> None:
    """Every image has blood, and it is subdural."""
    rows = [
        f"{image_id}_{label},{int(label in ('subdural', 'any'))}"
        for image_id in image_ids
        for label in LABELS
    ]
    (folder / "stage_2_train.csv").write_text("\n".join(["ID,Label", *rows]) + "\n")


def prepare(folder: Path, **options: object) -> SliceTable:
    out = folder.parent / "out"
    prepare_dataset(RSNASource(folder), out, n_jobs=0, **options)  # type: ignore[arg-type]
    return SliceTable.load(out)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A challenge folder with one slice, so that none of the tests has to begin with that."""
    (tmp_path / "in").mkdir()
    write_labels(tmp_path / "in", "ID_z")
    write_slice(tmp_path / "in", "ID_z", SeriesInstanceUID="ID_first", StudyInstanceUID="ID_z")
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["ID_a\n.dcm", "ID_ä (1) 'x\" $HOME;"])
def test_odd_file_names_are_only_names(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The id is the header's; a name with a newline breaks no line of a log or a reason."""
    stored = write_slice(folder, "ID_a", file_name=name)
    write_slice(folder, "ID_a", file_name=f"{name}2", stored=stored)
    write_labels(folder, "ID_a", "ID_z")
    with caplog.at_level(logging.INFO):
        table = prepare(folder)
    row = int(table.rows_of(["ID_a"])[0])
    assert table.frame["source_file"][row] == f"stage_2_train/{name}"
    assert table.frame["any"][row] == 1
    assert np.array_equal(table.image_hu(row), np.clip(stored - 1024, -1024, None))
    again = table.frame[table.frame["status"] == "duplicate"].iloc[0]
    assert again["source_file"] == f"stage_2_train/{name}2"
    assert not any("\n" in record.getMessage() for record in caplog.records)
    # Nothing is made again: the names are the same when they are listed the next time.
    before = contents(folder.parent / "out")
    prepare(folder)
    assert contents(folder.parent / "out") == before


# (BitsStored, PixelRepresentation, RescaleIntercept) of all stage 2 files:
# the last two wrap. Stored values and the HU that they stand for.
FAMILIES = [
    (16, 1, -1024, [0, 1064, 3000, -2000], [-1024, 40, 1976, -1024]),
    (12, 0, -1024, [0, 1064, 3000, 4095], [-1024, 40, 1976, 3071]),
    (12, 0, -1000, [0, 1040, 3000, 4095], [-1000, 40, 2000, 3095]),
    (16, 1, 0, [-1000, 40, 2000, -2000], [-1000, 40, 2000, -1024]),
    (12, 1, 0, [-1000, 40, 2000, -2048], [-1000, 40, 2000, -1024]),
    (12, 0, 0, [3096, 40, 2000, 3095], [-1000, 40, 2000, 3095]),
    (12, 0, 1, [3096, 40, 2000, 3095], [-1000, 40, 2000, 3095]),
]


def test_all_families_of_bits_sign_and_intercept_are_in_hu(folder: Path) -> None:
    for number, (bits, signed, intercept, stored, _) in enumerate(FAMILIES):
        values = np.tile(np.array(stored, np.int32), (8, 2))
        tags = {"BitsStored": bits, "HighBit": bits - 1, "RescaleIntercept": str(intercept)}
        dtype = np.int16 if signed else np.uint16
        if bits == 12 and signed:
            values = values & 0x0FFF  # the upper bits of a 12-bit value are not its own
        write_slice(folder, f"ID_{number}", 5 * number, stored=values, dtype=dtype,
                    SeriesInstanceUID=f"ID_s{number}", **tags)  # fmt: skip
    table = prepare(folder)
    for number, (bits, signed, intercept, _, expected) in enumerate(FAMILIES):
        row = int(table.rows_of([f"ID_{number}"])[0])
        assert table.image_hu(row)[0, :4].tolist() == expected, FAMILIES[number]
        found = table.frame.loc[row, ["bits_stored", "pixel_representation", "rescale_intercept"]]
        assert found.tolist() == [bits, signed, intercept]
    notes = table.frame.set_index("image_id")["reason"].dropna()
    assert list(notes.index) == ["ID_5", "ID_6"]
    padding = table.frame.set_index("image_id")["num_padding"]
    assert (padding["ID_0"], padding["ID_3"], padding["ID_1"]) == (16, 16, 0)


def test_sizes_tilts_and_series_of_a_patient_are_kept_apart(folder: Path) -> None:
    """Six series of one patient; the sizes are those that stage 1 has beside 512 x 512."""
    sizes = [(490, 638), (436, 436), (374, 408), (666, 512), (31, 17)]
    for number, shape in enumerate(sizes):
        write_slice(folder, f"ID_a{number}", shape=shape, SeriesInstanceUID=f"ID_s{number}")
    for number, z in enumerate((0.0, 5.0)):
        tags = {"ImageOrientationPatient": TILTED, "ImagePositionPatient": [0, -0.3 * z, z]}
        write_slice(folder, f"ID_at{number}", SeriesInstanceUID="ID_tilted", **tags)
    table = prepare(folder)
    frame = table.frame.set_index("image_id")
    for number, (rows, columns) in enumerate(sizes):
        row = int(table.rows_of([f"ID_a{number}"])[0])
        assert table.image_hu(row).shape == (rows, columns)
        assert frame.loc[f"ID_a{number}", ["rows", "columns"]].tolist() == [rows, columns]
    of_patient = frame[frame["patient_id"] == "ID_a"]
    assert of_patient["store_file"].nunique() == 6
    assert of_patient["study_id"].nunique() == 1
    assert abs(frame.loc["ID_at0", "tilt_deg"]) == pytest.approx(14.48, abs=0.01)
    assert frame.loc["ID_a0", "tilt_deg"] == 0
    assert (frame.loc["ID_at0", "rank"], frame.loc["ID_at1", "rank"]) == (0, 1)


def test_equal_positions_have_one_order_whatever_the_names(tmp_path: Path) -> None:
    """Slices at the same place are ordered by id, so a dataset does not depend on file names."""
    ids = [f"ID_a{number}" for number in (7, 3, 9, 1)]
    tables = []
    for names in ("abcd", "dbca"):
        folder = tmp_path / "".join(names) / "in"
        for image_id, name, z in zip(ids, names, (0.0, 5.0, 5.0, 5.0)):
            write_slice(folder, image_id, z, file_name=name)
        write_labels(folder, *ids)
        tables.append(prepare(folder))
    for table in tables:
        ordered = table.frame.sort_values("rank")["image_id"].tolist()
        assert ordered == ["ID_a7", "ID_a1", "ID_a3", "ID_a9"]
        row = int(table.rows_of(["ID_a3"])[0])
        assert [table.image_id(r) for r in table.neighbour_rows(row, [-1, 1])] == ["ID_a1", "ID_a9"]


@pytest.mark.parametrize(("bad", "before", "after"), [(0, 1, 1), (2, 1, 3), (4, 3, 3)])
def test_a_corrupt_file_is_passed_over_as_a_neighbour(
    folder: Path, bad: int, before: int, after: int
) -> None:
    """ID_6431af929 has a header and too few pixels: no sample, and no neighbour of one."""
    for number in range(5):
        write_slice(folder, f"ID_a{number}", 5.0 * number)
    path = folder / "stage_2_train" / f"ID_a{bad}.dcm"
    path.write_bytes(path.read_bytes()[:-200])
    write_labels(folder, *(f"ID_a{number}" for number in range(5)))
    table = prepare(folder)
    row = int(table.rows_of([f"ID_a{bad}"])[0])
    assert not table.readable[row]
    assert table.frame["any"][row] == 1
    assert table.frame["status"][row] == "truncated"
    lower, upper = (int(table.rows_of([f"ID_a{number}"])[0]) for number in (before, after))
    assert row not in table.group_rows(lower)
    if before != after:
        assert table.neighbour_rows(lower, [1]) == [upper]
        assert table.neighbour_rows_mm(lower, [5.0, 10.0])[1] == upper
    else:
        assert table.neighbour_rows(lower, [-1 if bad == 0 else 1]) == [lower]


def test_invalid_uids_and_double_windows_cost_no_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(30):
        write_slice(folder, f"ID_a{number:02}", 5.0 * number, dtype=np.uint16)
    write_labels(folder, "ID_z", *(f"ID_a{number:02}" for number in range(30)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = prepare(folder)
    frame = table.frame[table.frame["image_id"] != "ID_z"]
    assert frame["window_center"].unique() == [36]
    assert frame["window_width"].unique() == [80]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ["no test images of stage_2 in the folder"]


def test_test_images_all_have_a_row_readable_or_not(folder: Path) -> None:
    """Empty, air only, cut, or without a patient: a submission needs every one of them."""
    write_slice(folder, "ID_t0", split="test", stored=np.full((16, 16), -2000))
    write_slice(folder, "ID_t1", split="test", stored=np.zeros((16, 16)))
    write_slice(folder, "ID_t2", split="test", PatientID=None)
    write_slice(folder, "ID_t3", split="test")
    path = folder / "stage_2_test" / "ID_t3.dcm"
    path.write_bytes(path.read_bytes()[:-200])
    frame = prepare(folder).frame.set_index("image_id")
    test = frame[frame["split"] == "test"]
    assert sorted(test.index) == ["ID_t0", "ID_t1", "ID_t2", "ID_t3"]
    assert test["keep_for_training"].all()
    assert test["status"].to_dict() == {"ID_t0": "ok", "ID_t1": "ok", "ID_t2": "ok",
                                        "ID_t3": "truncated"}  # fmt: skip
    assert pd.isna(test.loc["ID_t2", "patient_id"])
