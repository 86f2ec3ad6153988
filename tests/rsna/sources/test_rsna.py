from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_factory import write_rsna
from prepared import write_rsna_folder

from common.errors import InputError
from common.preparation import prepare_dataset
from common.slices.table import SliceTable
from rsna.sources import make_source
from rsna.sources.rsna import RSNASource, read_label_rows
from rsna_task import LABELS


@pytest.mark.parametrize(("stage", "ending"), [("stage_2", ""), ("stage_1", "_images")])
def test_both_stages_and_both_folder_names(stage: str, ending: str, tmp_path: Path) -> None:
    any_of = write_rsna_folder(tmp_path / "in", stage, ending)
    source = make_source("rsna", tmp_path / "in", 0)
    prepared = prepare_dataset(source, tmp_path / "out", n_jobs=0, num_folds=2)
    frame = SliceTable.load(tmp_path / "out").frame.set_index("image_id")
    assert prepared.num_slices == 15
    assert frame.groupby("split").size().to_dict() == {"train": 12, "test": 3}
    assert frame.loc[list(any_of), "any"].astype(int).to_dict() == any_of
    test = frame[frame["split"] == "test"]
    assert test[list(LABELS)].isna().all(axis=None)
    assert frame.loc["ID_000000002", "rank"] == 0
    assert frame.loc["ID_000000000", "rank"] == 2
    folds = pd.read_csv(tmp_path / "out" / "folds.csv")
    assert set(folds["image_id"]) == set(any_of)


def test_stage_2_comes_before_stage_1(tmp_path: Path) -> None:
    for stage in ("stage_1", "stage_2"):
        write_rsna_folder(tmp_path, stage)
    assert RSNASource(tmp_path).stage == "stage_2"
    assert RSNASource(tmp_path).files()["source_file"].str.startswith("stage_2").all()
    (tmp_path / "stage_2_train").rename(tmp_path / "elsewhere")
    assert RSNASource(tmp_path).stage == "stage_1"


def test_images_without_labels_and_labels_without_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rsna_folder(tmp_path / "in")
    (tmp_path / "in" / "stage_2_train" / "ID_000000001.dcm").unlink()
    path = tmp_path / "in" / "stage_2_train.csv"
    lines = [line for line in path.read_text().splitlines() if "ID_100000001" not in line]
    path.write_text("\n".join(lines) + "\n")
    prepare_dataset(RSNASource(tmp_path / "in"), tmp_path / "out", n_jobs=0, num_folds=2)
    frame = SliceTable.load(tmp_path / "out").frame.set_index("image_id")
    assert "1 labelled image without a file" in caplog.text
    assert "1 training image without all labels" in caplog.text
    assert frame.loc["ID_100000001", list(LABELS)].isna().all()
    assert frame["label_source"].isna().sum() == 4


def test_the_file_with_too_few_pixels_keeps_its_id_and_labels(tmp_path: Path) -> None:
    """Like ID_6431af929 of the challenge: its header reads, its pixels do not."""
    any_of = write_rsna_folder(tmp_path / "in")
    short = tmp_path / "in" / "stage_2_train" / "ID_000000001.dcm"
    short.write_bytes(short.read_bytes()[:-100])
    prepare_dataset(RSNASource(tmp_path / "in"), tmp_path / "out", n_jobs=0, num_folds=2)
    frame = SliceTable.load(tmp_path / "out").frame
    bad = frame[frame["source_file"] == "stage_2_train/ID_000000001.dcm"].iloc[0]
    assert bad["status"] == "truncated"
    assert bad["image_id"] == "ID_000000001"
    assert bad["any"] == any_of["ID_000000001"]
    folds = pd.read_csv(tmp_path / "out" / "folds.csv")
    assert set(folds["image_id"]) == set(any_of)
    table = SliceTable.load(tmp_path / "out")
    rows = table.rows_of(["ID_000000000", "ID_000000002"])
    assert table.neighbour_rows(int(rows[1]), [1]) == [rows[0]]


def test_wrapped_12_bit_values_are_repaired_and_counted(tmp_path: Path) -> None:
    write_rsna_folder(tmp_path / "in")
    stored = np.full((16, 16), 3100, np.uint16)
    stored[:8] = 40
    write_rsna(
        tmp_path / "in" / "stage_2_train" / "ID_wrapped.dcm",
        stored,
        "ID_wrapped",
        RescaleIntercept="0",
        PatientID="ID_0",
    )
    prepared = prepare_dataset(RSNASource(tmp_path / "in"), tmp_path / "out", n_jobs=0, num_folds=2)
    assert prepared.notes == {"wrapped 12-bit values were unwrapped": 1}
    table = SliceTable.load(tmp_path / "out")
    image_hu = table.image_hu(int(table.rows_of(["ID_wrapped"])[0]))
    assert sorted(np.unique(image_hu)) == [-996, 40]


def label_file(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["ID,Label", *rows]) + "\n")
    return path


def test_label_rows_become_columns_by_name(tmp_path: Path) -> None:
    path = label_file(tmp_path / "a.csv", "ID_b_any,1", "ID_a_any,0", "ID_b_subdural,1",
                      "ID_b_any,1")  # fmt: skip
    labels, num_repeated = read_label_rows(path)
    assert num_repeated == 1
    assert list(labels.columns) == ["image_id", *LABELS]
    labels = labels.set_index("image_id")
    assert labels.loc["ID_b", ["subdural", "any"]].tolist() == [1, 1]
    assert labels.loc["ID_a", "any"] == 0
    assert np.isnan(labels.loc["ID_a", "subdural"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["ID_a_any,1", "ID_a_any,0"], "different labels"),
        (["ID_a_any,0.5"], r"line 2: Label is '0\.5'"),
        (["ID_a_any,1", "ID_b_any,"], "line 3: the label is missing"),
        (["ID_a_other,1"], "must end in"),
        (["any,1"], "must end in"),
        ([",1"], "must end in"),
        ([], "no row in it"),
    ],
)
def test_wrong_label_files_are_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_label_rows(label_file(tmp_path / "a.csv", *rows))


def test_unknown_labels_contradict_nothing(tmp_path: Path, caplog) -> None:
    write_rsna_folder(tmp_path / "in")
    path = tmp_path / "in" / "stage_2_train.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "_any," not in line))
    labels = RSNASource(tmp_path / "in").labels()
    assert labels["any"].isna().all() and "not the OR" not in caplog.text
    changed = [line.replace("_any,0", "_any,2").replace("_any,1", "_any,0") for line in lines]
    path.write_text("\n".join(line.replace("_any,2", "_any,1") for line in changed))
    RSNASource(tmp_path / "in").labels()
    assert f"in {len(labels)} images, any is not the OR of the others" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff\xfe_any,0\n", b"ID,Label\nID_a_any,2\n"])
def test_a_wrong_label_file_is_told_before_the_work(tmp_path: Path, content: bytes) -> None:
    write_rsna_folder(tmp_path / "in")
    (tmp_path / "in" / "stage_2_train.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"stage_2_train\.csv"):
        prepare_dataset(RSNASource(tmp_path / "in"), tmp_path / "out", n_jobs=0, num_folds=2)
    assert not (tmp_path / "out" / "index").exists()


def test_folders_that_are_not_the_challenge_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stage_2_train\.csv"):
        RSNASource(tmp_path)
    (tmp_path / "stage_2_train.csv").write_text("ID,Label\n")
    with pytest.raises(InputError, match="stage_2_train_images"):
        RSNASource(tmp_path)
    (tmp_path / "stage_2_train.csv").write_text("id,label\na_any,0\n")
    with pytest.raises(InputError, match="ID,Label"):
        read_label_rows(tmp_path / "stage_2_train.csv")
