import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from predictor_factory import make_predictor
from prepared import prepare_dicom, write_rsna_folder, write_series_files

from common.cli import status_of
from common.datasets.samplers import EpochSampler
from common.preparation import merging, prepare_dataset
from common.preparation.checks.check import check_dataset
from common.scoring.metrics import training_prior
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.folds import PSEUDO, folds_path, read_folds, split_rows
from common.slices.leakage import dataset_sources
from common.slices.table import ADDED_COLUMNS, SliceTable
from config import Config
from rsna.build import make_sampler
from rsna.sources.rsna import RSNASource
from rsna_model import RSNAModel
from rsna_task import LABELS, SUBTYPES
from scripts import pseudo_label


def datasets(root: Path) -> Path:
    return root / "input" / "datasets"


def sound(folder: Path) -> list[str]:
    checked = check_dataset(folder, subtypes=SUBTYPES, union="any", n_jobs=0)
    return [found.line() for found in checked.findings]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A prepared dataset `own` with test slices, another one, and an experiment."""
    root = tmp_path_factory.mktemp("root")
    write_rsna_folder(root / "rsna")
    prepare_dataset(RSNASource(root / "rsna"), datasets(root) / "own", n_jobs=0, num_folds=2)
    write_series_files(root / "dicom", "1.2.3.4")
    write_series_files(root / "dicom", "1.2.3.5")
    prepare_dicom(root / "dicom", datasets(root) / "other")
    folder = root / "output" / "results" / "0007"
    folder.mkdir(parents=True)
    config = Config().with_flags(data_dataset="own", data_input_folder=str(root / "input"))
    (folder / "config.yaml").write_text(config.to_yaml())
    network = RSNAModel("test_resnet")

    make_predictor(network=network, model=network.specification).save(folder / "predictor")
    for name in ("own", "other"):
        table = SliceTable.load(datasets(root) / name)
        is_test = table.frame["split"].eq("test") | (name == "other")
        rows = np.flatnonzero(is_test & table.readable)
        logits = np.full((len(rows), len(LABELS)), -6.0)
        logits[0, [0, -1]] = 6.0
        logits[1, [1, -1]] = 0.5
        frame = build_predictions(table.frame.iloc[rows], logits, LABELS, None, "0007")
        place = "predictions/test.parquet" if name == "own" else "predictions/other.parquet"
        write_predictions(folder / place, frame, LABELS)
    return root


def run(monkeypatch, root: Path, name: str, *more: str) -> int:
    flags = ["--data_input_folder", str(root / "input"), "--output_dir", str(root / "output")]
    flags += ["--data_dataset", "own", "--experiment_id", "0007", "--pl_name", name, *more]
    monkeypatch.setattr(sys, "argv", ["scripts/pseudo_label.py", *flags])
    return status_of(pseudo_label.main)


def other_table(root: Path) -> list[str]:
    path = root / "output" / "results" / "0007" / "predictions" / "other.parquet"
    return ["--pl_source", "other", "--pl_predictions", str(path)]


def test_sure_test_slices_are_trained_on_and_never_validated(monkeypatch, capsys, root):
    before = SliceTable.load(datasets(root) / "own")
    assert run(monkeypatch, root, "hard") == 0
    assert "added 2 slices" in capsys.readouterr().out
    folder = datasets(root) / "hard"
    assert sound(folder) == []
    table = SliceTable.load(folder)
    by_model = table.frame["label_source"].eq(f"{PSEUDO}0007")
    assert by_model.sum() == 2 and table.frame.loc[by_model, "split"].eq("test").all()
    assert table.frame.loc[by_model, "any"].tolist() == [1, 0]
    assert len(table) == len(before)
    for fold in (0, 1):
        folds = read_folds(folds_path(folder, fold))
        train, valid = split_rows(table, folds, fold, LABELS)
        assert set(np.flatnonzero(by_model)) <= set(train)
        assert not set(np.flatnonzero(by_model)) & set(valid)
        same = split_rows(before, read_folds(folds_path(before.folder, fold)), fold, LABELS)
        assert len(train) == len(same[0]) + 2 and valid.tolist() == same[1].tolist()


def test_pixels_are_shared_not_copied(monkeypatch, root):
    folder = datasets(root) / "shared"
    assert run(monkeypatch, root, "shared") == 0
    files = sorted((folder / "store").iterdir())
    own = datasets(root) / "own" / "store"
    assert files and all(path.samefile(own / path.name) for path in files)


def test_unsure_labels_are_unknown_where_that_is_asked_for(monkeypatch, root):
    assert run(monkeypatch, root, "partial", "--pl_partial", "1") == 0
    folder = datasets(root) / "partial"
    assert sound(folder) == []
    table = SliceTable.load(folder)
    labels = table.labels(np.arange(len(table)), LABELS)
    by_model = table.frame["label_source"].eq(f"{PSEUDO}0007").to_numpy()
    assert by_model.sum() == 3
    np.testing.assert_array_equal(labels[by_model][1], [0, np.nan, 0, 0, 0, np.nan])
    flags = ["--pl_partial", "1", "--pl_positive", "[0.9]", "--pl_negative", "[0.001]"]
    assert run(monkeypatch, root, "few", *flags) == 0
    table = SliceTable.load(datasets(root) / "few")
    labels = table.labels(np.arange(len(table)), LABELS)
    by_model = table.frame["label_source"].eq(f"{PSEUDO}0007").to_numpy()
    assert by_model.sum() == 1
    np.testing.assert_array_equal(labels[by_model][0], [1, np.nan, np.nan, np.nan, np.nan, 1])
    train, _ = split_rows(table, read_folds(folds_path(table.folder, 0)), 0, LABELS)
    assert np.flatnonzero(by_model)[0] in train


def test_soft_labels_serve_priors_and_samplers(monkeypatch, root):
    flags = ["--pl_labels", "soft", "--pl_positive", "[0.5]", "--pl_negative", "[0.5]"]
    assert run(monkeypatch, root, "soft", *flags) == 0
    assert sound(datasets(root) / "soft") == []
    table = SliceTable.load(datasets(root) / "soft")
    by_model = table.frame["label_source"].eq(f"{PSEUDO}0007").to_numpy()
    labels = table.labels(np.flatnonzero(by_model), LABELS)
    assert by_model.sum() == 3 and ((labels > 0) & (labels < 1)).all()
    assert labels[0, -1] == pytest.approx(1 / (1 + np.exp(-6)), rel=1e-5)
    prior = training_prior(labels)
    assert prior[-1] == pytest.approx(labels[:, -1].astype(float).mean())

    class Side:
        def __init__(self, labels):
            self.labels = labels

        def __len__(self):
            return len(self.labels)

    config = Config().with_flags(data_sampler="balanced")
    sampler = make_sampler(config, Side(labels))
    assert isinstance(sampler, EpochSampler) and sampler.packs[1].tolist() == [0, 1]


def test_slices_of_another_dataset_come_with_their_series(monkeypatch, capsys, root):
    assert run(monkeypatch, root, "more", *other_table(root)) == 0
    assert "added 7 slices" in capsys.readouterr().out
    folder = datasets(root) / "more"
    assert sound(folder) == []
    table = SliceTable.load(folder)
    frame = table.frame[table.frame["source_file"].str.startswith("other/")]
    assert len(frame) == 8 and frame["split"].value_counts().to_dict() == {"train": 7, "none": 1}
    assert table.image_hu(int(frame.index[0])).shape == (16, 16)
    folds = read_folds(folder / "folds.csv")
    assert (folds.set_index("image_id")["fold"].reindex(frame["image_id"]).dropna() == -1).all()


@pytest.fixture(scope="module")
def labelled(root) -> Path:
    """The other dataset, with labels of its own."""
    table = SliceTable.load(datasets(root) / "other")
    frame = table.frame.assign(**dict.fromkeys(LABELS, 0.0), label_source="slices")
    folder = datasets(root) / "labelled"
    folder.mkdir()
    frame.to_parquet(folder / "slices.parquet")
    for name in ("store", "manifest.json"):
        (folder / name).symlink_to(table.folder / name)
    return folder


def test_given_labels_come_with_their_own_source(monkeypatch, root, labelled):
    flags = ["--pl_labels", "given", "--pl_source", labelled.name]
    assert run(monkeypatch, root, "given", *flags) == 0
    merged = SliceTable.load(datasets(root) / "given")
    assert sound(merged.folder) == []
    of_parts = {*dataset_sources(datasets(root) / "own"), *dataset_sources(labelled)}
    assert of_parts and dataset_sources(merged.folder) == sorted(of_parts)
    assert merged.frame["label_source"].eq("given:labelled").sum() == 8
    train, _ = split_rows(merged, read_folds(merged.folder / "folds.csv"), 0, LABELS)
    assert merged.frame["label_source"].iloc[train].eq("given:labelled").sum() == 8


def test_datasets_of_earlier_versions_are_merged(monkeypatch, root, labelled):
    for name in ("own", labelled.name):
        folder = datasets(root) / f"early_{name}"
        shutil.copytree(datasets(root) / name, folder)
        frame = pd.read_parquet(folder / "slices.parquet").drop(columns=list(ADDED_COLUMNS))
        frame.to_parquet(folder / "slices.parquet")
    flags = ["--pl_labels", "given", "--pl_source", "early_labelled", "--data_dataset", "early_own"]
    assert run(monkeypatch, root, "of_early", *flags) == 0
    assert SliceTable.load(datasets(root) / "of_early").frame["split"].eq("train").sum() == 12 + 8


def test_given_labels_of_some_patients_are_drawn_by_the_seed(monkeypatch, capsys, root, labelled):
    flags = ["--pl_labels", "given", "--pl_source", labelled.name, "--pl_num_patients"]
    drawn = []
    for number, seed in enumerate((1, 1, *range(2, 9))):
        name = f"some{number}"
        assert run(monkeypatch, root, name, *flags, "1", "--seed", str(seed)) == 0
        frame = SliceTable.load(datasets(root) / name).frame
        own = frame[frame["label_source"].eq("given:labelled")]
        # All slices of the patient come in.
        assert len(own) == 4 and own["patient_id"].nunique() == 1
        drawn.append(own["patient_id"].iloc[0])
    assert drawn[0] == drawn[1] and len(set(drawn)) == 2
    assert run(monkeypatch, root, "many", *flags, "3") == 2
    assert "--pl_num_patients 3" in capsys.readouterr().err


def test_a_patient_who_is_validated_on_does_not_come_in(monkeypatch, capsys, root):
    """The same person in another dataset: known by the same id."""
    own = SliceTable.load(datasets(root) / "own").frame
    validated = own.loc[own["split"] == "train", "patient_id"].iloc[0]
    table = SliceTable.load(datasets(root) / "other")
    frame = table.frame.copy()
    frame["patient_id"] = frame["patient_id"].replace("patient of 1.2.3.4", validated)
    twin = datasets(root) / "twin"
    twin.mkdir()
    frame.to_parquet(twin / "slices.parquet")
    for name in ("store", "manifest.json"):
        (twin / name).symlink_to(table.folder / name)
    flags = other_table(root)
    flags[1] = "twin"
    assert run(monkeypatch, root, "without", *flags) == 0
    out = capsys.readouterr().out
    assert "added 4 slices" in out and "left out 3 slices of patients" in out
    merged = SliceTable.load(datasets(root) / "without").frame
    assert merged["label_source"].eq(f"{PSEUDO}0007").sum() == 4
    assert sound(datasets(root) / "without") == []


def test_a_check_finds_labels_by_a_model_in_a_fold(monkeypatch, root):
    assert run(monkeypatch, root, "moved") == 0
    folder = datasets(root) / "moved"
    folds = pd.read_csv(folder / "folds.csv", dtype={"fold": int})
    folds.loc[folds["fold"] == -1, "fold"] = 1
    folds.to_csv(folder / "folds.csv", index=False)
    assert any("labels by a model in a fold" in line for line in sound(folder))
    table = SliceTable.load(folder)
    _, valid = split_rows(table, read_folds(folder / "folds.csv"), 1, LABELS)
    assert not table.frame["label_source"].iloc[valid].str.startswith(PSEUDO).any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pl_positive", "[0.9,0.8]"], "one for each label"),
        (["--pl_positive", "[0.1]", "--pl_negative", "[0.9]"], "must not be above"),
        (["--pl_positive", "[2]"], "numbers from 0 to 1"),
        (["--pl_source", "other"], "has not predicted it"),
        (["--pl_labels", "given"], "--pl_labels given needs --pl_source"),
        (["--pl_positive", "[1]", "--pl_negative", "[0]"], "no slice is left to add"),
    ],
)
def test_what_cant_be_done_is_refused_with_the_reason(monkeypatch, capsys, root, flags, message):
    assert run(monkeypatch, root, "refused", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (datasets(root) / "refused").exists()
    assert not list(datasets(root).glob(".*"))


def test_files_without_an_image_id_do_not_matter(monkeypatch, capsys, root):
    """Duplicates and what can't be read have none, so that ids of the table repeat."""
    source = datasets(root) / "own"
    folder = datasets(root) / "nameless"
    folder.mkdir()
    frame = pd.read_parquet(source / "slices.parquet")
    rejected = frame.iloc[[0, 0]].assign(
        image_id=None, status="duplicate", store_file=None, store_index=None, rank=None
    )
    rejected["source_file"] = ["x.dcm", "y.dcm"]
    pd.concat([frame, rejected], ignore_index=True).to_parquet(folder / "slices.parquet")
    for name in ("store", "manifest.json", "folds.csv", "studies.parquet"):
        (folder / name).symlink_to(source / name)
    assert run(monkeypatch, root, "named", "--data_dataset", "nameless") == 0
    table = SliceTable.load(datasets(root) / "named")
    by_model = table.frame["label_source"].eq(f"{PSEUDO}0007")
    assert by_model.sum() == 2 and table.frame.loc[by_model, "any"].tolist() == [1, 0]


def test_two_at_once_make_one_dataset(monkeypatch, capsys, root):
    other = datasets(root) / "raced"

    def slow(folder, *_):
        (folder / "manifest.json").write_text("{}")
        (other / "store").mkdir(parents=True)

    monkeypatch.setattr(merging, "_write_manifest", slow)
    assert run(monkeypatch, root, "raced") == 2
    assert "exists by now" in capsys.readouterr().err
    assert not list(datasets(root).glob(".*"))


def test_any_alone_labels_nothing_whole(monkeypatch, capsys, root):
    """Its negatives would come in and its positives would not."""
    folder = root / "output" / "results" / "any"
    network = RSNAModel("test_resnet", 1)
    make_predictor(
        network=network,
        model=network.specification,
        label_names=("any",),
        label_weights=(1.0,),
        prior=np.array([0.2]),
    ).save(folder / "predictor")
    (folder / "config.yaml").write_text("data_dataset: own\n")
    table = SliceTable.load(datasets(root) / "own")
    rows = np.flatnonzero(table.frame["split"].eq("test"))
    logits = np.array([6.0, -6.0, 0.0])[:, None]
    frame = build_predictions(table.frame.iloc[rows], logits, ("any",), None, "any")
    write_predictions(folder / "predictions" / "test.parquet", frame, ("any",))
    flags = ["--experiment_id", "any"]
    assert run(monkeypatch, root, "of_any", *flags) == 2
    assert "predicts any alone" in capsys.readouterr().err
    assert run(monkeypatch, root, "of_any", *flags, "--pl_partial", "1") == 0
    frame = SliceTable.load(datasets(root) / "of_any").frame
    by_model = frame[frame["label_source"].eq(f"{PSEUDO}any")]
    assert by_model["any"].tolist() == [1, 0]
    assert by_model["epidural"].isna().tolist() == [True, False]


def test_studies_that_cant_be_read_are_refused(monkeypatch, capsys, root):
    source, folder = datasets(root) / "other", datasets(root) / "torn"
    folder.mkdir()
    for name in ("store", "manifest.json", "slices.parquet"):
        (folder / name).symlink_to(source / name)
    (folder / "studies.parquet").write_bytes(b"PAR1 torn")
    flags = other_table(root)
    flags[1] = "torn"
    assert run(monkeypatch, root, "refused", *flags, "--pl_use_studies", "1") == 2
    assert "torn/studies.parquet can't be read" in capsys.readouterr().err
    assert run(monkeypatch, root, "refused", *flags) == 2
    assert "torn/studies.parquet can't be read" in capsys.readouterr().err


def test_a_dataset_is_not_overwritten(monkeypatch, capsys, root):
    assert run(monkeypatch, root, "own") == 2
    assert "exists" in capsys.readouterr().err
