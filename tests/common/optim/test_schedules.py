"""Schedules against torch's own, and their shape at the ends."""

import itertools

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from common.optim import Schedule, make_schedule


def optimizer(*scales: float | None):
    groups = [{"params": nn.Linear(1, 1).parameters(), "lr_scale": scale} for scale in scales]
    for group in groups:
        if group["lr_scale"] is None:
            del group["lr_scale"]
    return torch.optim.SGD(groups, 0.5)


def rates_of(scheduler, num_steps: int) -> list[float]:
    rates = []
    for _ in range(num_steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def test_schedules_equal_those_of_torch():
    num_steps = 70
    pairs = [
        (
            Schedule("one_cycle_lr", num_steps, 0.5, pct_start=0.3),
            lambda o: lr_scheduler.OneCycleLR(o, 0.5, num_steps, cycle_momentum=False),
        ),
        (
            Schedule("multistep", num_steps, 0.5, milestones=[20, 21, 60], gamma=0.3),
            lambda o: lr_scheduler.MultiStepLR(o, [20, 21, 60], 0.3),
        ),
        (
            Schedule("cosine_restarts", 70, 0.5, min_lr=0.1, num_cycles=3, cycle_factor=2),
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 2, eta_min=0.1),
        ),
        (
            Schedule("warmup_cosine", num_steps, 0.5, min_lr=0.1, warmup=0),
            lambda o: lr_scheduler.CosineAnnealingLR(o, num_steps, eta_min=0.1),
        ),
        (Schedule("constant", num_steps, 0.5), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    ]
    for schedule, reference in pairs:
        ours = [schedule(step) for step in range(num_steps)]
        theirs = rates_of(reference(optimizer(1.0)), num_steps)
        assert ours == pytest.approx(theirs, rel=1e-9), schedule.name


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 600])
@pytest.mark.parametrize("pct_start", [0.0, 0.3, 1.0])
def test_one_cycle_fits_any_number_of_steps(num_steps, pct_start):
    schedule = Schedule("one_cycle_lr", num_steps, 1.0, pct_start=pct_start)
    rates = [schedule(step) for step in range(num_steps)]
    assert all(0 <= rate <= 1.0 + 1e-9 for rate in rates)
    if num_steps == 600 and pct_start == 0.3:
        assert max(rates) == pytest.approx(1.0)


def test_warmup_rises_to_the_highest_and_ends_near_the_lowest():
    schedule = Schedule("warmup_cosine", 100, 0.4, min_lr=0.1, warmup=0.1)
    assert [schedule(step) for step in range(10)] == pytest.approx([0.04 * n for n in range(1, 11)])
    assert schedule(99) == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 100, 401])
def test_every_restart_begins_at_the_top_and_the_last_ends_with_the_training(num_steps):
    schedule = Schedule("cosine_restarts", num_steps, 1.0, num_cycles=3, cycle_factor=1.5)
    assert schedule.cycle_ends()[-1] == num_steps
    for start in [0, *schedule.cycle_ends()[:-1]]:
        assert schedule(start) == 1.0
    if num_steps > 50:
        assert schedule(num_steps - 1) < 0.01


def test_averaging_takes_the_learning_rate_over_without_a_jump():
    schedule = Schedule("constant", 100, 1.0, swa_start=60, swa_lr=0.2)
    rates = [schedule(step) for step in range(100)]
    assert rates[:60] == [1.0] * 60
    assert all(before > after > 0.2 for before, after in itertools.pairwise(rates[59:63]))
    assert rates[63:] == pytest.approx([0.2] * 37)
    assert Schedule("constant", 100, 1.0, swa_start=99, swa_lr=0.2)(99) == pytest.approx(0.2)


def test_groups_keep_their_share_and_a_loaded_schedule_goes_on():
    schedule = Schedule("one_cycle_lr", 9, 0.5)
    whole = make_schedule(optimizer(1.0, 0.25, None), schedule)
    states = []
    for step in range(9):
        first, second, plain = (group["lr"] for group in whole.optimizer.param_groups)
        assert (first, second) == (schedule(step), schedule(step) * 0.25)
        assert plain == first
        states.append((whole.state_dict(), whole.optimizer.state_dict()))
        whole.optimizer.step()
        whole.step()
    resumed = make_schedule(optimizer(1.0, 0.25, None), schedule)
    resumed.load_state_dict(states[4][0])
    resumed.optimizer.load_state_dict(states[4][1])
    assert resumed.optimizer.param_groups[1]["lr"] == schedule(4) * 0.25
    resumed.optimizer.step()
    resumed.step()
    assert resumed.optimizer.param_groups[1]["lr"] == schedule(5) * 0.25


def test_only_a_schedule_that_changes_something_is_made():
    assert make_schedule(optimizer(1.0), Schedule("constant", 9, 0.5)) is None
    averaged = Schedule("constant", 9, 0.5, swa_start=3, swa_lr=0.1)
    assert make_schedule(optimizer(1.0), averaged) is not None


def test_a_checkpoint_of_one_cycle_lr_of_torch_goes_on():
    before = lr_scheduler.OneCycleLR(optimizer(1.0), 0.5, 20, cycle_momentum=False)
    expected = rates_of(lr_scheduler.OneCycleLR(optimizer(1.0), 0.5, 20, cycle_momentum=False), 20)
    rates_of(before, 8)
    now = make_schedule(optimizer(1.0), Schedule("one_cycle_lr", 20, 0.5))
    now.load_state_dict(before.state_dict())
    now.optimizer.load_state_dict(before.optimizer.state_dict())
    assert rates_of(now, 12) == pytest.approx(expected[8:], rel=1e-9)
