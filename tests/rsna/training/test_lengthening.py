"""A finished training goes on where that changes nothing that is done; else the reason is given."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny_dataset import make_tiny_dataset
from train_script import FLAGS, results

import train
from common.checkpoint import load_checkpoint
from common.cli import status_of
from common.errors import InputError
from common.experiment import Experiment
from config import Config, recorded_config
from rsna.training.lengthening import record_length, require_lengthenable

CONSTANT = {"optim_scheduler": "constant"}
MULTISTEP = {"optim_scheduler": "multistep", "optim_scheduler_milestones": [30]}
RESTARTS = {"optim_scheduler": "cosine_restarts", "optim_scheduler_num_cycles": 2}
SWA = {"optim_swa_enabled": 1}


@pytest.mark.parametrize(
    ("flags", "longer", "reason"),
    [
        (CONSTANT, {}, None),
        (CONSTANT | {"data_sampler": "balanced", "optim_ema_decay": 0.9}, {}, None),
        (MULTISTEP, {}, None),
        (RESTARTS, {"optim_scheduler_num_cycles": 4}, None),
        (RESTARTS, {}, r"cosine_restarts ends .*\(unless --optim_scheduler_num_cycles adds whole"),
        (RESTARTS, {"optim_scheduler_num_cycles": 3}, "cosine_restarts ends"),
        (RESTARTS | {"optim_scheduler_cycle_factor": 2.0}, {}, "cosine_restarts ends"),
        ({}, {}, "one_cycle_lr ends with the training"),
        ({"optim_scheduler": "warmup_cosine"}, {}, "warmup_cosine ends with the training"),
        (CONSTANT | SWA, {}, r"averaged from a share .*\(no --optim_swa_start\)"),
        (CONSTANT | SWA | {"optim_swa_start": 25}, {}, "constant with --optim_swa_enabled 1 ends"),
        (CONSTANT | SWA | {"optim_swa_start": 25, "optim_swa_lr": 5e-4}, {}, None),
        (CONSTANT | {"data_sampler": "pos_range"}, {}, "--data_sampler pos_range spreads"),
        (CONSTANT | {"tr_any_weight_schedule": 1}, {}, "by fifths of the training"),
        (CONSTANT | {"data_fold": "all"}, {}, "all folds of an experiment are trained alike"),
        (CONSTANT, {"tr_iteration_num": 39}, "can only be lengthened: give more"),
        (CONSTANT, {"tr_iteration_num": 40}, None),
    ],
)
def test_what_is_done_stays_as_it_was(tmp_path, flags, longer, reason):
    before = Config().with_flags(tr_iteration_num=40, **flags)
    experiment = Experiment.create(tmp_path, "0007", before.to_yaml())
    now = before.with_flags(**{"tr_iteration_num": 80, "experiment_id": "0007", **longer})
    if reason is not None:
        with pytest.raises(InputError, match=rf"^--tr_iteration_num \d+: .* with 40, .*{reason}"):
            require_lengthenable(experiment.folder, now)
        return
    require_lengthenable(experiment.folder, now)
    record_length(experiment, now)
    recorded = recorded_config(experiment.folder)
    assert recorded.iteration_num == now.iteration_num
    assert recorded.general.experiment_id is None
    require_lengthenable(experiment.folder, now)


def test_a_lengthened_training_is_one_of_that_length(tmp_path: Path, monkeypatch, capsys) -> None:
    make_tiny_dataset(tmp_path / "input" / "datasets" / "tiny")
    places = ["--data_input_folder", str(tmp_path / "input")]
    places += ["--output_dir", str(tmp_path / "output"), "--n_jobs", "0"]

    def trained(*flags: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *places, *flags])
        return status_of(train.main)

    constant = [*FLAGS, "--optim_scheduler", "constant"]
    assert trained(*constant, "--experiment_id", "whole") == 0
    assert trained(*constant, "--experiment_id", "parts", "--tr_iteration_num", "7") == 0
    again = ["--experiment_id", "parts", "--tr_resume", "1"]
    assert trained(*again, "--tr_iteration_num", "6") == 2
    assert "can only be lengthened" in capsys.readouterr().err.splitlines()[-1]
    assert trained(*again, "--tr_iteration_num", "12") == 0

    def assert_alike() -> None:
        whole, parts = (
            load_checkpoint(results(tmp_path, name) / "checkpoints" / "last.pt")
            for name in ("whole", "parts")
        )
        assert parts["iteration"] == 12
        for name, value in whole["model"].items():
            assert torch.equal(parts["model"][name], value), name

    assert_alike()
    # Its record has the new length: resumed once more, it is done.
    assert trained(*again) == 0
    # Without last.pt it goes on from the checkpoint that the message names.
    folder = results(tmp_path, "parts") / "checkpoints"
    (folder / "last.pt").unlink()
    capsys.readouterr()
    assert trained(*again) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    found = re.search(r"last\.pt is missing: copy (\S+\.pt), of iteration \d+ and the new", message)
    assert found, message
    shutil.copy(found[1], folder / "last.pt")
    assert trained(*again) == 0
    assert_alike()
