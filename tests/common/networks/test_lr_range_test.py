import copy

import numpy as np
import pytest
import torch
from toy import ToyDataset, assert_same_state, make_toy, toy_loader, weights_of

from common.callbacks import WeightAverage
from common.networks import FitSettings
from common.networks.lr_range_test import find_learning_rate, range_figure


def _network(iteration_num=30):
    network = make_toy(FitSettings(iteration_num=iteration_num))
    average = WeightAverage(network.model, 0.9)
    network.callbacks = [average]
    network.scheduler = torch.optim.lr_scheduler.StepLR(network.optimizer, 7, 0.5)
    return network


@pytest.mark.parametrize("num_before", [0, 5])
def test_everything_is_as_it_was(num_before):
    network, loader = _network(num_before), toy_loader(ToyDataset(24), 4)
    network.fit(loader)
    before = copy.deepcopy(network.state_dict())
    average = network.callbacks[0].average
    kept = {name: value.clone() for name, value in average.items()}
    settings, scheduler = network.settings, network.scheduler
    find_learning_rate(network, loader, 1e-5, 1e-1, 20)
    assert_same_state(before, network.state_dict())
    assert network.settings is settings
    assert network.scheduler is scheduler
    assert all(torch.equal(value, average[name]) for name, value in kept.items())
    assert all(p.grad is None for p in network.model.parameters())


def test_a_training_after_the_test_is_the_training_without_it():
    tested, plain = _network(), _network()
    torch.manual_seed(0)
    find_learning_rate(tested, toy_loader(ToyDataset(24), 4), 1e-5, 10.0, 40)
    tested.fit(toy_loader(ToyDataset(24), 4))
    torch.manual_seed(0)
    plain.fit(toy_loader(ToyDataset(24), 4))
    assert torch.equal(weights_of(tested), weights_of(plain))


def test_the_range_is_covered_in_equal_factors_and_ends_where_the_loss_diverges():
    found = find_learning_rate(_network(), toy_loader(ToyDataset(24), 4), 1e-5, 100.0, 60)
    rates = np.array(found.learning_rates)
    assert rates[0] == pytest.approx(1e-5)
    np.testing.assert_allclose(rates[1:] / rates[:-1], 1e7 ** (1 / 59), rtol=1e-9)
    assert len(rates) == len(found.losses) == len(found.smoothed) < 60
    # Momentum 0.9 on this task: far too small at 1e-4, diverging above 1.
    smallest = found.learning_rates[int(np.argmin(found.smoothed))]
    assert 1e-3 < found.lowest == smallest < 1
    assert found.suggestion == pytest.approx(smallest / 10)
    assert found.is_clear


def test_a_whole_range_has_all_its_iterations():
    found = find_learning_rate(_network(), toy_loader(ToyDataset(24), 4), 1e-7, 1e-6, 9)
    assert len(found.losses) == 9
    assert found.learning_rates[-1] == pytest.approx(1e-6)


def test_a_loss_that_never_falls_has_no_suggestion():
    class Rising(type(_network())):
        def training_step(self, batch):
            step = super().training_step(batch)
            step.loss_sum = step.loss_sum * 0 + len(batch["y"]) * (1 + 0.01 * self.state.iteration)
            return step

    network = _network()
    network.__class__ = Rising
    found = find_learning_rate(network, toy_loader(ToyDataset(24), 4), 1e-7, 1e-6, 9)
    assert found.suggestion is found.lowest is None
    assert not found.is_clear
    assert "suggestion" not in str(range_figure(found).axes[0].get_legend_handles_labels()[1])


def test_the_picture_shows_the_suggestion():
    found = find_learning_rate(_network(), toy_loader(ToyDataset(24), 4), 1e-5, 1.0, 40)
    axes = range_figure(found).axes[0]
    assert axes.get_xscale() == "log"
    labels = axes.get_legend_handles_labels()[1]
    assert any(f"suggestion {found.suggestion:.2g}" in label for label in labels)


def test_what_differs_between_batches_is_taken_out():
    """A learning rate of nothing changes nothing, whatever the batches are."""
    network = make_toy(
        FitSettings(iteration_num=9),
        model=torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
        ),
    )
    found = find_learning_rate(network, toy_loader(ToyDataset(24), 2), 1e-300, 1e-299, 9)
    assert len(set(found.losses)) == 9
    assert found.losses == found.start_losses
    np.testing.assert_allclose(found.smoothed, np.mean(found.losses))
    assert not found.is_clear
