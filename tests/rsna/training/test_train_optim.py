"""train.py with all of the optimizer group switched on: killed, resumed, and what it reports."""

import signal
from pathlib import Path

import pytest
from tiny_dataset import make_tiny_dataset
from train_script import FLAGS, assert_equal_results, lines, results, run

from common.checkpoint import load_checkpoint

ALL = [
    *("--optim", "lamb", "--optim_lookahead_enabled", "1", "--optim_layer_decay", "0.7"),
    *("--optim_swa_enabled", "1", "--optim_swa_start", "5", "--optim_swa_lr", "1e-3"),
    *("--optim_scheduler", "cosine_restarts", "--optim_scheduler_num_cycles", "2"),
    *("--tr_loss", "focal", "--tr_any_weight_schedule", "1", "--tr_label_smoothing", "0.05"),
]


FLAGS_OF_ALL = [*FLAGS, *ALL, "--mlflow_enabled", "0", "--n_jobs", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The dataset, and a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("optim")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny")
    status, _, err = run(folder, *FLAGS_OF_ALL, "--experiment_id", "whole", moment="never")
    assert status == 0, err
    return folder


@pytest.mark.long
@pytest.mark.parametrize("moment", ["epoch", "validation"])
def test_kill_and_resume_with_all_of_the_optimizer_flags(place, moment):
    status, _, _ = run(place, *FLAGS_OF_ALL, "--experiment_id", moment, moment=moment)
    assert status == -signal.SIGKILL
    again = ("--experiment_id", moment, "--tr_resume", "1", "--n_jobs", "0")
    status, _, err = run(place, *again, moment="never")
    assert status == 0, err
    assert_equal_results(results(place, "whole"), results(place, moment), place)
    state = load_checkpoint(results(place, moment) / "checkpoints" / "last.pt")
    assert state["averages"]["StochasticWeightAverage"]["num_updates"] == 12 - 5
    last = lines(place, moment)[-1]
    for name in ("valid_", "valid_raw_", "valid_ema_"):
        assert last[f"{name}weighted_log_loss"] is not None
        assert last[f"{name}loss"] != last[f"{name}weighted_log_loss"]
