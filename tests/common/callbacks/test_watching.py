"""Telemetry, learning rates, device memory and kept outputs, in real fits."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toy import ToyDataset, ToyNetwork, make_toy, toy_loader, weights_of

from common.callbacks import (
    ActivationTelemetry,
    Callback,
    DeviceMemory,
    LearningRates,
    OutputSaver,
    TrainingMonitor,
)
from common.callbacks.telemetry import _Statistics
from common.errors import InputError
from common.networks import FitSettings
from common.networks.state import FitState


def model():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)).double()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def fit(network, num_valid=9):
    network.fit(toy_loader(ToyDataset(16), 4), toy_loader(ToyDataset(num_valid), 4))
    return network


def test_a_spread_that_is_small_beside_the_mean_is_kept():
    statistics, rng = _Statistics(), np.random.default_rng(0)
    batches = [1e6 + 1e-3 * rng.normal(size=(num, 5)) for num in (30, 7, 50)]
    for batch in batches:
        statistics.add(torch.tensor(batch))
    values, joined = statistics.values(), np.concatenate(batches)
    assert values["activation_mean"] == pytest.approx(joined.mean(), rel=1e-12)
    assert values["activation_std"] == pytest.approx(joined.std(), rel=1e-6)


def test_telemetry_sees_what_the_training_sees(tmp_path):
    seen = {}

    class Watch(ToyNetwork):
        def training_step(self, batch):
            with torch.no_grad():
                hidden = self.model[1](self.model[0](batch["x"]))
            seen.setdefault(self.state.iteration + 1, []).append(hidden)
            return super().training_step(batch)

    net = model()
    with torch.no_grad():
        net[0].bias[:2] = -99.0  # two of eight units never fire
    telemetry = ActivationTelemetry(net, "1", every=3)
    monitor = TrainingMonitor(tmp_path / "metrics.jsonl", every=5)
    settings = FitSettings(iteration_num=7, accumulation_step=2, iteration_valid=1)
    toy = make_toy(settings, model=net)
    fit(Watch(net, settings, toy.optimizer, callbacks=(telemetry, monitor)))
    looks = {x["iteration"]: x for x in lines(monitor.path) if "activation_mean" in x}
    assert sorted(looks) == [3, 6]
    for iteration, look in looks.items():
        values = torch.cat(seen[iteration]).numpy()
        assert len(values) == 8  # both batches of the group, no validation
        assert look["activation_mean"] == pytest.approx(values.mean(), abs=1e-12)
        assert look["activation_std"] == pytest.approx(values.std(), abs=1e-9)
        assert look["activation_dead_share"] == (values.max(axis=0) < 1e-6).mean() >= 0.25


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 7, 3), (4, 3)])
def test_units_are_channels(shape):
    network = SimpleNamespace(state=FitState(), gauges={})
    module = nn.Identity()
    telemetry = ActivationTelemetry(nn.Sequential(module), "0", every=1)
    values = torch.rand(shape) + 0.1
    values.movedim(1 if len(shape) == 4 else -1, 0)[1] = 0.0
    telemetry.on_step_begin(network)
    module(values)
    telemetry.on_step_end(network)
    assert network.gauges["activation_dead_share"] == pytest.approx(1 / 3)


def test_telemetry_changes_no_bit_and_leaves_no_hook():
    def run(*watching):
        net = model()
        torch.manual_seed(5)  # dropout draws from it
        settings = FitSettings(iteration_num=9, iteration_valid=2)
        callbacks = tuple(make(net) for make in watching)
        optimizer = lambda p: torch.optim.AdamW(p, 0.01)  # noqa: E731
        network = make_toy(settings, model=net, callbacks=callbacks, optimizer=optimizer)
        return fit(network), torch.get_rng_state()

    plain, draws = run()
    watched, draws_watched = run(lambda net: ActivationTelemetry(net, "2", every=2))
    assert torch.equal(weights_of(plain), weights_of(watched))
    assert torch.equal(draws, draws_watched)
    assert not watched.model[2]._forward_hooks


def test_telemetry_lets_go_after_an_error():
    class Broken(ToyNetwork):
        def training_step(self, batch):
            super().training_step(batch)
            raise RuntimeError("broken")

    net = model()
    toy = make_toy(FitSettings(iteration_num=3), model=net)
    telemetry = ActivationTelemetry(net, "1", every=1)
    with pytest.raises(RuntimeError):
        fit(Broken(net, toy.settings, toy.optimizer, callbacks=(telemetry,)))
    assert not net[1]._forward_hooks


def test_an_unknown_module_names_those_that_are_near():
    net = nn.ModuleDict({"backbone": nn.Sequential(nn.Linear(1, 1), nn.ReLU()), "head": nn.ReLU()})
    with pytest.raises(InputError, match=r"--cb_telemetry_module_name bakbone\.1: .*backbone\.1"):
        ActivationTelemetry(net, "bakbone.1", every=1)
    with pytest.raises(InputError, match="near are"):
        ActivationTelemetry(net, "", every=1)


def test_learning_rates_of_every_group(tmp_path):
    net = model()
    rates = {}

    class Watch(Callback):
        def on_step_begin(self, network):
            rates[network.state.iteration + 1] = [g["lr"] for g in network.optimizer.param_groups]

    def optimizer(_):
        groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[3].parameters()}]
        return torch.optim.SGD(groups, 0.01)

    monitor = TrainingMonitor(tmp_path / "metrics.jsonl", every=2)
    callbacks = (Watch(), LearningRates(every=2), monitor)
    settings = FitSettings(iteration_num=5)
    network = make_toy(settings, model=net, callbacks=callbacks, optimizer=optimizer)
    network.scheduler = torch.optim.lr_scheduler.StepLR(network.optimizer, 1, gamma=0.5)
    fit(network)
    told = {
        x["iteration"]: [x["learning_rate.group0"], x["learning_rate.group1"]]
        for x in lines(monitor.path)
        if "train_loss" in x
    }
    assert told == {iteration: rates[iteration] for iteration in (2, 4, 5)}
    assert rates[1] == [0.1, 0.01]


def test_the_log_shows_a_metric_of_0_and_none_that_is_undefined(tmp_path, caplog):
    caplog.set_level("INFO")
    monitor = TrainingMonitor(tmp_path / "metrics.jsonl", shown=("auc.any", "auc.epidural"))
    monitor.on_metrics(
        make_toy(FitSettings(iteration_num=2)), {"auc.any": 0.0, "auc.epidural": None}
    )
    assert "validation at 0: auc.any 0.0000" in caplog.text and "epidural" not in caplog.text


def test_device_memory_is_silent_on_a_cpu():
    network = make_toy(FitSettings(iteration_num=2), callbacks=(DeviceMemory(every=1),))
    assert fit(network).gauges == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_memory_is_the_peak():
    settings = FitSettings(iteration_num=2, device=torch.device("cuda"))
    network = make_toy(settings, callbacks=(DeviceMemory(every=1),))
    block = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    del block
    network.callbacks[0].on_step_end(network)
    assert network.gauges["gpu_reserved_mb"] >= network.gauges["gpu_allocated_mb"] >= 256


def test_the_newest_outputs_are_kept(tmp_path):
    outputs = {}

    class Watch(Callback):
        def on_outputs(self, network, values, metrics):
            outputs[network.state.iteration, len(values["index"])] = values["index"]

    saver = OutputSaver(tmp_path, num_kept=2)
    settings = FitSettings(iteration_num=8, iteration_valid=1, iteration_valid_full=2)
    network = make_toy(settings, callbacks=(Watch(), saver))
    train, whole, subset = (toy_loader(ToyDataset(n), 4) for n in (16, 9, 3))
    network.fit(train, whole, subset)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["iteration_0000006.npz", "iteration_0000008.npz"]
    with np.load(tmp_path / kept[1], allow_pickle=False) as arrays:
        assert np.array_equal(arrays["index"], outputs[8, 9])


def test_outputs_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    for iteration in (2, 4):
        (tmp_path / f"iteration_{iteration:07d}.npz").touch()
    network = make_toy(FitSettings(iteration_num=3), callbacks=(OutputSaver(tmp_path, 2),))
    network.state.iteration = 3
    fit(network)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["iteration_0000002.npz", "iteration_0000003.npz"]
