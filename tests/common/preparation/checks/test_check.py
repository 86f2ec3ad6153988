"""A prepared dataset is broken in one way at a time; the check must name exactly that."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prepared import contents, write_rsna_folder

from common.cli import status_of
from common.errors import CheckFailed, InputError
from common.files import write_json
from common.preparation import prepare_dataset
from common.preparation.checks.check import Checked, check_dataset
from common.preparation.manifest import table_hashes
from common.slices.store import SeriesWriter, SliceStore
from common.slices.table import SliceTable
from common.tables import write_parquet
from preprocessing import main
from rsna.sources.rsna import RSNASource
from rsna_task import LABELS, SUBTYPES

Breaking = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training slices of four patients, three test slices of a fifth."""
    folder = tmp_path_factory.mktemp("check")
    write_rsna_folder(folder / "in")
    prepare_dataset(RSNASource(folder / "in"), folder / "x", n_jobs=0, num_folds=2)
    return folder / "x"


@pytest.fixture
def dataset(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "datasets" / "x"))


def check(dataset: Path, n_jobs: int = 0) -> Checked:
    return check_dataset(dataset, subtypes=SUBTYPES, union="any", n_jobs=n_jobs)


def rehash(dataset: Path) -> None:
    """Make the manifest agree with changed tables: what else finds the change?"""
    edit_manifest(lambda manifest: manifest.update(sha256=table_hashes(dataset)))(dataset)


def edit_manifest(change: Callable[[dict], object]) -> Breaking:
    def breaking(dataset: Path) -> None:
        manifest = json.loads((dataset / "manifest.json").read_text())
        change(manifest)
        write_json(dataset / "manifest.json", manifest)

    return breaking


def edit(change: Callable[[pd.DataFrame], pd.DataFrame | None], table: str = "slices") -> Breaking:
    def breaking(dataset: Path) -> None:
        frame = pd.read_parquet(dataset / f"{table}.parquet")
        changed = change(frame)
        write_parquet(dataset / f"{table}.parquet", frame if changed is None else changed)
        rehash(dataset)

    return breaking


def put(column: str, value: object, row: int = 1, table: str = "slices") -> Breaking:
    """Write one value; the first rows are of training, the last three of the test."""

    def change(frame: pd.DataFrame) -> None:
        frame.loc[frame.index[row], column] = value

    return edit(change, table)


def edit_folds(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Breaking:
    def breaking(dataset: Path) -> None:
        folds = pd.read_csv(dataset / "folds.csv", dtype={"patient_id": "str"})
        change(folds).to_csv(dataset / "folds.csv", index=False)
        rehash(dataset)

    return breaking


def move_one_slice(folds: pd.DataFrame) -> pd.DataFrame:
    return folds.assign(fold=[1 - folds["fold"][0], *folds["fold"][1:]])


def give_split(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Breaking:
    def breaking(dataset: Path) -> None:
        folds = pd.read_csv(dataset / "folds.csv")
        side = np.where(folds["fold"] == 0, "valid", "train")
        given = folds[["image_id"]].assign(sample_type=side)
        change(given).to_csv(dataset / "dataset_x_fold_0.csv", index=False)

    return breaking


def first_file(dataset: Path) -> Path:
    return sorted((dataset / "store").iterdir())[0]


def rewrite(
    change: Callable[[list[np.ndarray]], list[np.ndarray]], is_forged: bool = False
) -> Breaking:
    """Write a store file anew with other pixels; not forged: with the old checksums."""

    def breaking(dataset: Path) -> None:
        path = first_file(dataset)
        store = SliceStore(path.parent)
        images = [store.read(path.name, k) for k in range(store.num_slices(path.name))]
        checksums = store.checksums(path.name).tolist()
        images = change(images)
        writer = SeriesWriter(*images[0].shape)
        for image_hu in images:
            writer.append(image_hu)
        if not is_forged:
            writer._chunks._checksums = checksums
        writer.write(path)

    return breaking


def another_pixel(images: list[np.ndarray]) -> list[np.ndarray]:
    images[1] = images[1].copy()
    images[1][0, 0] += 1
    return images


def too_low(images: list[np.ndarray]) -> list[np.ndarray]:
    images[1] = images[1].copy()
    images[1][0, 0] = -3024
    return images


def cut(dataset: Path) -> None:
    path = first_file(dataset)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap_ranks(frame: pd.DataFrame) -> None:
    frame.loc[[0, 1], "rank"] = frame["rank"].iloc[[1, 0]].to_numpy()


def drop_row(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(index=1)


def share_patient(frame: pd.DataFrame) -> None:
    frame.loc[frame["split"] == "test", "patient_id"] = frame["patient_id"][0]


def same_patient_in_studies(dataset: Path) -> None:
    edit(share_patient)(dataset)
    slices = pd.read_parquet(dataset / "slices.parquet")
    patients = slices.drop_duplicates("study_id").set_index("study_id")["patient_id"]

    def change(studies: pd.DataFrame) -> None:
        studies["patient_id"] = studies["study_id"].map(patients)

    edit(change, "studies")(dataset)


def contradict(dataset: Path) -> None:
    """A slice with a subtype and without any; its study follows its slices."""
    frame = pd.read_parquet(dataset / "slices.parquet")
    frame.loc[1, list(LABELS)] = [1.0, 0, 0, 0, 0, 0]
    write_parquet(dataset / "slices.parquet", frame)
    studies = pd.read_parquet(dataset / "studies.parquet").set_index("study_id")
    of_study = frame[frame["study_id"] == frame["study_id"][1]]
    studies.loc[frame["study_id"][1], list(LABELS)] = of_study[list(LABELS)].max().to_numpy()
    write_parquet(dataset / "studies.parquet", studies.reset_index())
    rehash(dataset)


def remove(name: str) -> Breaking:
    return lambda dataset: (dataset / name).unlink()


BREAKINGS: dict[str, tuple[Breaking, set[str]]] = {
    "a table was changed": (
        lambda dataset: edit_manifest(lambda m: m["sha256"].update({"folds.csv": "0"}))(dataset),
        {"changed_table"},
    ),
    "a row was lost": (
        edit(drop_row),
        {"counts", "rank", "fold_unknown", "length"},
    ),
    "a count is another": (edit_manifest(lambda m: m["counts"].update(num_files=99)), {"counts"}),
    "no manifest": (remove("manifest.json"), {"manifest"}),
    "not finished": (edit_manifest(lambda m: m.update(complete=False)), {"unfinished"}),
    "no table": (remove("slices.parquet"), {"changed_table", "unreadable_table"}),
    "the table is damaged": (
        lambda dataset: (dataset / "slices.parquet").write_bytes(b"PAR1") and None,
        {"changed_table", "unreadable_table"},
    ),
    "a column is missing": (edit(lambda frame: frame.drop(columns="any")), {"columns"}),
    "labels are text": (
        edit(lambda frame: frame.assign(any=frame["any"].astype(str))), {"label_type"}),
    "labels of studies are text": (
        edit(lambda frame: frame.assign(any=frame["any"].astype(str)), "studies"), {"label_type"}),
    "an id twice": (
        edit(lambda frame: frame.assign(image_id=["ID_000000000"] * 2 + [*frame["image_id"][2:]])),
        {"repeated_ids", "fold_unknown"},
    ),
    "an id is missing": (put("image_id", None), {"no_id", "fold_unknown"}),
    "pixels are missing": (
        edit(lambda frame: frame.assign(
            store_file=frame["store_file"].where(frame.index != 1),
            store_index=frame["store_index"].where(frame.index != 1),
        )),
        {"no_pixels", "length"},
    ),
    "a rejected slice has pixels": (put("status", "corrupt"), {"counts", "rejected_pixels"}),
    "two rows share pixels": (put("store_index", 0), {"shared_pixels", "length", "hu_measures"}),
    "two ranks swapped": (edit(swap_ranks), {"position"}),
    "a rank twice": (put("rank", 0), {"rank"}),
    "a position is another": (put("position_mm", 99.0), {"position"}),
    "a wrong number of slices": (put("num_slices", 4), {"rank"}),
    "hu_min is out of range": (put("hu_min", -2000), {"hu_range", "hu_measures"}),
    "hu_mean is another": (put("hu_mean", 3.5), {"hu_measures"}),
    "hu_max is missing": (put("hu_max", None), {"hu_range", "hu_measures"}),
    "any is not the largest": (contradict, {"union"}),
    "a label is 2": (put("epidural", 2.0), {"label_value", "studies"}),
    "a label is missing": (put("epidural", None), {"no_label"}),
    "a study contradicts its slices": (
        edit(lambda frame: frame.assign(any=1 - frame["any"]), "studies"),
        {"studies", "study_union"},
    ),
    "a study is missing": (edit(drop_row, "studies"), {"studies"}),
    "a study has another patient": (put("patient_id", "who", table="studies"), {"studies"}),
    "no studies": (remove("studies.parquet"), {"unreadable_table", "changed_table"}),
    "no folds": (remove("folds.csv"), {"no_folds", "changed_table"}),
    "the folds have other columns": (
        edit_folds(lambda folds: folds.drop(columns="fold")), {"folds_unreadable"}),
    "a patient in two folds": (edit_folds(move_one_slice), {"fold_spread"}),
    "a slice in no fold": (edit_folds(lambda folds: folds.iloc[1:]), {"fold_missing"}),
    "an unknown id in the folds": (
        edit_folds(lambda f: pd.concat([f, f.iloc[:1].assign(image_id="who")])), {"fold_unknown"}),
    "a test slice in the folds": (
        edit_folds(lambda f: pd.concat([f, f.iloc[:1].assign(image_id="ID_400000000")])),
        {"fold_unknown"},
    ),
    "another patient in the folds": (
        edit_folds(lambda folds: folds.assign(patient_id=["who", *folds["patient_id"][1:]])),
        {"fold_patient"},
    ),
    "a fold too many": (
        edit_manifest(lambda m: m["parameters"].update(num_folds=3)), {"fold_numbers"}),
    "a given split knows other ids": (
        give_split(lambda given: given.assign(image_id="not " + given["image_id"])),
        {"given_unknown"},
    ),
    "a given split parts a patient": (
        give_split(lambda g: g.assign(sample_type=["train", *["valid"] * (len(g) - 1)])),
        {"given_spread"},
    ),
    "a given split is unusable": (
        give_split(lambda given: given.assign(sample_type="who")), {"given_unreadable"}),
    "a patient in train and test": (same_patient_in_studies, {"overlap"}),
    "a store file is missing": (
        lambda dataset: first_file(dataset).unlink(), {"missing_file"}),
    "a store file that no row names": (
        lambda dataset: (dataset / "store" / "x.b2nd").write_bytes(b"") and None, {"orphan_file"}),
    "a store file is cut": (cut, {"open"}),
    "other pixels": (rewrite(another_pixel), {"checksum"}),
    "other pixels with their checksum": (rewrite(another_pixel, is_forged=True), {"hu_measures"}),
    "pixels out of range": (rewrite(too_low, is_forged=True), {"hu_measures", "hu_pixels"}),
    "another shape": (
        rewrite(lambda images: [image[:8] for image in images], is_forged=True),
        {"shape", "hu_measures"},
    ),
    "a slice too few in the store": (
        rewrite(lambda images: images[:-1], is_forged=True), {"length"}),
}  # fmt: skip


def test_a_sound_dataset_passes_and_stays_as_it_was(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(dataset)
    checked = check(dataset)
    assert checked.findings == []
    assert checked.line().startswith("checked 15 rows, 15 slices in 5 store files (0.0 MB), 5 pat")
    checked.raise_findings()
    flags = ["--data_input_folder", str(dataset.parents[1]), "--data_dataset", "x", "--n_jobs", "0"]
    monkeypatch.setattr("sys.argv", ["preprocessing.py", "--pre_check", "1", *flags])
    assert status_of(main) == 0
    assert capsys.readouterr().out.strip().endswith("2 folds: all is sound")
    assert contents(dataset) == before


@pytest.mark.parametrize("name", BREAKINGS)
def test_each_fault_is_found_and_named(name: str, dataset: Path) -> None:
    breaking, kinds = BREAKINGS[name]
    breaking(dataset)
    checked = check(dataset)
    assert {found.kind for found in checked.findings} == kinds
    with pytest.raises(CheckFailed) as failed:
        checked.raise_findings()
    assert len(failed.value.findings) == len(kinds)
    text = "\n".join(failed.value.findings)
    # Neither patients nor studies are named.
    assert "ID_study" not in text
    assert not any(f"ID_{patient}{end}" in text for patient in range(5) for end in (" ", ",", ")"))
    for found in checked.findings:
        assert found.count >= 1 and found.advice


def test_a_finding_tells_what_how_many_the_first_and_what_to_do(dataset: Path) -> None:
    edit(lambda frame: frame.assign(hu_mean=frame["hu_mean"] + 1))(dataset)
    (found,) = check(dataset).findings
    files = SliceTable.load(dataset).frame.set_index("image_id")["store_file"]
    ids = [f"ID_00000000{index}" for index in range(3)]
    first = ", ".join(f"{name} in {files[name]}" for name in ids)
    assert found.count == 15
    assert f": 15 (first {first}): delete these files of store/ and run" in found.line()


def test_statuses_of_the_script(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data_input_folder", str(dataset.parents[1]), "--n_jobs", "0", "--data_dataset"]
    command = ["preprocessing.py", "--pre_check", "1", *flags]
    cut(dataset)
    monkeypatch.setattr("sys.argv", [*command, "x"])
    assert status_of(main) == 3
    told = capsys.readouterr()
    assert told.out.strip().endswith("2 folds: found 1 fault")
    assert "store files that can't be opened: 1 (first" in told.err
    monkeypatch.setattr("sys.argv", [*command, "absent"])
    assert status_of(main) == 2
    assert "no dataset at" in capsys.readouterr().err


def test_readers_of_a_whole_scan_may_agree_on_any_alone(dataset: Path) -> None:
    def change(studies: pd.DataFrame) -> None:
        studies[list(LABELS)] = [0.0, 0, 0, 0, 0, 1]
        studies["label_source"] = "study"

    edit(change, "studies")(dataset)
    assert check(dataset).findings == []


def test_a_dataset_under_preparation_is_refused(dataset: Path) -> None:
    import fcntl

    with open(dataset / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="being prepared"):
            check(dataset)


def test_what_was_rejected_or_can_not_be_decoded_is_sound(tmp_path: Path) -> None:
    write_rsna_folder(tmp_path / "in")
    (tmp_path / "in" / "stage_2_train" / "notes.dcm").write_text("none")
    cut_file = tmp_path / "in" / "stage_2_train" / "ID_100000001.dcm"
    cut_file.write_bytes(cut_file.read_bytes()[:-100])
    prepare_dataset(RSNASource(tmp_path / "in"), tmp_path / "x", n_jobs=0, num_folds=2)
    assert check(tmp_path / "x").findings == []


@pytest.mark.long
def test_processes_find_what_one_finds(dataset: Path) -> None:
    rewrite(another_pixel)(dataset)
    sorted((dataset / "store").iterdir())[1].write_bytes(b"nothing")
    assert check(dataset, n_jobs=2) == check(dataset)


@pytest.mark.long
def test_ct_ich_is_sound(test_data: Path, tmp_path: Path) -> None:
    from rsna.sources.ct_ich import CtIchSource

    source = CtIchSource(test_data / "ct_ich")
    prepare_dataset(source, tmp_path / "ct", n_jobs=2, num_folds=5)
    checked = check(tmp_path / "ct", n_jobs=2)
    assert checked.findings == []
    assert (checked.num_slices, checked.num_patients, checked.num_folds) == (1807, 60, 5)
