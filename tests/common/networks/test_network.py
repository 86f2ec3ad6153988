import dataclasses
import io
import signal
import sys

import pytest
import torch
from torch import nn
from toy import ToyDataset, ToyNetwork, make_toy, toy_loader, weights_of

from common.callbacks import Callback, StochasticWeightAverage, WeightAverage
from common.datasets.loading import make_loader
from common.distributed import Processes
from common.errors import InputError, Interrupted
from common.networks import AbstractNetwork, FitSettings, StepOutput
from common.networks.batches import TrainingBatch


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_accumulated_batches_equal_one_batch(dtype, tolerance):
    # 22 samples in groups of 8: the last group of an epoch has 6, and as batches of 2 it has 3.
    dataset = ToyDataset(22, dtype)
    whole = make_toy(FitSettings(iteration_num=20, clip_norm=0.5), dtype)
    whole.fit(toy_loader(dataset, 8))
    parts = make_toy(FitSettings(iteration_num=20, clip_norm=0.5, accumulation_step=4), dtype)
    parts.fit(toy_loader(dataset, 2))
    assert parts.state.iteration == whole.state.iteration == 20
    assert parts.state.micro_step > whole.state.micro_step
    assert (parts.state.epoch, parts.state.position) == (whole.state.epoch, whole.state.position)
    assert (weights_of(parts) - weights_of(whole)).abs().max() <= tolerance


def test_uneven_last_batch_of_a_group_counts_by_its_samples():
    # 7 samples as 4 + 3 must give the gradient of 7, not the mean of two means.
    dataset = ToyDataset(7)
    whole = make_toy(FitSettings(iteration_num=6))
    whole.fit(toy_loader(dataset, 7))
    parts = make_toy(FitSettings(iteration_num=6, accumulation_step=2))
    parts.fit(toy_loader(dataset, 4))
    torch.testing.assert_close(weights_of(parts), weights_of(whole), rtol=0, atol=1e-13)


@pytest.mark.parametrize("accumulation_step", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [9, 13, 17, 18])
def test_every_sample_comes_once_an_epoch_and_never_alone(num_samples, accumulation_step):
    """Of 4 at a time; batch norm over single values raises an error where one comes alone."""
    seen: list[list[int]] = [[]]

    class Watching(ToyNetwork):
        def training_step(self, batch):
            seen[-1] += batch["index"].tolist()
            if len(seen[-1]) == num_samples:
                seen.append([])
            return super().training_step(batch)

    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    toy = make_toy(FitSettings(12, accumulation_step=accumulation_step), model=model)
    network = Watching(toy.model, toy.settings, toy.optimizer)
    network.fit(toy_loader(ToyDataset(num_samples), 4))
    assert len(seen) > 2
    for epoch in seen[:-1]:
        assert sorted(epoch) == list(range(num_samples))


def test_fit_equals_a_plain_loop():
    dataset = ToyDataset(24)
    network = make_toy(FitSettings(iteration_num=10))
    plain = make_toy(FitSettings(iteration_num=10))
    network.fit(toy_loader(dataset, 8))
    loader = toy_loader(dataset, 8)
    done = 0
    for epoch in range(4):
        loader.sampler.start(epoch)
        for batch in loader:
            if done == 10:
                break
            plain.optimizer.zero_grad()
            output = plain.model(batch["x"]).squeeze(-1)
            nn.functional.mse_loss(output, batch["y"]).backward()
            plain.optimizer.step()
            done += 1
    torch.testing.assert_close(weights_of(network), weights_of(plain), rtol=0, atol=1e-14)


def test_schedule_and_validation_count_optimizer_steps():
    seen = []

    class Watch(Callback):
        def on_metrics(self, network, metrics):
            seen.append((network.state.iteration, network.state.micro_step))

    settings = FitSettings(iteration_num=7, accumulation_step=3, iteration_valid=3)
    network = make_toy(settings, callbacks=(Watch(),))
    network.scheduler = torch.optim.lr_scheduler.StepLR(network.optimizer, 1, gamma=0.5)
    dataset = ToyDataset(60)
    network.fit(toy_loader(dataset, 2), toy_loader(dataset, 10))
    assert seen == [(3, 9), (6, 18), (7, 21)]
    assert network.scheduler.get_last_lr() == [0.01 * 0.5**7]


@pytest.mark.parametrize("iteration", [1, 2, 5])
def test_a_gradient_that_is_not_finite_changes_no_weight(iteration):
    seen = []

    class Steep(ToyNetwork):
        def training_step(self, batch):
            step = super().training_step(batch)
            seen.append(weights_of(self).clone())
            if len(seen) < iteration:
                return step
            root = (step.loss_sum - step.loss_sum.detach()).sqrt()  # 0, of infinite slope
            return StepOutput(step.loss_sum + root, step.num_terms, step.outputs)

    toy = make_toy(FitSettings(iteration_num=9))
    network = Steep(toy.model, toy.settings, toy.optimizer)
    message = rf"gradient is not finite at iteration {iteration}\b.*sample"
    with pytest.raises(FloatingPointError, match=message):
        network.fit(toy_loader(ToyDataset(12), 4))
    assert torch.equal(weights_of(network), seen[-1])


def test_a_validation_that_is_not_finite_is_no_score():
    network = make_toy(FitSettings(iteration_num=3))
    with torch.no_grad():
        network.model[2].bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="validation at iteration 0 is not finite"):
        network.validate(toy_loader(ToyDataset(12), 4))


def test_hooks_run_in_the_documented_order():
    calls = []

    class Record(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_") or name == "close":
                return lambda network, *arguments: calls.append(name)
            return super().__getattribute__(name)

    network = make_toy(FitSettings(iteration_num=2, iteration_valid=1), callbacks=(Record(),))
    network.fit(toy_loader(ToyDataset(8), 4), toy_loader(ToyDataset(8), 4))
    step = ["on_step_begin", "on_step_end", "on_validation_begin", "on_outputs"]
    step += ["on_validation_end", "on_metrics", "on_iteration_end"]
    assert calls == ["on_fit_begin", *step, *step, "on_fit_end", "close"]


def test_non_finite_loss_names_iteration_and_samples_and_changes_nothing():
    dataset = ToyDataset(8)
    network = make_toy(FitSettings(iteration_num=9))
    network.fit(toy_loader(dataset, 4))
    before = weights_of(network).clone()
    dataset.inputs[3] = float("nan")
    network.settings = dataclasses.replace(network.settings, iteration_num=99)
    with pytest.raises(FloatingPointError, match=r"iteration 1\d.*sample3"):
        network.fit(toy_loader(dataset, 4))
    assert torch.isfinite(weights_of(network)).all()
    assert network.state.iteration < 12
    assert before.shape == weights_of(network).shape


def test_group_without_any_term_changes_nothing():
    network = make_toy(FitSettings(iteration_num=3), optimizer=lambda p: torch.optim.SGD(p, 0.1))

    def step(batch):
        return StepOutput((network.model(batch["x"]) * 0).sum(), 0.0, {})

    network.training_step = step
    before = weights_of(network).clone()
    network.fit(toy_loader(ToyDataset(8), 4))
    assert torch.equal(before, weights_of(network))


def test_validation_loss_is_of_the_whole_set_and_leaves_training_alone():
    dataset = ToyDataset(11)
    network = make_toy(FitSettings(iteration_num=1))
    loader = toy_loader(dataset, 4)
    state = torch.get_rng_state()
    metrics = network.validate(loader)
    assert torch.equal(state, torch.get_rng_state())
    samples = [dataset[(0, index)] for index in range(11)]
    errors = [
        (network.model(sample["x"]).squeeze() - sample["y"]).item() ** 2 for sample in samples
    ]
    assert metrics["loss"] == pytest.approx(sum(errors) / 11, rel=1e-12)


def test_validation_and_prediction_are_of_the_evaluation_mode():
    """Dropout draws nothing, batch norm uses its running statistics and leaves them."""
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    network = make_toy(FitSettings(iteration_num=6), model=model)
    dataset, loader = ToyDataset(11), toy_loader(ToyDataset(11), 4)
    network.fit(toy_loader(dataset, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.eval()
        samples = [dataset[(0, index)] for index in range(11)]
        expected = [model(sample["x"][None]).item() for sample in samples]
    errors = [(value - sample["y"].item()) ** 2 for value, sample in zip(expected, samples)]
    ordered = torch.utils.data.DataLoader(dataset, batch_size=4)
    plain = [model(dataset[index]["x"][None]).item() for index in range(11)]
    for is_training in (True, False):
        model.train(is_training)
        loader.sampler.start(0)
        assert network.validate(loader)["loss"] == pytest.approx(sum(errors) / 11, rel=1e-12)
        model.train(is_training)
        assert network.predict(ordered)["prediction"] == pytest.approx(plain, rel=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_is_in_training_mode_after_a_validation():
    modes = []

    class Watching(ToyNetwork):
        def training_step(self, batch):
            modes.append(self.model.training)
            return super().training_step(batch)

    toy = make_toy(FitSettings(iteration_num=4, iteration_valid=1))
    network = Watching(toy.model, toy.settings, toy.optimizer)
    network.fit(toy_loader(ToyDataset(8), 4), toy_loader(ToyDataset(8), 4))
    assert modes == [True] * 4


def test_statistics_are_averaged_over_the_processes_after_each_step():
    class Exchanging(Processes):
        def average(self, tensors):
            averaged.append([id(tensor) for tensor in tensors])

    averaged: list[list[int]] = []
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    network = make_toy(FitSettings(iteration_num=3, processes=Exchanging()), model=model)
    network.fit(toy_loader(ToyDataset(8), 4))
    assert averaged == [[id(model[1].running_mean), id(model[1].running_var)]] * 3


@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1e9])
def test_the_gradient_is_a_mean_before_it_is_clipped(clip_norm):
    """Seven samples in batches of 3 and 4 are one step: a mean over 7, whose norm is clipped."""
    dataset = ToyDataset(7)
    network = make_toy(
        FitSettings(iteration_num=1, accumulation_step=2, clip_norm=clip_norm),
        optimizer=lambda p: torch.optim.SGD(p, 1.0),
    )
    before = weights_of(network).clone()
    samples = [dataset[(0, index)] for index in range(7)]
    losses = [(network.model(s["x"]).squeeze() - s["y"]) ** 2 for s in samples]
    loss = sum(losses) / 7
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, list(network.model.parameters()))]
    )
    assert gradient.norm() > 0.5
    network.fit(toy_loader(dataset, 4))
    share = min(1.0, clip_norm / (float(gradient.norm()) + 1e-6)) if clip_norm else 1.0
    torch.testing.assert_close(before - weights_of(network), gradient * share, rtol=1e-10, atol=0)
    assert network.step_values["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-10)
    assert network.step_values["loss"] == pytest.approx(loss.item(), rel=1e-10)
    assert network.step_values["learning_rate"] == 1.0


def test_predictions_come_in_the_order_of_the_loader():
    dataset = ToyDataset(11)
    network = make_toy(FitSettings(iteration_num=1))
    loader = torch.utils.data.DataLoader(dataset, batch_size=4)
    predictions = network.predict(loader)["prediction"]
    expected = [network.model(dataset[index]["x"]).item() for index in range(11)]
    assert predictions == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_then_stops(number):
    saved = []

    class Stop(Callback):
        def on_step_end(self, network):
            if network.state.iteration == 3:
                signal.raise_signal(number)

        def on_stop(self, network):
            saved.append(network.state.iteration)

    network = make_toy(FitSettings(iteration_num=9), callbacks=(Stop(),))
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted) as error:
        network.fit(toy_loader(ToyDataset(8), 4))
    assert error.value.signal_number == number
    assert saved == [3]
    assert signal.getsignal(number) is handler


def test_signal_in_validation_saves_a_state_that_validates_again():
    class Stop(Callback):
        asked = False

        def on_validation_begin(self, network):
            if not self.asked:
                self.asked = True
                signal.raise_signal(signal.SIGTERM)

        def on_metrics(self, network, metrics):
            validated.append(network.state.iteration)

    validated: list[int] = []
    network = make_toy(FitSettings(iteration_num=4, iteration_valid=2), callbacks=(Stop(),))
    data, valid = toy_loader(ToyDataset(8), 4), toy_loader(ToyDataset(8), 4)
    with pytest.raises(Interrupted):
        network.fit(data, valid)
    assert (network.state.iteration, validated) == (2, [])
    network._stop_request.signal_number = None
    network.fit(data, valid)
    assert validated == [2, 4]


def test_mixed_precision_keeps_float32_weights_and_fp16_needs_a_gpu():
    network = make_toy(FitSettings(iteration_num=5, amp_dtype="bf16"), torch.float32)
    network.fit(toy_loader(ToyDataset(16, torch.float32), 4))
    assert weights_of(network).dtype == torch.float32
    exact = make_toy(FitSettings(iteration_num=5), torch.float32)
    exact.fit(toy_loader(ToyDataset(16, torch.float32), 4))
    difference = (weights_of(network) - weights_of(exact)).abs().max()
    assert 0 < difference < 0.05
    with pytest.raises(InputError, match="fp16"):
        FitSettings(iteration_num=1, amp_dtype="fp16")


@pytest.mark.parametrize("clip_norm", [0.0, 0.3, 2.0])
def test_values_of_a_step_equal_a_plain_loop(clip_norm):
    """The gradient is that of the mean; it is clipped after it has become a mean."""
    seen = []

    class Watch(Callback):
        def on_step_end(self, network):
            seen.append(dict(network.step_values))

    settings = FitSettings(iteration_num=8, clip_norm=clip_norm, accumulation_step=2)
    network = make_toy(settings, callbacks=(Watch(),))
    network.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.3})
    network.scheduler = torch.optim.lr_scheduler.StepLR(network.optimizer, 3, gamma=0.5)
    network.fit(toy_loader(ToyDataset(14), 4))
    plain = make_toy(FitSettings(iteration_num=8))
    loader, expected = toy_loader(ToyDataset(14), 4), []
    for epoch in range(4):
        loader.sampler.start(epoch)
        batches = list(loader)
        for group in (batches[:2], batches[2:]):
            x, y = (torch.cat([batch[name] for batch in group]) for name in "xy")
            loss = ((plain.model(x).squeeze(-1) - y) ** 2).mean()
            plain.optimizer.zero_grad()
            loss.backward()
            norm = torch.sqrt(sum((p.grad**2).sum() for p in plain.model.parameters()))
            if clip_norm and norm > clip_norm:
                for p in plain.model.parameters():
                    p.grad *= clip_norm / norm
            rate = 0.5 ** (len(expected) // 3)
            plain.optimizer.param_groups[0]["lr"] = 0.01 * rate
            plain.optimizer.step()
            expected.append((float(loss.detach()), float(norm), 0.3 * rate))
    found = [(v["loss"], v["gradient_norm"], v["learning_rate"]) for v in seen]
    assert [pytest.approx(values, rel=1e-5) for values in expected] == found
    torch.testing.assert_close(weights_of(network), weights_of(plain), rtol=1e-5, atol=1e-7)
    for values in seen:
        assert 0 <= values["data_wait_share"] < 1
        assert values["samples_per_second"] > 0


def test_the_speed_is_that_of_all_samples_of_a_step(monkeypatch):
    """By a clock that only reading a sample (two seconds) and a batch's step (four) move."""
    now = [0.0]

    class Slow(ToyDataset):
        def make_sample(self, index, seed):
            now[0] += 2
            return super().make_sample(index, seed)

    class Working(ToyNetwork):
        def training_step(self, batch):
            now[0] += 4
            return super().training_step(batch)

    monkeypatch.setattr("common.networks.network.time.perf_counter", lambda: now[0])
    toy = make_toy(FitSettings(iteration_num=1, accumulation_step=3))
    network = Working(toy.model, toy.settings, toy.optimizer)
    network.fit(toy_loader(Slow(14), 4))
    assert network.step_values["samples_per_second"] == 12 / 36
    assert network.step_values["data_wait_share"] == 24 / 36


def test_a_mean_of_few_or_no_terms():
    network = make_toy(FitSettings(iteration_num=1), optimizer=lambda p: torch.optim.SGD(p, 1.0))
    start = weights_of(network).clone()

    def total(network):
        return sum(p.sum() for p in network.model.parameters())

    network.training_step = lambda batch: StepOutput(0.5 * total(network), 0.25, {})
    network.fit(toy_loader(ToyDataset(8), 4))
    torch.testing.assert_close(weights_of(network), start - 2.0)
    assert network.step_values["loss"] == pytest.approx(2.0 * float(start.sum()))
    network = make_toy(FitSettings(iteration_num=1))
    network.training_step = lambda batch: StepOutput(total(network) * 0, 0.0, {})
    network.fit(toy_loader(ToyDataset(8), 4))
    assert network.step_values["loss"] == 0 == network.step_values["gradient_norm"]


def test_subset_and_whole_have_hooks_and_data_of_their_own():
    seen = []

    class Watch(Callback):
        def on_metrics(self, network, metrics):
            seen.append((network.state.iteration, "whole", metrics["loss"]))

        def on_subset_metrics(self, network, metrics):
            seen.append((network.state.iteration, "subset", metrics["loss"]))

    settings = FitSettings(iteration_num=7, iteration_valid=2, iteration_valid_full=6)
    network = make_toy(settings, callbacks=(Watch(),), optimizer=lambda p: torch.optim.SGD(p, 0))
    whole, subset = make_loader(ToyDataset(11), 4, 0), make_loader(ToyDataset(5), 4, 0)
    network.fit(toy_loader(ToyDataset(12), 4), whole, subset)
    kinds = [(0, "whole"), (2, "subset"), (4, "subset"), (6, "whole"), (7, "whole")]
    losses = {"whole": network.validate(whole)["loss"], "subset": network.validate(subset)["loss"]}
    assert seen == [(n, kind, losses[kind]) for n, kind in kinds if n]
    # The last state is validated already: nothing is left to do.
    network.fit(toy_loader(ToyDataset(12), 4), whole, subset)
    assert len(seen) == 4


def test_a_training_that_ends_early_or_stops_for_a_callback():
    calls = []

    class Last(Callback):
        def on_step_end(self, network):
            if network.state.iteration == 3:
                network.end_early() if ends else network.ask_to_stop()

        def on_fit_end(self, network):
            calls.append("end")

        def on_stop(self, network):
            calls.append("stop")

    for ends in (True, False):
        network = make_toy(FitSettings(iteration_num=9), callbacks=(Last(),))
        assert not network.is_done
        if ends:
            network.fit(toy_loader(ToyDataset(8), 4))
            assert network.is_done
        else:
            with pytest.raises(Interrupted):
                network.fit(toy_loader(ToyDataset(8), 4))
            assert not network.is_done
        assert network.state.iteration == 3
    assert calls == ["end", "stop"]


def test_the_weights_come_back_after_an_error_in_a_validation():
    calls = []

    class Watch(Callback):
        def on_validation_end(self, network):
            calls.append(weights_of(network).clone())

    network = make_toy(FitSettings(iteration_num=4), callbacks=(Watch(),))
    average = WeightAverage(network.model, 0.9)
    network.callbacks.insert(0, average)
    network.fit(toy_loader(ToyDataset(8), 4))
    raw = weights_of(network).clone()
    with pytest.raises(OSError, match="gone"), network.averaged():
        raise OSError("gone")
    assert torch.equal(weights_of(network), raw)
    assert len(calls) == 1 and not torch.equal(calls[0], raw)


def test_a_checkpoint_that_lacks_something_is_refused_by_its_name():
    network = make_toy(FitSettings(iteration_num=2))
    network.fit(toy_loader(ToyDataset(8), 4))
    state = network.state_dict()
    assert state["scheduler"] is None
    for name in ("model", "rng", "averages", "iteration"):
        part = {key: value for key, value in state.items() if key != name}
        with pytest.raises(InputError, match=f"the checkpoint lacks {name}:"):
            make_toy(FitSettings(iteration_num=2)).load_state_dict(part)


def test_a_batch_that_only_stands_in_has_no_gradient_and_no_terms(monkeypatch):
    """As on a process that got none of the last samples of an epoch."""
    dataset = ToyDataset(12)
    alone = make_toy(FitSettings(iteration_num=3))
    alone.fit(toy_loader(dataset, 4))
    batches = list(toy_loader(dataset, 4))
    large = {name: value * 100 for name, value in batches[0].items()}
    parts = [
        part
        for number, batch in enumerate(batches)
        for part in (
            TrainingBatch(batch, 4, False, False),
            TrainingBatch(large, 0, True, number == 2),
        )
    ]
    monkeypatch.setattr("common.networks.network.training_batches", lambda *_: iter(parts))
    network = make_toy(FitSettings(iteration_num=3, accumulation_step=2))
    network.fit(toy_loader(dataset, 4))
    torch.testing.assert_close(weights_of(network), weights_of(alone), rtol=0, atol=1e-14)
    assert network.step_values["loss"] == pytest.approx(alone.step_values["loss"], rel=1e-12)


def test_a_network_without_its_steps_cannot_be_made():
    class NoTraining(ToyNetwork):
        training_step = AbstractNetwork.training_step

    toy = make_toy(FitSettings(iteration_num=1))
    with pytest.raises(TypeError, match="training_step"):
        NoTraining(toy.model, toy.settings, toy.optimizer)


@pytest.mark.parametrize("validate_raw", [True, False])
def test_every_average_is_validated_with_its_own_weights(validate_raw):
    found = {}

    class Watch(Callback):
        def on_metrics(self, network, metrics):
            found.update(metrics)

    settings = FitSettings(iteration_num=4, validate_raw=validate_raw)
    network = make_toy(settings)
    first = WeightAverage(network.model, 0.9)
    second = StochasticWeightAverage(network.model, 1)
    network.callbacks = [first, second, Watch()]
    valid = make_loader(ToyDataset(11), 4, 0)
    network.fit(toy_loader(ToyDataset(12), 4), valid)
    expected = {"raw_loss": network.validate(valid)["loss"]} if validate_raw else {}
    for average, name in ((first, "loss"), (second, "swa_loss")):
        with average.in_place(network):
            expected[name] = network.validate(valid)["loss"]
    found = {name: value for name, value in found.items() if name.endswith("loss")}
    assert found == expected and len(set(found.values())) == len(found)
    assert network.weights_name == "ema"


def test_callbacks_and_averages_have_their_own_places_in_a_checkpoint():
    class Counter(Callback):
        steps = 0

        def on_step_end(self, network):
            self.steps += 1

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    networks = [make_toy(FitSettings(iteration_num=3), callbacks=(Counter(),)) for _ in range(2)]
    for network in networks:
        network.callbacks.insert(0, WeightAverage(network.model, 0.9))
    networks[0].fit(toy_loader(ToyDataset(8), 4))
    state = networks[0].state_dict()
    average, counter = networks[0].callbacks
    assert state["callbacks"] == {counter.name: {"steps": 3}}
    assert list(state["averages"]) == [average.name]
    assert state["averages"][average.name]["num_updates"] == 3
    networks[1].load_state_dict(state)
    assert networks[1].callbacks[1].steps == networks[1].callbacks[0].num_updates == 3
    # A callback that the checkpoint does not know begins anew.
    networks[1].callbacks[1].steps = 7
    networks[1].load_state_dict({**state, "callbacks": {}})
    assert networks[1].callbacks[1].steps == 7


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_validation_shows_its_progress_on_a_terminal_alone(monkeypatch, is_terminal):
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    monkeypatch.setattr(sys, "stderr", Stream())
    make_toy(FitSettings(iteration_num=1)).validate(toy_loader(ToyDataset(24), 4))
    assert ("validation:   0%" in sys.stderr.getvalue()) == is_terminal
    assert ("0/6" in sys.stderr.getvalue()) == is_terminal


class Unlabelled(ToyNetwork):
    """A network whose rows have no known label: its loss is finite whatever it predicts."""

    def validation_step(self, batch):
        logits = self.prediction_step(batch)["logits"]
        return StepOutput(torch.zeros(()), 0, {"logits": logits})

    def prediction_step(self, batch):
        return {"logits": self.model(batch["x"])}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_an_error_though_no_label_is_known(bad):
    toy = make_toy(FitSettings(iteration_num=3))
    network = Unlabelled(toy.model, toy.settings, toy.optimizer)
    network.state.iteration = 2
    assert network.validate(toy_loader(ToyDataset(12), 4)) == {"loss": None}
    with torch.no_grad():
        network.model[2].bias.fill_(bad)
    message = r"predicted NaN or infinity for 12 of 12 samples, .* iteration 2: lower the learning"
    for method in (network.validate, network.predict):
        with pytest.raises(FloatingPointError, match=message):
            method(toy_loader(ToyDataset(12), 4))


def test_a_metric_that_is_nan_is_no_score():
    class Undefined(ToyNetwork):
        def compute_metrics(self, outputs):
            return {"auc.any": float("nan"), "auc.other": None}

    toy = make_toy(FitSettings(iteration_num=3))
    network = Undefined(toy.model, toy.settings, toy.optimizer)
    with pytest.raises(FloatingPointError, match=r"auc\.any of the validation at iteration 0: NaN"):
        network.validate(toy_loader(ToyDataset(12), 4))
