"""--net_weight_file with --data_fold all: each fold starts from weights of its own."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_dataset import make_tiny_dataset

import rsna.training.folds
import train
from common.cli import status_of
from common.slices.folds import read_folds
from common.slices.leakage import folds_digest
from rsna_model import RSNAModel


def run(
    monkeypatch: pytest.MonkeyPatch, place: Path, name: str, weights: str, **more: object
) -> int:
    flags = {
        "experiment_id": name,
        "data_dataset": "tiny",
        "data_input_folder": place / "input",
        "output_dir": place / "output",
        "data_fold": "all",
        "data_img_size": 32,
        "net_model": "test_resnet",
        "net_weight_file": place / weights,
        "n_jobs": 0,
        "mlflow_enabled": 0,
        "tr_features": 0,
        "tr_iteration_num": 1,
        "tr_iteration_valid": 0,
        "tr_batch_size": 2,
        "optim_ema_decay": 0,
        "optim_scheduler": "constant",
        "optim_lr": 1e-12,
        **more,
    }
    monkeypatch.setattr(
        sys, "argv", ["train.py", *(f"--{n}={value}" for n, value in flags.items())]
    )
    return status_of(train.main)


def test_a_fold_starts_from_the_weights_with_its_number(monkeypatch, capsys, tmp_path):
    # Scores and pages take most of the time, and say nothing about weights.
    for name in ("_evaluate_fold", "_finish"):
        monkeypatch.setattr(
            rsna.training.folds.RSNAFoldsTraining, name, lambda self, *arguments: None
        )
    make_tiny_dataset(tmp_path / "input" / "datasets" / "tiny", num_patients=4, num_slices=2)
    torch.manual_seed(1)
    for fold in range(2):
        torch.save(RSNAModel("test_resnet").state_dict(), tmp_path / f"weights_{fold}.pt")
    assert run(monkeypatch, tmp_path, "own", "weights_{fold}.pt") == 0
    for fold in range(2):
        first = torch.load(tmp_path / f"weights_{fold}.pt", weights_only=True)
        folder = tmp_path / "output" / "results" / "own" / f"fold_{fold}" / "predictor"
        last = torch.load(folder / "model.pt", weights_only=True)
        name = "classifier.weight"
        torch.testing.assert_close(last[name], first[name], atol=1e-9, rtol=0)
    assert not torch.equal(first[name], torch.load(tmp_path / "weights_0.pt")[name])

    assert run(monkeypatch, tmp_path, "none", "other_{fold}.pt") == 2
    assert "other_0.pt" in capsys.readouterr().err
    # What only a later fold lacks is told before the first one is trained.
    (tmp_path / "weights_1.pt").rename(tmp_path / "hidden.pt")
    assert run(monkeypatch, tmp_path, "none", "weights_{fold}.pt") == 2
    assert "weights_1.pt: no such file" in capsys.readouterr().err
    assert not (tmp_path / "output" / "results" / "none").exists()


def test_weights_that_saw_what_a_fold_validates_are_refused(monkeypatch, capsys, tmp_path):
    for name in ("_evaluate_fold", "_finish"):
        monkeypatch.setattr(
            rsna.training.folds.RSNAFoldsTraining, name, lambda self, *arguments: None
        )
    dataset = tmp_path / "input" / "datasets" / "tiny"
    make_tiny_dataset(dataset, num_patients=4, num_slices=2)
    digest = folds_digest(read_folds(dataset / "folds.csv"))
    results = tmp_path / "output" / "results"
    for fold in range(2):
        folder = results / "0001" / f"fold_{fold}" / "predictor"
        folder.mkdir(parents=True)
        training = {"dataset": "tiny", "fold": fold, "folds_sha256": digest}
        (folder / "predictor.json").write_text(json.dumps({"training": training}))
        torch.save(RSNAModel("test_resnet").state_dict(), folder / "model.pt")
    place = "output/results/0001/fold_{}/predictor/model.pt"
    # The weights of fold 0 saw what fold 1 validates: told before fold 0 is trained.
    assert run(monkeypatch, tmp_path, "leaky", place.format(0)) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "has seen the patients that fold 1 validates" in told and "{fold} in the path" in told
    assert run(monkeypatch, tmp_path, "leaky", place.format(1), data_fold=0) == 2
    assert "has seen the patients that fold 0 validates" in capsys.readouterr().err
    assert not (results / "leaky").exists()
    assert run(monkeypatch, tmp_path, "sound", place.format("{fold}")) == 0
    assert run(monkeypatch, tmp_path, "one", place.format(1), data_fold=1) == 0
    # What came before is not forgotten on the way through another dataset.
    make_tiny_dataset(tmp_path / "input" / "datasets" / "other", num_patients=5, num_slices=2)
    between = {"data_dataset": "other", "data_fold": 1}
    assert run(monkeypatch, tmp_path, "between", place.format(0), **between) == 0
    capsys.readouterr()
    start = "output/results/between/predictor/model.pt"
    assert run(monkeypatch, tmp_path, "leaky", start, data_fold=1) == 2
    assert "started from weights that were trained with --data_fold 0" in capsys.readouterr().err
    info = json.loads((results / "between" / "predictor" / "predictor.json").read_text())
    origins = info["training"]["started_from"]
    assert [(origin["dataset"], origin["fold"]) for origin in origins] == [("tiny", 0)]
