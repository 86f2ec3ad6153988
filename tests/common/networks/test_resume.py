"""A fit that is stopped after any iteration and goes on elsewhere gives the same bits."""

import pytest
import torch
from torch import nn
from toy import ToyDataset, assert_same_state, make_toy, toy_loader

from common.callbacks import Callback, CheckpointSaver, TrainingMonitor, WeightAverage
from common.checkpoint import load_checkpoint
from common.errors import InputError
from common.networks import FitSettings
from common.seeding import seed_everything


def _model() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
    )


def _network(folder, amp_dtype=None, extra=()):
    model = _model()
    settings = FitSettings(
        iteration_num=12, accumulation_step=2, clip_norm=1.0, iteration_valid=5, amp_dtype=amp_dtype
    )
    statistics = toy_loader(ToyDataset(8, torch.float32), 4)
    callbacks = (
        WeightAverage(model, 0.9, statistics),
        TrainingMonitor(folder / "metrics.jsonl", every=4),
        CheckpointSaver(folder, every=1),
        *extra,
    )
    network = make_toy(
        settings, torch.float32, model, callbacks, lambda p: torch.optim.AdamW(p, 0.01)
    )
    network.scheduler = torch.optim.lr_scheduler.OneCycleLR(
        network.optimizer, max_lr=0.05, total_steps=12
    )
    return network


class _Break(Exception):
    pass


class _BreakAfter(Callback):
    def __init__(self, iteration):
        self.iteration = iteration

    def on_iteration_end(self, network):
        if network.state.iteration == self.iteration:
            raise _Break


@pytest.mark.parametrize(
    ("amp_dtype", "num_samples"), [(None, 18), ("bf16", 18), (None, 17)]
)  # with 17, one sample would be the last batch of each epoch
@pytest.mark.parametrize("stop", [1, 4, 5, 6, 11])
def test_resume_after_any_iteration_is_bit_identical(tmp_path, stop, amp_dtype, num_samples):
    def fit(folder, num_workers, extra=(), resume=False):
        seed_everything(1 if not resume else 999)
        network = _network(folder, amp_dtype, extra)
        if resume:
            network.load_state_dict(load_checkpoint(folder / "last.pt"))
        dataset = ToyDataset(num_samples, torch.float32)
        network.fit(toy_loader(dataset, 4, num_workers), toy_loader(dataset, 8))
        return load_checkpoint(folder / "last.pt")

    whole = fit(tmp_path / "whole", 0)
    with pytest.raises(_Break):
        fit(tmp_path / "broken", 0, (_BreakAfter(stop),))
    assert load_checkpoint(tmp_path / "broken" / "last.pt")["iteration"] == stop
    resumed = fit(tmp_path / "broken", 2 if stop == 4 else 0, resume=True)
    assert resumed["iteration"] == 12
    assert_same_state(whole, resumed)
    best = [load_checkpoint(tmp_path / name / "best.pt") for name in ("whole", "broken")]
    assert_same_state(*best)


def test_order_and_draws_do_not_depend_on_workers():
    batches = []
    for num_workers in (0, 1, 3):
        loader = toy_loader(ToyDataset(17), 4, num_workers)
        loader.sampler.start(2, 4)
        batches.append(list(loader))
    # 13 samples are left: the last one alone joins the batch before it.
    assert [[len(b["index"]) for b in ways] for ways in batches] == [[4, 4, 5]] * 3
    for ways in zip(*batches, strict=True):
        for other in ways[1:]:
            assert torch.equal(ways[0]["x"], other["x"])
            assert torch.equal(ways[0]["index"], other["index"])


def test_epochs_differ_and_cover_all_samples():
    loader = toy_loader(ToyDataset(17), 4)
    orders = []
    for epoch in (0, 1):
        loader.sampler.start(epoch)
        orders.append([key for key in loader.sampler])
        assert sorted(index for _, index in orders[-1]) == list(range(17))
    assert orders[0] != orders[1]
    dataset = ToyDataset(3)
    assert not torch.equal(dataset[(0, 1)]["x"], dataset[(1, 1)]["x"])
    assert torch.equal(dataset[(1, 1)]["x"], dataset[(1, 1)]["x"])


def test_loading_warns_when_bits_will_differ(tmp_path, caplog):
    network = _network(tmp_path)
    state = network.state_dict()
    state["numerics"] = {**state["numerics"], "num_threads": 77}
    network.load_state_dict(state)
    assert "num_threads was 77" in caplog.text


@pytest.mark.parametrize("num_samples", [4, 40])
def test_other_training_samples_are_refused(num_samples):
    network = make_toy(FitSettings(iteration_num=4))
    network.fit(toy_loader(ToyDataset(20), 4))
    other = make_toy(FitSettings(iteration_num=9))
    other.load_state_dict(network.state_dict())
    with pytest.raises(InputError, match=f"{num_samples} training samples.* on 20"):
        other.fit(toy_loader(ToyDataset(num_samples), 4))


def test_a_file_that_is_no_training_checkpoint_is_refused():
    network = make_toy(FitSettings(iteration_num=4))
    with pytest.raises(InputError, match=r"lacks .*optimizer"):
        network.load_state_dict({"model": network.model.state_dict()})
