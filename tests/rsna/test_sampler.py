"""--data_sampler: the sampler that the flags name, what the log tells, and real kills."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_dataset import make_tiny_dataset

from common.checkpoint import load_checkpoint
from common.datasets.samplers import EpochSampler
from common.datasets.weighted_samplers import BalancedSampler, GroupSampler, PositiveRangeSampler
from config import Config
from rsna.build import log_sampler, make_sampler
from rsna.data import load_data
from rsna_dataset import RSNADataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("sampling")
    make_tiny_dataset(folder / "datasets" / "tiny", num_patients=12, num_slices=7)
    flags = {"data_input_folder": str(folder), "data_dataset": "tiny", "data_img_size": 24}
    return Config().with_flags(**flags, tr_batch_size=4, tr_iteration_num=30)


@pytest.fixture(scope="module")
def train(config) -> RSNADataset:
    return load_data(config, (0.5,) * 3, (0.5,) * 3).train


def positive_of(train: RSNADataset) -> np.ndarray:
    return train.table.frame["any"].to_numpy(dtype=bool)[train.rows]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (None, EpochSampler),
        ("balanced", BalancedSampler),
        ("pos_range", PositiveRangeSampler),
        ("slices_per_study", GroupSampler),
    ],
)
def test_the_flag_names_the_sampler(config, train, caplog, name, kind):
    caplog.set_level(logging.INFO)
    config = config.with_flags(data_sampler=name)
    sampler = make_sampler(config, train)
    log_sampler(config, sampler, train)
    assert type(sampler) is kind
    num_drawn = len(set(sampler.order(0).tolist()))
    assert bool(caplog.text) == (name is not None)
    if name:
        left_out = f"{len(train) - num_drawn} are left out and 0 repeated"
        assert f"{sampler.num_samples} draws from {len(train)} training slices" in caplog.text
        assert left_out in caplog.text


def test_balanced_draws_half_positive_slices_and_warns_of_probabilities(config, train, caplog):
    rare = RSNADataset(train.table, train.rows, train.transform)
    rare.labels = np.where(np.arange(len(rare))[:, None] < 4, rare.labels.max(), 0.0)
    halves = config.with_flags(data_sampler="balanced")
    sampler = make_sampler(halves, rare)
    log_sampler(halves, sampler, rare)
    assert (sampler.order(0) < 4).mean() == 0.5
    assert "probabilities will be those of the slices drawn, of which 50.0 %" in caplog.text
    caplog.clear()
    share = float(positive_of(train).mean())
    flags = {"data_sampler_pos_start": share, "data_sampler_pos_end": share}
    as_it_is = config.with_flags(data_sampler="pos_range", **flags)
    sampler = make_sampler(as_it_is, train)
    log_sampler(as_it_is, sampler, train)
    assert positive_of(train)[sampler.order(0)].mean() == pytest.approx(share, abs=0.05)
    assert "probabilities" not in caplog.text


def test_pos_range_knows_when_the_training_ends(config, train):
    flags = {"data_sampler_pos_start": 0.6, "data_sampler_pos_end": 0.1}
    config = config.with_flags(data_sampler="pos_range", tr_accumulation_step=2, **flags)
    sampler = make_sampler(config, train)
    num_batches = -(-sampler.num_samples // 4)
    steps = -(-num_batches // 2)
    last = int(30 / steps) - 1
    shares = [positive_of(train)[sampler.order(epoch)].mean() for epoch in (0, last, last + 40)]
    assert shares[0] > shares[1] > 0.09
    assert shares[2] == pytest.approx(0.1, abs=1 / sampler.num_samples)
    assert sampler.num_epochs == 30 / steps
    # Two processes with half the batch each are the same training.
    halved = make_sampler(config.with_flags(tr_batch_size=2), train, num_processes=2)
    assert halved.num_epochs == sampler.num_epochs


@pytest.mark.parametrize("num_steps", [1, 3, 5, 12, 30])
@pytest.mark.parametrize(("per_step", "batch_size", "num_processes"), [(1, 4, 1), (2, 3, 2)])
def test_the_log_counts_what_is_drawn(
    config, train, caplog, num_steps, per_step, batch_size, num_processes
):
    """Against the batches that a training draws: it may end long before its first epoch does."""
    caplog.set_level(logging.INFO)
    flags = {"data_sampler_pos_start": 0.6, "data_sampler_pos_end": 0.1}
    flags |= {"tr_iteration_num": num_steps, "tr_accumulation_step": per_step}
    config = config.with_flags(data_sampler="pos_range", tr_batch_size=batch_size, **flags)
    sampler = make_sampler(config, train, num_processes)
    log_sampler(config, sampler, train, num_processes)
    drawn: list[int] = []
    epoch = 0
    steps_left = num_steps
    while steps_left:
        order, place, in_step = sampler.order(epoch), 0, 0
        sampler.start(epoch)
        for size, _ in sampler.batch_sizes():
            drawn += order[place : place + size].tolist()
            place, in_step = place + size, in_step + 1
            if in_step == per_step or place == len(order):
                in_step, steps_left = 0, steps_left - 1
                if not steps_left:
                    break
        epoch += 1
    positive = positive_of(train)
    first, last = drawn[: sampler.num_samples], drawn[-sampler.num_samples :]
    told = (
        f"positive are {100 * positive[first].mean():.1f} % of the first {len(first)} draws, "
        f"{100 * positive[last].mean():.1f} % of the last {len(last)}, "
    )
    assert told in caplog.text


def test_slices_per_study_draws_k_of_each(config, train):
    config = config.with_flags(data_sampler="slices_per_study", data_sampler_num_slices=2)
    sampler = make_sampler(config, train)
    frame = train.table.frame.iloc[train.rows]
    orders = [sampler.order(epoch) for epoch in range(200)]
    for order in orders[:5]:
        assert (frame["study_id"].iloc[order].value_counts() == 2).all()
    by_rank = frame["rank"].iloc[np.concatenate(orders)].value_counts()
    # Of seven slices the middle one weighs 4, the first and the last one 1.
    assert by_rank[3] > 2 * by_rank[0]
    assert by_rank[3] > 2 * by_rank[6]


def run(folder: Path, moment: str, *flags: str) -> tuple[int, str]:
    command = [sys.executable, "tests/helpers/killed_training.py", moment, *flags]
    places = ["--data_input_folder", str(folder), "--output_dir", str(folder / "output")]
    process = subprocess.run(
        [*command, *places, "--n_jobs", "0"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return process.returncode, process.stderr


@pytest.mark.long
@pytest.mark.parametrize("name", ["balanced", "pos_range", "slices_per_study"])
def test_killed_in_mid_epoch_it_goes_on_bit_for_bit(config, name):
    folder = Path(config.data.data_input_folder)
    flags = [
        *("--data_dataset", "tiny", "--net_model", "test_efficientnet", "--net_pretrained", "0"),
        *("--data_img_size", "64", "--tr_iteration_num", "12", "--tr_batch_size", "4"),
        *("--tr_accumulation_step", "2", "--tr_iteration_checkpoint", "3", "--data_sampler", name),
        *("--mlflow_enabled", "0"),
    ]
    status, err = run(folder, "never", *flags, "--experiment_id", f"{name}-whole")
    assert status == 0, err
    status, _ = run(folder, "epoch", *flags, "--experiment_id", f"{name}-killed")
    assert status == -signal.SIGKILL
    results = folder / "output" / "results"
    saved = load_checkpoint(results / f"{name}-killed" / "checkpoints" / "last.pt")
    assert 0 < saved["iteration"] < 12
    status, err = run(folder, "never", "--experiment_id", f"{name}-killed", "--tr_resume", "1")
    assert status == 0, err
    whole, resumed = (results / f"{name}-{end}" for end in ("whole", "killed"))
    states = [load_checkpoint(f / "checkpoints" / "last.pt")["model"] for f in (whole, resumed)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    tables = [pd.read_parquet(f / "predictions" / "valid.parquet") for f in (whole, resumed)]
    tables = [table.drop(columns="experiment_id") for table in tables]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
