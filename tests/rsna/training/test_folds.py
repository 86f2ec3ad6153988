"""train.py --data_fold all: every row once, by a model that has not seen its patient."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_dataset import make_tiny_dataset

import evaluate
import predict
import rsna.training.folds
import train
from common.checkpoint import load_checkpoint
from common.cli import status_of
from common.errors import Interrupted
from common.features.store import FeatureTable
from common.predictors.base import PredictOptions
from common.predictors.loading import load_predictor
from common.report import EvaluationReport
from common.slices.folds import FOLDS_FILE, read_folds
from common.slices.leakage import folds_digest
from common.slices.table import SliceTable
from rsna.training.training import RSNATraining
from rsna_model import build_model
from rsna_task import LABELS

ROOT = Path(__file__).resolve().parents[3]
FLAGS = [
    *("--data_dataset", "tiny", "--net_model", "test_efficientnet", "--net_pretrained", "0"),
    *("--data_img_size", "32", "--tr_iteration_num", "4", "--tr_batch_size", "4"),
    *("--tr_iteration_valid", "2", "--tr_batch_size_valid", "16", "--tr_iteration_checkpoint", "1"),
    *("--net_drop_rate", "0.3", "--optim_ema_bn_samples", "8", "--mlflow_enabled", "0"),
]
LOGITS = [f"logit_{label}" for label in LABELS]


def make_dataset_with_test_rows(folder: Path) -> Path:
    """The tiny dataset, and the last of its patients once more, under other ids, as test rows."""
    make_tiny_dataset(folder, num_patients=6, num_folds=2)
    frame = pd.read_parquet(folder / "slices.parquet")
    test = frame[frame["patient_id"] == "patient5"].copy()
    for name in ("image_id", "patient_id", "study_id", "series_id"):
        test[name] = "T" + test[name]
    test = test.assign(split="test", store_file="test.b2nd", **dict.fromkeys(LABELS, np.nan))
    shutil.copy(folder / "store" / "series5.b2nd", folder / "store" / "test.b2nd")
    pd.concat([frame, test], ignore_index=True).to_parquet(folder / "slices.parquet")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    make_dataset_with_test_rows(folder / "input" / "datasets" / "tiny")
    return folder


def call(main, place: Path, *flags: str) -> int:
    """The status of a script's main in this process; pages cost seconds: none are drawn."""
    places = ["--data_input_folder", str(place / "input")] if main is not predict.main else []
    places += ["--output_dir", str(place / "output"), "--n_jobs", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvaluationReport, "html", lambda self: f"page of {self.title}")
        patch.setattr(sys, "argv", ["train.py", *places, *flags])
        return status_of(main)


def results(place: Path, experiment: str) -> Path:
    return place / "output" / "results" / experiment


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """An experiment with both folds."""
    assert call(train.main, place, *FLAGS, "--data_fold", "all", "--experiment_id", "whole") == 0
    return results(place, "whole")


@pytest.fixture(scope="module")
def table(place) -> SliceTable:
    return SliceTable.load(place / "input" / "datasets" / "tiny")


def test_every_row_is_predicted_once_by_the_fold_that_validates_it(place, whole):
    folds = read_folds(place / "input" / "datasets" / "tiny" / "folds.csv")
    expected = folds.set_index("image_id")["fold"]
    for name in ("oof", "oof_best"):
        frame = pd.read_parquet(whole / "predictions" / f"{name}.parquet")
        assert sorted(frame["image_id"]) == sorted(expected.index)
        assert (frame["fold"].to_numpy() == expected[frame["image_id"]].to_numpy()).all()
        assert set(frame["view"]) == {"mean"} and set(frame["experiment_id"]) == {"whole"}
    oof = pd.read_parquet(whole / "predictions" / "oof.parquet").set_index("image_id")
    for fold in (0, 1):
        valid = pd.read_parquet(whole / f"fold_{fold}" / "predictions" / "valid.parquet")
        np.testing.assert_array_equal(oof.loc[valid["image_id"], LOGITS], valid[LOGITS])
        assert set(valid["experiment_id"]) == {f"whole/fold_{fold}"}


def test_a_fold_is_what_it_is_trained_alone(place, whole):
    flags = ("--data_fold", "1", "--experiment_id", "alone")
    assert call(train.main, place, *FLAGS, *flags) == 0
    states = [
        load_checkpoint(folder / "checkpoints" / "last.pt")["model"]
        for folder in (results(place, "alone"), whole / "fold_1")
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not (results(place, "alone") / "features").exists()


def test_test_rows_are_the_mean_over_folds(whole):
    frame = pd.read_parquet(whole / "predictions" / "test.parquet")
    assert sorted(frame["image_id"]) == [f"TID_5_{index}" for index in range(4)]
    assert frame["fold"].isna().all()
    parts = [
        pd.read_parquet(whole / f"fold_{fold}" / "predictions" / "test.parquet")[LOGITS].to_numpy()
        for fold in (0, 1)
    ]
    assert np.abs(parts[0] - parts[1]).max() > 1e-5
    np.testing.assert_allclose(frame[LOGITS], np.mean(parts, axis=0), atol=1e-6)


def test_features_are_what_each_network_sees(place, whole, table):
    features = FeatureTable.load(whole / "features", "oof")
    digest = folds_digest(read_folds(place / "input" / "datasets" / "tiny" / "folds.csv"))
    assert (features.views, features.folds) == (["plain"], [0, 1])
    wanted = {"experiment": "whole", "dataset": "tiny", "folds_sha256": digest}
    assert wanted.items() <= features.manifest.items()
    oof = pd.read_parquet(whole / "predictions" / "oof.parquet").set_index("image_id")
    assert len(features) == len(oof)
    for fold in (0, 1):
        predictor = load_predictor(whole / f"fold_{fold}" / "predictor", build_model)
        ids = oof.index[oof["fold"] == fold]
        seen = features.read(features.rows_of(ids))
        with torch.inference_mode():
            logits = predictor.network.forward_head(torch.from_numpy(seen)).numpy()
        np.testing.assert_allclose(logits, oof.loc[ids, LOGITS], atol=5e-3)
        options = PredictOptions(with_features=True)
        predicted = predictor.predict_rows(table, table.rows_of(ids), options).features
        np.testing.assert_array_equal(seen, predicted.astype(np.float16))
    tests = FeatureTable.load(whole / "features", "test")
    rows = [tests.rows_of(["TID_5_2"], fold=fold) for fold in (0, 1)]
    assert (tests.frame["fold"].value_counts() == 4).all()
    assert np.abs(tests.read(rows[0]) - tests.read(rows[1])).max() > 1e-3


def test_the_metrics_are_those_of_the_last_weights_with_the_selected_marked(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["selected"] is False and metrics["best"]["selected"] is True
    assert metrics["num_slices"] == 24
    folds = [json.loads((whole / f"fold_{k}" / "metrics.json").read_text()) for k in (0, 1)]
    # Folds of equal size: the pooled figures are their means.
    for name in ("weighted_log_loss", "prior_weighted_log_loss"):
        mean = np.mean([fold[name] for fold in folds])
        assert metrics[name] == pytest.approx(mean, rel=1e-9)
        assert [metrics["folds"][str(k)][name] for k in (0, 1)] == [fold[name] for fold in folds]


def test_finished_folds_are_not_trained_again(place, whole, monkeypatch):
    def fail(*_):
        raise AssertionError("trained again")

    before = (whole / "predictions" / "oof.parquet").read_bytes()
    shutil.rmtree(whole / "predictions")
    monkeypatch.setattr(RSNATraining, "run", fail)
    assert call(train.main, place, "--experiment_id", "whole", "--tr_resume", "1") == 0
    assert (whole / "predictions" / "oof.parquet").read_bytes() == before


def test_features_that_were_removed_are_made_again(place, whole):
    copy = results(place, "cleaned")
    shutil.copytree(whole, copy)
    wanted = FeatureTable.load(whole / "features", "oof")
    shutil.rmtree(copy / "features")
    shutil.rmtree(copy / "fold_1" / "features")
    assert call(train.main, place, "--experiment_id", "cleaned", "--tr_resume", "1") == 0
    found = FeatureTable.load(copy / "features", "oof")
    rows = np.arange(len(wanted))
    np.testing.assert_array_equal(found.read(rows), wanted.read(rows))
    pd.testing.assert_frame_equal(found.frame, wanted.frame)
    assert len(FeatureTable.load(copy / "features", "test")) == 8
    # A fold is never begun anew for its features.
    shutil.rmtree(copy / "fold_0" / "features")
    shutil.rmtree(copy / "fold_0" / "checkpoints")
    assert call(train.main, place, "--experiment_id", "cleaned", "--tr_resume", "1") == 0
    assert (copy / "fold_0" / "predictor" / "model.pt").is_file()
    assert not (copy / "fold_0" / "features").exists()


def test_it_evaluates_and_predicts_as_any_experiment(place, whole, capsys, caplog, tmp_path):
    assert call(evaluate.main, place, "--experiment_id", "whole") == 0
    out = capsys.readouterr().out
    assert out.startswith("out-of-fold ") and "best checkpoints*" in out and "  fold 1 " in out
    assert call(evaluate.main, place, "--experiment_id", "whole/fold_1") == 0
    datasets = place / "input" / "datasets"
    shutil.copytree(datasets / "tiny", datasets / "other")
    flags = ("--experiment_id", "whole", "--data_dataset", "other", "--pr_tta_views", "flip_lr")
    assert call(evaluate.main, place, *flags) == 2  # the same folds under another name
    assert "was trained on 6 patients of it" in capsys.readouterr().err
    (datasets / "other" / FOLDS_FILE).unlink()
    assert call(evaluate.main, place, *flags) == 0
    assert (whole / "evaluations" / "other" / "metrics.json").is_file()
    assert "6 patients and 24 images are, by their ids, in the dataset tiny too" in caplog.text
    flags = ("--pr_input", str(place / "input" / "datasets" / "tiny"), "--pr_output", str(tmp_path))
    assert call(predict.main, place, "--experiment_id", "whole", *flags) == 0
    frame = pd.read_parquet(tmp_path / "predictions.parquet").set_index("image_id")
    test = pd.read_parquet(whole / "predictions" / "test.parquet").set_index("image_id")
    np.testing.assert_allclose(frame.loc[test.index, LOGITS], test[LOGITS], atol=1e-5)


def test_a_fold_that_saw_the_patient_is_found(place, whole, capsys):
    """Planted: the tables of both folds are those of the first."""
    copy = results(place, "leaky")
    shutil.copytree(whole, copy)
    for fold in (0, 1):
        path = copy / f"fold_{fold}" / "predictions" / "valid.parquet"
        frame = pd.read_parquet(path)
        frame.assign(fold=0).to_parquet(path)
    assert call(train.main, place, "--experiment_id", "leaky", "--tr_resume", "1") == 2
    assert "12 rows of 3 patients from a model that was trained" in capsys.readouterr().err


def test_folds_that_changed_since_are_found(place, whole, capsys):
    path = place / "input" / "datasets" / "tiny" / "folds.csv"
    content = path.read_text()
    try:
        folds = pd.read_csv(path)
        folds.assign(fold=1 - folds["fold"]).to_csv(path, index=False)
        assert call(train.main, place, "--experiment_id", "whole", "--tr_resume", "1") == 2
    finally:
        path.write_text(content)
    assert "were made with other folds" in capsys.readouterr().err


@pytest.mark.long
def test_stopped_between_folds_it_goes_on_with_all(place, capsys, monkeypatch):
    def stop(*_):
        raise Interrupted(signal.SIGTERM, "python train.py of one fold")

    with monkeypatch.context() as patch:
        patch.setattr(rsna.training.folds.RSNAFoldsTraining, "_evaluate_fold", stop)
        flags = ("--data_fold", "all", "--experiment_id", "stopped", "--tr_features", "0")
        flags += ("--tr_iteration_num", "1", "--tr_iteration_valid", "0")
        assert call(train.main, place, *FLAGS, *flags) == 143
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Stopped. To go on: python train.py --experiment_id stopped --tr_resume")
    folder = results(place, "stopped")
    assert [path.name for path in sorted(folder.glob("fold_*"))] == ["fold_0"]
    shutil.rmtree(folder / "fold_0" / "checkpoints")  # as if it had come before the first one
    assert call(train.main, place, "--experiment_id", "stopped", "--tr_resume", "1") == 0
    assert (folder / "predictions" / "oof.parquet").is_file()
    assert not (folder / "features").exists()


@pytest.mark.long
def test_dev_mode_is_the_same_code_on_less(place):
    flags = ("--data_fold", "all", "--experiment_id", "dev", "--dev_enabled", "1")
    flags += ("--dev_num_studies", "3", "--dev_iteration_num", "2")
    assert call(train.main, place, *FLAGS, *flags) == 0
    frame = pd.read_parquet(results(place, "dev") / "predictions" / "oof.parquet")
    assert frame.groupby("fold")["study_id"].nunique().tolist() == [1, 1]


@pytest.mark.long
def test_views_are_averaged_in_tables_and_kept_apart_in_features(place, whole, table):
    flags = ("--data_fold", "all", "--experiment_id", "views", "--pr_tta_views", "rot90")
    flags += ("--pr_tta", "1", "--tr_iteration_num", "1", "--tr_iteration_valid", "0")
    assert call(train.main, place, *FLAGS, *flags) == 0
    folder = results(place, "views")
    features = FeatureTable.load(folder / "features", "oof")
    assert features.views == ["plain", "random_1", "rot90"]
    oof = pd.read_parquet(folder / "predictions" / "oof.parquet").set_index("image_id")
    views = ("plain", "rot90", "random_1")
    for fold in (0, 1):
        predictor = load_predictor(folder / f"fold_{fold}" / "predictor", build_model)
        ids = oof.index[oof["fold"] == fold]
        rows = table.rows_of(ids)
        options = {"seed": 4667}
        logits = predictor.predict_rows(table, rows, PredictOptions(views=views, **options)).logits
        np.testing.assert_allclose(oof.loc[ids, LOGITS], logits, atol=1e-5)
        for view in views:
            one = predictor.predict_rows(
                table, rows, PredictOptions(views=(view,), with_features=True, **options)
            )
            stored = features.read(features.rows_of(ids, view=view))
            np.testing.assert_allclose(stored, one.features.astype(np.float16), atol=2e-3)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--data_dataset", "given"), "dataset_given_fold_0.csv gives the split of one fold"),
        (("--data_dataset", "fraction"), "--pre_valid_fraction"),
        (("--data_dataset", "absent"), "no dataset at"),
        (("--data_dataset", "tiny", "--net_model", "no_such"), "--net_model no_such"),
        (("--data_dataset", "tiny", "--experiment_id", "whole"), "--experiment_id whole exists"),
        (
            ("--data_dataset", "tiny", "--experiment_id", "a/fold_0"),
            "--experiment_id a --tr_resume",
        ),
    ],
)
def test_what_can_not_be_trained_is_refused_before_a_folder_is_made(
    place, whole, flags, word, capsys
):
    datasets = place / "input" / "datasets"
    for name in ("given", "fraction"):
        if not (datasets / name).exists():
            shutil.copytree(datasets / "tiny", datasets / name)
    given = pd.read_csv(datasets / "tiny" / "folds.csv")
    sides = given["fold"].map({0: "valid", 1: "train"})
    path = datasets / "given" / "dataset_given_fold_0.csv"
    given[["image_id"]].assign(sample_type=sides).to_csv(path, index=False)
    given.assign(fold=given["fold"].map({0: 0, 1: -1})).to_csv(
        datasets / "fraction" / "folds.csv", index=False
    )
    before = sorted((place / "output" / "results").iterdir())
    tiny = FLAGS[2:] if "--net_model" not in flags else ["--net_pretrained", "0"]
    assert call(train.main, place, *tiny, "--data_fold", "all", *flags) == 2
    assert word in capsys.readouterr().err.splitlines()[-1]
    assert sorted((place / "output" / "results").iterdir()) == before


def start(place: Path, script: list[str], *flags: str) -> subprocess.Popen:
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "output")]
    return subprocess.Popen(
        [sys.executable, *script, *places, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def assert_equal_experiments(one: Path, other: Path) -> None:
    for fold in (0, 1):
        states = [
            load_checkpoint(folder / f"fold_{fold}" / "checkpoints" / "last.pt")
            for folder in (one, other)
        ]
        for name, value in states[0]["model"].items():
            assert torch.equal(value, states[1]["model"][name]), (fold, name)
    for name in ("oof", "oof_best", "test"):
        tables = [pd.read_parquet(f / "predictions" / f"{name}.parquet") for f in (one, other)]
        tables = [table.drop(columns="experiment_id") for table in tables]
        pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    for name in ("oof", "test"):
        tables = [FeatureTable.load(folder / "features", name) for folder in (one, other)]
        pd.testing.assert_frame_equal(tables[0].frame, tables[1].frame)
        rows = np.arange(len(tables[0]))
        np.testing.assert_array_equal(tables[0].read(rows), tables[1].read(rows))


@pytest.mark.long
def test_killed_in_the_second_fold_and_resumed_it_is_bit_identical(place):
    flags = [*FLAGS, "--data_fold", "all", "--n_jobs", "1", "--tr_iteration_num", "12"]
    flags += ["--tr_iteration_checkpoint", "3", "--tr_iteration_valid", "5"]
    killer = ["tests/helpers/killed_training.py"]
    process = start(place, [*killer, "never"], *flags, "--experiment_id", "unbroken")
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (0, "unbroken\n"), err
    process = start(place, [*killer, "second_fold"], *flags, "--experiment_id", "killed")
    _, err = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, err
    folder = results(place, "killed")
    done = (folder / "fold_0" / "report.html").stat().st_mtime_ns
    saved = load_checkpoint(folder / "fold_1" / "checkpoints" / "last.pt")
    assert 0 < saved["iteration"] < 12
    assert not (folder / "predictions").exists()
    again = ("--experiment_id", "killed", "--tr_resume", "1")
    process = start(place, [*killer, "never"], *again)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (0, "killed\n"), err
    assert "fold 0 is done and is not trained again" in err
    assert f"resumed after iteration {saved['iteration']}" in err
    assert (folder / "fold_0" / "report.html").stat().st_mtime_ns == done
    assert_equal_experiments(results(place, "unbroken"), folder)


@pytest.mark.long
def test_two_processes_train_all_folds(place):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    flags = ["--data_fold", "all", "--experiment_id", "two", "--n_jobs", "0"]
    process = start(place, torchrun, *FLAGS, *flags)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (0, "two\n"), err
    frame = pd.read_parquet(results(place, "two") / "predictions" / "oof.parquet")
    assert len(frame) == 24 and frame["image_id"].is_unique
    assert len(FeatureTable.load(results(place, "two") / "features", "oof")) == 24
    # Test rows were shared; they are what one process finds.
    test = pd.read_parquet(results(place, "two") / "predictions" / "test.parquet")
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    predictor = load_predictor(results(place, "two") / "predictor", build_model)
    found = predictor.predict_rows(table, table.rows_of(test["image_id"]))
    np.testing.assert_allclose(found.logits, test[LOGITS], atol=1e-5)
    stored = FeatureTable.load(results(place, "two") / "features", "test").frame
    assert sorted(stored["image_id"]) == sorted([*test["image_id"]] * 2)
