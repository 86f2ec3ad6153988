"""`any` alone: trained, evaluated and predicted by the same classes and scripts."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from tiny_dataset import make_tiny_dataset

import evaluate
import predict
import train
from common.checkpoint import load_checkpoint
from common.cli import status_of
from config import Config
from rsna.data import load_data
from rsna.evaluation.scoring import summary
from rsna_model import RSNAModel
from rsna_task import LABELS, SUBTYPES

BASE = [
    *("--data_dataset", "tiny", "--net_model", "test_efficientnet", "--net_pretrained", "0"),
    *("--data_img_size", "32", "--tr_batch_size", "4", "--tr_batch_size_valid", "8"),
    *("--tr_iteration_valid", "0", "--optim_ema_decay", "0.9", "--mlflow_enabled", "0"),
    *("--optim_ema_bn_samples", "8", "--n_jobs", "0"),
]


def call(main, place: Path, *flags: str) -> int:
    arguments = ["script.py", "--output_dir", str(place / "output"), *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        return status_of(main)


def training(place: Path, name: str, *flags: str) -> int:
    where = ["--data_input_folder", str(place / "input"), "--experiment_id", name]
    return call(train.main, place, *BASE, *where, *flags)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("any")
    dataset = make_tiny_dataset(folder / "input" / "datasets" / "tiny", num_patients=8)
    # A label of a type that is unknown takes no slice from a task without that type.
    frame = pd.read_parquet(dataset / "slices.parquet")
    frame.loc[frame["patient_id"] == "patient3", list(SUBTYPES)] = np.nan
    frame.to_parquet(dataset / "slices.parquet")
    return folder


@pytest.fixture(scope="module")
def experiment(place) -> Path:
    flags = ("--net_num_classes", "1", "--tr_iteration_num", "2")
    assert training(place, "any", *flags, "--tr_label_smoothing", "0.1") == 0
    assert call(evaluate.main, place, "--experiment_id", "any") == 0
    return place / "output" / "results" / "any"


def test_the_score_is_the_log_loss_of_any(place, experiment):
    metrics = json.loads((experiment / "metrics.json").read_text())
    frame = pd.read_parquet(experiment / "predictions" / "valid.parquet")
    assert [name for name in frame if name in LABELS or name.startswith("logit_")] == [
        "any",
        "logit_any",
    ]
    table = pd.read_parquet(place / "input" / "datasets" / "tiny" / "slices.parquet")
    truth = table.set_index("image_id")["any"].loc[frame["image_id"]].to_numpy()
    loss = log_loss(truth, frame["any"])
    assert metrics["weighted_log_loss"] == pytest.approx(loss, abs=1e-12)
    assert metrics["log_loss"]["any"] == pytest.approx(loss, abs=1e-12)
    assert metrics["auc"]["any"] == pytest.approx(roc_auc_score(truth, frame["any"]), abs=1e-12)
    assert metrics["num_slices"] == 16
    recorded = [json.loads(line) for line in (experiment / "metrics.jsonl").open()][-1]
    assert recorded["valid_log_loss.any"] == pytest.approx(loss, abs=1e-6)
    assert recorded["valid_loss"] == pytest.approx(loss, abs=1e-6)
    assert not any("epidural" in name for name in recorded)


def test_labels_that_it_does_not_know_are_null_everywhere(experiment):
    metrics = json.loads((experiment / "metrics.json").read_text())
    found = 0

    def check(values):
        nonlocal found
        for value in values.values():
            if isinstance(value, dict) and "any" in value:
                found += 1
                assert list(value) == list(LABELS)
                assert all(value[name] is None for name in SUBTYPES)
            elif isinstance(value, dict):
                check(value)

    check(metrics)
    assert found >= 12
    assert metrics["auc"]["any"] is not None


def test_slices_whose_types_are_unknown_are_trained_on(experiment, place):
    state = load_checkpoint(experiment / "checkpoints" / "last.pt")
    assert state["sampler"]["num_samples"] == 16
    assert state["model"]["classifier.weight"].shape[0] == 1
    flags = {"data_input_folder": str(place / "input"), "data_dataset": "tiny", "data_img_size": 24}
    for num_classes, num_slices in ((1, 16), (6, 12)):
        config = Config().with_flags(**flags, net_num_classes=num_classes)
        train = load_data(config, (0.5,) * 3, (0.5,) * 3).train
        assert train.labels.shape == (num_slices, num_classes)
        assert not np.isnan(train.labels).any()


def test_the_page_shows_any_alone(experiment):
    page = (experiment / "report.html").read_text()
    assert "surest find of any" in page
    # One of the windows in which a slice is shown is called subdural.
    assert "subdural" not in page.replace("subdural 80/200", "")
    assert not any(name in page for name in set(SUBTYPES) - {"subdural"})


def test_the_summary_shows_any_alone(experiment):
    out = summary(json.loads((experiment / "metrics.json").read_text()), Path("report.html"))
    assert "\nany " in out
    assert not any(name in out for name in SUBTYPES)


def test_it_is_evaluated_on_another_dataset(place, experiment, capsys):
    make_tiny_dataset(place / "input" / "datasets" / "other", num_patients=3)
    flags = ("--experiment_id", "any", "--data_dataset", "other")
    assert call(evaluate.main, place, *flags) == 0
    folder = experiment / "evaluations" / "other"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["num_slices"] == 12
    assert metrics["log_loss"]["epidural"] is None
    assert metrics["weighted_log_loss"] == metrics["log_loss"]["any"]
    assert "epidural" not in (folder / "report.html").read_text()


def predicting(place: Path, output: Path, *flags: str) -> int:
    dataset = str(place / "input" / "datasets" / "tiny")
    folders = ("--pr_input", dataset, "--pr_output", str(output), "--n_jobs", "0")
    return call(predict.main, place, "--experiment_id", "any", *folders, *flags)


def sample(path: Path, labels: tuple[str, ...]) -> str:
    ids = [f"{image}_{name}" for image in ("ID_0_0", "ID_absent") for name in labels]
    pd.DataFrame({"ID": ids, "Label": 0.5}).to_csv(path, index=False)
    return str(path)


def test_it_predicts_any_alone(place, experiment, tmp_path):
    flags = ("--pr_tta", "1", "--pr_dataframe", sample(tmp_path / "any.csv", ("any",)))
    assert predicting(place, tmp_path / "out", *flags) == 0
    slices = pd.read_parquet(tmp_path / "out" / "predictions.parquet").set_index("image_id")
    studies = pd.read_csv(tmp_path / "out" / "studies.csv").set_index("study_id")
    assert not set(SUBTYPES) & (set(slices) | set(studies))
    assert studies.loc["study0", "any"] == slices.loc[slices["study_id"] == "study0", "any"].max()
    submission = pd.read_csv(tmp_path / "out" / "submission.csv").set_index("ID")["Label"]
    assert submission["ID_0_0_any"] == pytest.approx(slices.loc["ID_0_0", "any"])
    assert 0 < submission["ID_absent_any"] < 1


def test_a_submission_of_six_labels_is_refused_before_any_work(place, experiment, tmp_path, capsys):
    flags = ("--pr_dataframe", sample(tmp_path / "six.csv", LABELS))
    assert predicting(place, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'ID_0_0_epidural' in line 2" in error
    assert "a label that the experiment predicts, which are: any; choose an experiment" in error
    assert not (tmp_path / "out").exists()


def test_weights_of_six_labels_do_not_fit(place, experiment, tmp_path, capsys):
    torch.save(RSNAModel("test_efficientnet", 6).state_dict(), tmp_path / "six.pt")
    flags = ("--net_num_classes", "1", "--net_weight_file", str(tmp_path / "six.pt"))
    assert training(place, "refused", *flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--net_num_classes" in error
    assert "classifier.bias has shape (6,) instead of (1,)" in error
    assert not (place / "output" / "results" / "refused").exists()


def test_it_resumes_with_its_own_number_of_labels(place, experiment, capsys):
    asked = ("--experiment_id", "any", "--tr_resume", "1", "--net_num_classes", "6")
    assert call(train.main, place, *asked) == 2
    assert "--net_num_classes 6: experiment any was started with 1" in capsys.readouterr().err


def test_only_one_and_six_labels_exist(place, capsys):
    assert training(place, "two", "--net_num_classes", "2") == 2
    assert "must be 6 (the labels of the challenge) or 1 (any alone)" in capsys.readouterr().err
