"""--net_weight_file with --data_fold all: each fold starts from weights of its own."""

import sys
from pathlib import Path

import pytest
import torch
from tiny_dataset import make_tiny_dataset

import rsna_folds
import train
from common.cli import status_of
from rsna_model import RSNAModel


def run(monkeypatch: pytest.MonkeyPatch, place: Path, name: str, weights: str) -> int:
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
    }
    monkeypatch.setattr(
        sys, "argv", ["train.py", *(f"--{n}={value}" for n, value in flags.items())]
    )
    return status_of(train.main)


def test_a_fold_starts_from_the_weights_with_its_number(monkeypatch, capsys, tmp_path):
    # Scores and pages take most of the time, and say nothing about weights.
    for name in ("_evaluate_fold", "_finish"):
        monkeypatch.setattr(rsna_folds.RSNAFoldsTraining, name, lambda self, *arguments: None)
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
