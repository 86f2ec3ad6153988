"""Every optimizer, Lookahead, SWA and every schedule: training in one go or in two is the same."""

import io

import pytest
import torch
from torch import nn
from toy import ToyDataset, ToyNetwork, assert_same_state, toy_loader

from common.callbacks import Callback, StochasticWeightAverage, WeightAverage
from common.checkpoint import inference_weights
from common.networks import FitSettings
from common.optim import OPTIMIZERS, Schedule, make_optimizer, make_schedule

NUM_STEPS, SWA_START = 14, 8
SCHEDULES = {
    "constant": {},
    "one_cycle_lr": {},
    "warmup_cosine": {},
    "cosine_restarts": {"num_cycles": 3, "cycle_factor": 1.5},
    "multistep": {"milestones": [5, 9], "gamma": 0.3},
}


class _Keep(Callback):
    """Keeps the checkpoint of each iteration as bytes."""

    def __init__(self):
        self.states = {}

    def on_iteration_end(self, network):
        buffer = io.BytesIO()
        torch.save(network.state_dict(), buffer)
        self.states[network.state.iteration] = buffer.getvalue()

    def load(self, iteration):
        return torch.load(io.BytesIO(self.states[iteration]), weights_only=True)


def _network(keep, optim, schedule, lookahead, with_swa) -> ToyNetwork:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
    )
    optimizer = make_optimizer(optim, model, 0.02, 0.01, 0.9, True, lookahead=lookahead)
    swa_start = SWA_START if with_swa else None
    plan = Schedule(
        schedule, NUM_STEPS, 0.02, swa_start=swa_start, swa_lr=0.01, **SCHEDULES[schedule]
    )
    statistics = toy_loader(ToyDataset(8, torch.float32), 4)
    callbacks = [WeightAverage(model, 0.9, statistics), keep]
    if with_swa:
        callbacks.insert(0, StochasticWeightAverage(model, SWA_START, statistics))
    settings = FitSettings(iteration_num=NUM_STEPS, accumulation_step=2, iteration_valid=5)
    return ToyNetwork(model, settings, optimizer, make_schedule(optimizer, plan), callbacks)


@pytest.mark.parametrize(
    ("optim", "schedule", "lookahead", "with_swa"),
    [
        *[(optim, "one_cycle_lr", False, False) for optim in OPTIMIZERS],
        *[(optim, "warmup_cosine", True, True) for optim in OPTIMIZERS],
        *[("adamw", schedule, False, True) for schedule in SCHEDULES],
    ],
)
def test_two_halves_are_the_whole(optim, schedule, lookahead, with_swa):
    dataset = ToyDataset(18, torch.float32)

    def fit(start=None):
        keep = _Keep()
        network = _network(keep, optim, schedule, lookahead, with_swa)
        torch.manual_seed(1 if start is None else 999)
        if start is not None:
            network.load_state_dict(start)
        network.fit(toy_loader(dataset, 4), toy_loader(dataset, 8))
        return keep

    whole = fit()
    for stop in (4, 10) if with_swa else (7,):  # before and after averaging begins
        assert_same_state(whole.load(NUM_STEPS), fit(whole.load(stop)).load(NUM_STEPS))
    if with_swa:
        state = whole.load(NUM_STEPS)
        average = state["averages"]["StochasticWeightAverage"]
        assert average["num_updates"] == NUM_STEPS - SWA_START
        assert inference_weights(state) is average["model"]
