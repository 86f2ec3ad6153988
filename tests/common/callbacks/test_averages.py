import signal

import pytest
import torch
from torch import nn
from toy import ToyDataset, make_toy, toy_loader, weights_of

from common.callbacks import Callback, StochasticWeightAverage, WeightAverage
from common.errors import Interrupted
from common.networks import FitSettings


def test_average_follows_the_formula_and_is_what_is_validated():
    seen, expected = [], []

    class Watch(Callback):
        def on_step_end(self, network):
            step = network.state.iteration
            decay = min(0.5, (1 + step) / (10 + step))
            before = expected[-1] if expected else start
            expected.append(decay * before + (1 - decay) * weights_of(network))

        def on_metrics(self, network, metrics):
            seen.append(metrics["loss"])

    model = nn.Linear(5, 1).double()
    start = torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
    average = WeightAverage(model, 0.5)
    network = make_toy(FitSettings(iteration_num=6), model=model, callbacks=(average, Watch()))
    valid = toy_loader(ToyDataset(11), 4)
    network.fit(toy_loader(ToyDataset(24), 4), valid)
    raw = weights_of(network).clone()
    with network.averaged():
        torch.testing.assert_close(weights_of(network), expected[-1], rtol=0, atol=1e-15)
        assert network.validate(valid)["loss"] == pytest.approx(seen[-1], abs=1e-15)
    assert torch.equal(weights_of(network), raw)
    assert not torch.equal(raw, expected[-1])


def _norm_network(callbacks=(), statistics=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    average = WeightAverage(model.double(), 0.9, statistics)
    settings = FitSettings(iteration_num=8, iteration_valid=4)
    return make_toy(settings, model=model, callbacks=(average, *callbacks))


def test_batch_norm_statistics_are_those_of_the_averaged_weights():
    statistics = toy_loader(ToyDataset(40), 40)
    network = _norm_network(statistics=statistics)
    network.fit(toy_loader(ToyDataset(40), 8), toy_loader(ToyDataset(10), 5))
    linear, norm = network.model[0], network.model[1]
    momentum, rng = norm.momentum, torch.get_rng_state()
    with network.averaged():
        batch = next(iter(statistics))
        activations = linear(batch["x"])
        torch.testing.assert_close(norm.running_mean, activations.mean(0))
        torch.testing.assert_close(norm.running_var, activations.var(0))
    assert norm.momentum == momentum
    assert torch.equal(rng, torch.get_rng_state())
    assert not torch.allclose(norm.running_mean, activations.mean(0))


def test_a_signal_while_statistics_are_measured_puts_the_weights_back():
    class Statistics:
        raised = False

        def __iter__(self):
            for batch in toy_loader(ToyDataset(16), 4):
                if not self.raised:
                    Statistics.raised = True
                    signal.raise_signal(signal.SIGTERM)
                yield batch

    saved = {}

    class Save(Callback):
        def on_step_end(self, network):
            saved["raw"] = weights_of(network).clone()

        def on_stop(self, network):
            saved["stopped"] = weights_of(network).clone()

    network = _norm_network((Save(),), Statistics())
    with pytest.raises(Interrupted):
        network.fit(toy_loader(ToyDataset(40), 8), toy_loader(ToyDataset(10), 5))
    assert torch.equal(saved["raw"], saved["stopped"])
    assert network.state.validated == 0


def test_swa_is_the_mean_of_the_weights_from_its_start_on():
    """Torch's AveragedModel, fed after the same steps, is the reference."""
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    reference = torch.optim.swa_utils.AveragedModel(model)

    class Reference(Callback):
        def on_step_end(self, network):
            if network.state.iteration >= 5:
                reference.update_parameters(network.model)

    average = StochasticWeightAverage(model, 4)
    network = make_toy(FitSettings(iteration_num=9), model=model, callbacks=(average, Reference()))
    network.fit(toy_loader(ToyDataset(24), 4))
    assert average.num_updates == int(reference.n_averaged) == 5
    with network.averaged():
        expected = torch.cat([p.detach().flatten() for p in reference.parameters()])
        torch.testing.assert_close(weights_of(network), expected, rtol=0, atol=1e-14)


def _two_averages(validate_raw=True):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).double()
    statistics = toy_loader(ToyDataset(40), 40)
    swa = StochasticWeightAverage(model, 4, statistics)
    ema = WeightAverage(model, 0.9, statistics)
    seen = {}

    class Watch(Callback):
        def on_metrics(self, network, metrics):
            seen[network.state.iteration] = metrics, network.weights_name

    settings = FitSettings(iteration_num=8, iteration_valid=4, validate_raw=validate_raw)
    network = make_toy(settings, model=model, callbacks=(swa, ema, Watch()))
    network.fit(toy_loader(ToyDataset(40), 8), toy_loader(ToyDataset(10), 5))
    return network, swa, ema, seen


def test_every_set_of_weights_is_validated_under_its_name():
    network, swa, ema, seen = _two_averages()
    valid = toy_loader(ToyDataset(10), 5)
    raw = weights_of(network).clone()
    # Before SWA begins, the moving average is what is predicted with.
    assert seen[4][0].keys() == {"loss", "raw_loss"}
    assert seen[4][1] == "ema"
    metrics, name = seen[8]
    assert name == network.weights_name == "swa"
    assert metrics["raw_loss"] == network.validate(valid)["loss"]
    for average, key in ((swa, "loss"), (ema, "ema_loss")):
        with average.in_place(network):
            assert metrics[key] == network.validate(valid)["loss"]
            assert not torch.equal(weights_of(network), raw)
    assert len(set(metrics.values())) == 3
    assert torch.equal(weights_of(network), raw)


def test_batch_norm_statistics_of_swa_are_renewed():
    network, _, _, _ = _two_averages()
    batch = next(iter(toy_loader(ToyDataset(40), 40)))
    with network.averaged():
        activations = network.model[0](batch["x"])
        torch.testing.assert_close(network.model[1].running_mean, activations.mean(0))
        torch.testing.assert_close(network.model[1].running_var, activations.var(0))


def test_raw_weights_are_not_validated_where_that_is_not_asked_for():
    _, _, _, seen = _two_averages(validate_raw=False)
    assert seen[4][0].keys() == {"loss"}
    assert seen[8][0].keys() == {"loss", "ema_loss"}
    plain = make_toy(FitSettings(iteration_num=2))
    assert plain.weights_name == "raw"
