"""--pre_labels: labels for any tree of DICOM files, by any id."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prepared import write_series_files

from common.dicom.header import hash_of
from common.errors import InputError
from common.preparation import prepare_dataset
from common.preparation.checks.check import check_dataset
from common.preparation.label_file import ACCESSION, LabelFile, LabelFiles
from common.slices.folds import read_folds, split_rows
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource
from rsna_task import LABELS, SUBTYPES


def write_tree(folder: Path, num_patients: int = 4, folders: bool = True, **tags: object) -> None:
    for number in range(num_patients):
        place = folder / (f"hospital{number % 2}" if folders else ".")
        ids = {"AccessionNumber": f"00{number}", "PatientID": f"00{number}"}
        names = ("Clinic  A", "clinic a", "Clinic B", "CLINIC B")
        elements = {**ids, "InstitutionName": names[number], **tags}
        write_series_files(place, f"1.{number}", **elements)


def read(path: Path, *rows: str) -> LabelFile:
    path.write_text("\n".join(rows) + "\n")
    return LabelFile.read(path, SUBTYPES, "any")


def prepare(folder: Path, labels: LabelFile, **options: object) -> SliceTable:
    source = DicomSource(folder / "in", with_accession=labels.key == ACCESSION)
    prepare_dataset(source, folder / "out", n_jobs=0, label_file=labels, **options)
    return SliceTable.load(folder / "out")


def test_labels_of_slices_make_a_training_set_with_folds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tree(tmp_path / "in")
    rows = [f"1.{p}.{i},{i % 2},0,0,0,0" for p in range(4) for i in range(4)]
    header = "SOP Instance UID,Epidural,intraparenchymal,intraventricular,subarachnoid,subdural"
    labels = read(tmp_path / "a.csv", header, *rows[:-1], rows[0], "1.9.9,0,0,0,0,0")
    table = prepare(tmp_path, labels, num_folds=2)
    frame = table.frame.set_index("image_id")
    assert frame["split"].value_counts().to_dict() == {"train": 15, "none": 1}
    assert frame.loc["1.2.1", ["epidural", "any", "label_source"]].tolist() == [1, 1, "slices"]
    assert np.isnan(frame.loc["1.3.3", "any"])
    assert "1 row of the label file without a file" in caplog.text
    assert "1 slice without a row in the label file" in caplog.text
    train, valid = split_rows(table, read_folds(tmp_path / "out" / "folds.csv"), 0, LABELS)
    assert len(train) + len(valid) == 15


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        ("StudyInstanceUID", ["1.0.0", "1.2.0"]),
        ("Accession Number", ["000", "002"]),
        ("pseudonym", ["000", "002"]),
    ],
)
def test_studies_are_labelled_by_any_id(tmp_path: Path, column: str, ids: list[str]) -> None:
    write_tree(tmp_path / "in")
    labels = read(tmp_path / "a.csv", f"{column},any,subdural", f"{ids[0]},1,1", f"{ids[1]},0,")
    table = prepare(tmp_path, labels, num_folds=2)
    studies = pd.read_parquet(tmp_path / "out" / "studies.parquet").set_index("study_id")
    assert studies.loc["1.0.0", ["any", "subdural", "label_source"]].tolist() == [1, 1, "study"]
    assert studies.loc["1.2.0", "any"] == 0
    assert np.isnan(studies.loc["1.2.0", "subdural"])
    assert studies["any"].notna().sum() == 2
    assert table.frame.groupby("study_id")["split"].first().to_dict() == {
        "1.0.0": "test",
        "1.1.0": "none",
        "1.2.0": "test",
        "1.3.0": "none",
    }
    assert not (tmp_path / "out" / "folds.csv").exists()


def test_accession_numbers_are_kept_as_a_hash_and_only_where_needed(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", AccessionNumber="A-77123")
    labels = read(tmp_path / "a.csv", "AccessionNumber,any", "A-77123,1")
    prepare(tmp_path, labels)
    index = pd.read_parquet(tmp_path / "out" / "index" / "headers.parquet")
    assert set(index["accession_hash"]) == {hash_of("A-77123")}
    assert "77123" not in index.to_csv()
    assert "77123" not in pd.read_parquet(tmp_path / "out" / "slices.parquet").to_csv()
    for header in DicomSource(tmp_path / "in").reader.read_headers("hospital0/1.0-1.dcm"):
        assert header.accession_hash is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["name,any", "a,1"], "no column of ids"),
        (["PatientID,blood", "a,1"], "no column is a label"),
        (["PatientID,any", "a,1", "a,0"], "line 3: its PatientID stands in an earlier line"),
        (["PatientID,any", "a,2"], "line 2: any is '2'"),
        (["PatientID,any", "a,1", ",", ",0"], "line 4: PatientID is empty"),
        (["PatientID,any"], "no row in it"),
        (["PatientID;any", "a;0,5"], "commas have to separate its columns"),
        (["PatientID\tany", "a\t1"], "commas have to separate its columns"),
    ],
)
def test_unusable_label_files_are_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.csv", *rows)


def test_any_is_known_where_the_other_labels_decide_it(tmp_path: Path) -> None:
    rows = ["a,0,0,0,,1", "b,0,0,0,,0.5", "c,0,0,0,0,0.5"]
    labels = read(tmp_path / "a.csv", ",".join(["PatientID", *SUBTYPES]), *rows).labels
    assert labels["any"].tolist() == pytest.approx([1, np.nan, 0.5], nan_ok=True)


def test_a_study_that_is_listed_without_a_label_is_not_tested_on(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", num_patients=2)
    table = prepare(tmp_path, read(tmp_path / "a.csv", "StudyInstanceUID,any", "1.0.0,1", "1.1.0,"))
    assert table.frame.groupby("study_id")["split"].first().tolist() == ["test", "none"]


def test_columns_that_are_not_used_are_named(tmp_path: Path, caplog) -> None:
    read(tmp_path / "a.csv", "PatientID,any,subdual,age,hospital", "a,1,1,50,x")
    assert "a.csv: columns that are not used: age, subdual" in caplog.text
    caplog.clear()
    read(tmp_path / "a.csv", "PatientID,any,source", "a,1,x")
    assert caplog.text == ""


def test_a_label_file_of_other_files_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "in")
    with pytest.raises(InputError, match="no label matches a file"):
        # 001 is not 1.
        prepare(tmp_path, read(tmp_path / "a.csv", "PatientID,any", "1,1", "2,0"))


def test_two_rows_of_one_study_that_differ_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", StudyInstanceUID="1.5", PatientID="same")
    with pytest.raises(InputError, match="contradicts itself in 1 study"):
        prepare(tmp_path, read(tmp_path / "a.csv", "AccessionNumber,any", "000,1", "001,0"))


@pytest.mark.parametrize("where", ["table", "folders", "institution"])
def test_hospitals_make_folds(tmp_path: Path, where: str) -> None:
    write_tree(tmp_path / "in", folders=where != "institution")
    rows = [f"1.{p}.{i},{i % 2},{'ab'[p // 3]}" for p in range(4) for i in range(4)]
    header = "SOPInstanceUID,any,hospital" if where == "table" else "SOPInstanceUID,any,other"
    labels = read(tmp_path / "a.csv", header, *rows)
    prepare(tmp_path, labels, num_folds=2, fold_by="source")
    folds = read_folds(tmp_path / "out" / "folds.csv")
    fold_of = folds.groupby("patient_id")["fold"].agg(lambda fold: set(fold)).sort_index().tolist()
    expected = {"table": "0001", "folders": "0101", "institution": "0011"}[where]
    if where == "institution":  # the order of hashes is as good as any
        assert fold_of[0] == fold_of[1] != fold_of[2] == fold_of[3]
    else:
        assert fold_of == [{int(fold)} for fold in expected]


def test_no_hospitals_are_refused_before_pixels_are_read(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", folders=False, num_patients=2)
    rows = [f"1.{p}.{i},{i % 2}" for p in range(2) for i in range(4)]
    with pytest.raises(InputError, match="one source, or of as many as patients"):
        prepare(
            tmp_path,
            read(tmp_path / "a.csv", "SOPInstanceUID,any", *rows),
            num_folds=2,
            fold_by="source",
        )
    assert not (tmp_path / "out" / "store").exists()


def test_a_study_without_a_patient_is_taken_for_one(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", PatientID="")
    rows = [f"1.{p}.{i},{i % 2}" for p in range(4) for i in range(4)]
    labels = read(tmp_path / "a.csv", "SOPInstanceUID,any", *rows)
    table = prepare(tmp_path, labels, num_folds=2)
    folds = read_folds(tmp_path / "out" / "folds.csv")
    assert set(folds["patient_id"]) == {f"1.{p}.0" for p in range(4)}
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    folds.loc[0, "fold"] = 1 - folds.loc[0, "fold"]
    with pytest.raises(InputError, match="1 patient on both sides"):
        split_rows(table, folds, 0, ["any"])


@pytest.mark.parametrize("columns", ["any,any", "any,Any"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, columns: str) -> None:
    with pytest.raises(InputError, match="the column any is there twice"):
        read(tmp_path / "a.csv", f"StudyInstanceUID,{columns}", "1.2,1,0")


@pytest.mark.parametrize("value", ["-0.1", "1.01", "nan", "yes", "inf", "0,5"])
def test_a_label_outside_0_to_1_is_refused_by_its_line(tmp_path: Path, value: str) -> None:
    rows = ["SOPInstanceUID,any,subdural", "1.0.0,0.5,1", f'1.0.1,"{value}",0']
    with pytest.raises(InputError, match=r"a\.csv, line 3: any is '.*from 0 to 1 or empty"):
        read(tmp_path / "a.csv", *rows)


def two_files(tmp_path: Path) -> LabelFiles:
    """Patients 0 and 1 have labelled slices, 2 and 3 labelled studies, all shares of raters."""
    header = "any,epidural,intraparenchymal,intraventricular,subarachnoid,subdural"
    values = "{0},{0},0,0,0,0"
    rows = [f"1.{p}.{i}," + values.format((i % 2) * 0.75) for p in range(2) for i in range(4)]
    slices = read(tmp_path / "slices.csv", f"SOPInstanceUID,{header}", *rows)
    rows = ["1.2.0," + values.format(1 / 3), "1.3.0," + values.format(2 / 3)]
    studies = read(tmp_path / "studies.csv", f"StudyInstanceUID,{header}", *rows)
    both = LabelFiles.of([slices, studies])
    assert isinstance(both, LabelFiles)
    return both


def test_any_below_another_label_is_named(tmp_path: Path, caplog) -> None:
    rows = ["1.1,1,1", "1.2,1,0", "1.3,,0", "1.4,0.4,0.3", "1.5,0.4,0.4"]
    read(tmp_path / "a.csv", "StudyInstanceUID,subdural,any", *rows)
    assert "a.csv: 2 rows with any below another label, the first in line 3" in caplog.text
    caplog.clear()
    read(tmp_path / "a.csv", "StudyInstanceUID,subdural,any", rows[0], rows[2], rows[4])
    assert caplog.text == ""


def test_slices_of_some_and_studies_of_others_are_trained_on(tmp_path: Path, caplog) -> None:
    write_tree(tmp_path / "in")
    both = two_files(tmp_path)
    source = DicomSource(tmp_path / "in")
    options = {"n_jobs": 0, "label_file": both, "num_folds": 2}
    prepare_dataset(source, tmp_path / "out", train_studies=True, **options)
    table = SliceTable.load(tmp_path / "out")
    assert set(table.frame["split"]) == {"train"}
    assert "without all labels" not in caplog.text
    assert table.frame.set_index("image_id").loc["1.0.1", "any"] == 0.75
    assert table.frame.loc[table.frame["study_id"] == "1.2.0", "any"].isna().all()
    studies = pd.read_parquet(tmp_path / "out" / "studies.parquet").set_index("study_id")
    assert studies["any"].tolist() == pytest.approx([0.75, 0.75, 1 / 3, 2 / 3])
    assert studies["label_source"].tolist() == ["slices", "slices", "study", "study"]
    # Both folds have one patient of each kind of majority.
    folds = read_folds(tmp_path / "out" / "folds.csv")
    patients = folds.drop_duplicates("patient_id").set_index("patient_id")["fold"]
    assert sorted(patients.value_counts()) == [2, 2]
    checked = check_dataset(tmp_path / "out", subtypes=SUBTYPES, union="any", n_jobs=0)
    checked.raise_findings()
    # Without the flag, studies labelled as a whole are for evaluation.
    prepare_dataset(source, tmp_path / "test", **options)
    splits = SliceTable.load(tmp_path / "test").frame.groupby("patient_id")["split"].first()
    assert splits.tolist() == ["train", "train", "test", "test"]


def test_two_files_of_one_kind_are_refused(tmp_path: Path) -> None:
    one = read(tmp_path / "a.csv", "PatientID,any", "a,1")
    with pytest.raises(InputError, match="several files of one kind"):
        LabelFiles.of([one, one])
    assert LabelFiles.of([one]) is one and LabelFiles.of([]) is None


def test_studies_that_contradict_their_slices_are_counted(tmp_path: Path, caplog) -> None:
    write_tree(tmp_path / "in")
    slices = read(tmp_path / "a.csv", "SOPInstanceUID,any", *(f"1.0.{i},1" for i in range(4)))
    studies = read(tmp_path / "b.csv", "StudyInstanceUID,any", "1.0.0,0.25", "1.1.0,0")
    prepare_dataset(
        DicomSource(tmp_path / "in"),
        tmp_path / "out",
        n_jobs=0,
        label_file=LabelFiles.of([slices, studies]),
    )
    assert "1 study whose label contradicts those of their slices" in caplog.text


def test_nothing_to_train_on_without_labelled_studies(tmp_path: Path) -> None:
    write_tree(tmp_path / "in")
    labels = read(tmp_path / "a.csv", "SOPInstanceUID,any", "1.0.0,1")
    with pytest.raises(InputError, match="--pre_train_studies 1: no studies are labelled"):
        prepare(tmp_path, labels, train_studies=True)
