"""lr_finder.py as its user runs it: a plot, figures and a suggestion in a folder of its own."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny_dataset import make_tiny_dataset

import lr_finder
from common.cli import status_of

FLAGS = [
    *("--data_dataset", "tiny", "--net_model", "test_efficientnet", "--net_pretrained", "0"),
    *("--data_img_size", "32", "--tr_batch_size", "4", "--n_jobs", "0", "--optim", "sgd"),
    *("--lrf_start_lr", "1e-4", "--lrf_end_lr", "1", "--lrf_iteration_num", "6"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finder")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny")
    return folder


def run(place: Path, monkeypatch, *flags: str) -> int:
    places = ["--data_input_folder", str(place / "input"), "--output_dir", str(place / "output")]
    monkeypatch.setattr(sys, "argv", ["lr_finder.py", *places, *FLAGS, *flags])
    return status_of(lr_finder.main)


def test_it_writes_a_plot_and_figures_and_nothing_else(place, monkeypatch, capsys):
    assert run(place, monkeypatch) == 0
    assert run(place, monkeypatch) == 0
    out = capsys.readouterr().out
    for name in ("0001", "0002"):
        folder = place / "output" / "lr_finder" / name
        assert (folder / "lr_finder.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "config.yaml").is_file()
        assert str(folder / "lr_finder.png") in out
        found = json.loads((folder / "lr_finder.json").read_text())
        table = pd.read_csv(folder / "lr_finder.csv")
        assert found["losses"] == pytest.approx(table["loss"].tolist())
        assert found["learning_rates"][0] == pytest.approx(1e-4)
        assert len(table) <= 6
        if found["suggestion"] is not None:
            assert f"--optim_scheduler_max_lr {found['suggestion']:.2g}" in out
    # The same seed, the same test; and no experiment, no checkpoint anywhere.
    first, second = (place / "output" / "lr_finder" / n / "lr_finder.csv" for n in ("0001", "0002"))
    assert first.read_text() == second.read_text()
    assert not (place / "output" / "results").exists()
    assert not list(place.rglob("*.pt"))


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--tr_resume", "1", "--experiment_id", "x"), "--tr_resume 1: a range test begins"),
        (("--lrf_end_lr", "1e-5"), "--lrf_end_lr 1e-05: must be greater than --lrf_start_lr"),
        (("--lrf_iteration_num", "2"), "--lrf_iteration_num 2: must be at least 3"),
    ],
)
def test_flags_that_do_not_fit_exit_2(place, monkeypatch, capsys, flags, word):
    assert run(place, monkeypatch, *flags) == 2
    assert word in capsys.readouterr().err


def test_dev_mode_and_a_name_of_ones_own(place, monkeypatch, capsys):
    dev = ("--dev_enabled", "1", "--dev_iteration_num", "4", "--experiment_id", "mine")
    assert run(place, monkeypatch, *dev) == 0
    folder = place / "output" / "lr_finder" / "mine"
    assert len(pd.read_csv(folder / "lr_finder.csv")) == 4
    assert run(place, monkeypatch, *dev) == 2
    assert "mine exists" in capsys.readouterr().err
