import signal

import pytest
import torch
from torch import nn
from toy import ToyDataset, make_toy, toy_loader, weights_of

from common.callbacks import Callback, StochasticWeightAverage, WeightAverage
from common.callbacks.averages import measure_batch_norm
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


def test_statistics_are_means_over_the_batches_without_dropout():
    """By a plain loop: the mean of the means and of the unbiased variances of all batches."""
    batches = list(toy_loader(ToyDataset(20), 8))
    assert [len(batch["x"]) for batch in batches] == [8, 8, 4]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(5, 8), nn.BatchNorm1d(8, momentum=0.3), nn.Tanh(),
        nn.Linear(8, 3), nn.BatchNorm1d(3, momentum=0.2), nn.Linear(3, 1),
    )  # fmt: skip
    network = make_toy(FitSettings(iteration_num=1), model=model)
    model[2].running_mean.fill_(7.0)
    measure_batch_norm(network, batches)
    means = [[], []]
    for batch in batches:
        first = model[1](batch["x"])
        normed = (first - first.mean(0)) / (first.var(0, unbiased=False) + model[2].eps).sqrt()
        for found, values in zip(means, (first, model[4](torch.tanh(normed)))):
            found.append(torch.stack([values.mean(0), values.var(0)]))
    for norm, found in zip((model[2], model[5]), means):
        mean, variance = torch.stack(found).mean(0)
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance)
    assert (model[2].momentum, model[5].momentum) == (0.3, 0.2)
    assert not any(module.training for module in model.modules())


def test_a_network_without_batch_norm_reads_no_batch():
    network = make_toy(FitSettings(iteration_num=1))
    assert network.model.training

    def batches():
        raise AssertionError("read")
        yield

    measure_batch_norm(network, batches())
    assert network.model.training


def test_an_error_while_statistics_are_measured_leaves_the_norms_as_they_were():
    network = _norm_network()

    def batches():
        yield next(iter(toy_loader(ToyDataset(8), 8)))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        measure_batch_norm(network, batches())
    assert network.model[1].momentum == 0.1
    assert not network.model[1].training


def test_statistics_are_measured_once_for_each_average():
    read = []

    class Statistics:
        def __iter__(self):
            read.append(1)
            return iter(toy_loader(ToyDataset(40), 40))

    network = _norm_network(statistics=Statistics())
    average = network.callbacks[0]
    assert average.num_updates == 0
    with average.in_place(network):
        pass
    assert len(read) == 1
    network.fit(toy_loader(ToyDataset(40), 8))
    assert len(read) == 1
    for _ in range(2):
        with network.averaged():
            measured = network.model[1].running_mean.clone()
    assert len(read) == 2
    # A state that is loaded has weights of its own, whatever its number of updates.
    for times, num_updates in enumerate((8, 0, 1), start=1):
        state = {"model": {k: v.clone() for k, v in average.average.items()}}
        state["model"]["0.weight"] += times
        average.load_state_dict({**state, "num_updates": num_updates})
        with average.in_place(network):
            assert not torch.equal(network.model[1].running_mean, measured)
        assert len(read) == 2 + times


def test_a_state_comes_back_whole_and_is_no_alias():
    network = _norm_network()
    network.fit(toy_loader(ToyDataset(40), 8))
    state = network.callbacks[0].state_dict()
    assert state["num_updates"] == 8
    other = _norm_network()
    average = other.callbacks[0]
    average.load_state_dict(state)
    assert average.num_updates == 8
    for name, value in state["model"].items():
        assert torch.equal(average.average[name], value)
        assert average.average[name] is not value
    with other.averaged():
        assert other.weights_name == "ema"
        for name, value in other.model.state_dict().items():
            assert torch.equal(value, state["model"][name])


def test_counters_are_taken_over_and_statistics_averaged():
    network = _norm_network()
    average, norm = network.callbacks[0], network.model[1]
    expected = norm.running_mean.clone()

    class Watch(Callback):
        def on_step_end(self, network):
            nonlocal expected
            decay = min(0.9, (1 + network.state.iteration) / (10 + network.state.iteration))
            expected = decay * expected + (1 - decay) * norm.running_mean

    network.callbacks.append(Watch())
    network.fit(toy_loader(ToyDataset(40), 8))
    torch.testing.assert_close(average.average["1.running_mean"], expected)
    assert average.average["1.num_batches_tracked"] == norm.num_batches_tracked == 8


def test_an_average_begins_as_a_copy_of_the_weights():
    model = nn.Linear(5, 1).double()
    average = WeightAverage(model, 0.5)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    assert torch.equal(average.average["weight"], before)
    network = make_toy(FitSettings(iteration_num=1), model=model)
    with average.in_place(network):
        assert torch.equal(model.weight, before)
    assert torch.equal(model.weight, before + 1)
    with pytest.raises(RuntimeError, match="inside"), average.in_place(network):
        raise RuntimeError("inside")
    assert torch.equal(model.weight, before + 1)


def test_both_kinds_are_averages_of_a_checkpoint():
    network, swa, ema, _ = _two_averages()
    state = network.state_dict()
    assert {swa.name, ema.name} == set(state["averages"])
    assert not {swa.name, ema.name} & set(state["callbacks"])
