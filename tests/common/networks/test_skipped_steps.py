"""Steps that fp16 skips, with torch's own GradScaler on the CPU, against a plain loop."""

import json

import pytest
import torch
from toy import ToyDataset, ToyNetwork, assert_same_state, make_toy, toy_loader, weights_of

from common.callbacks import Callback, CheckpointSaver, TrainingMonitor, WeightAverage
from common.callbacks.telemetry import ActivationTelemetry
from common.checkpoint import load_checkpoint
from common.networks import FitSettings, StepOutput
from common.optim import Schedule, make_schedule

NUM_ITERATIONS, BATCH = 8, 4
DECAY = 0.9


class Overflowing(ToyNetwork):
    """Its gradient is not finite in some batches, by their number, as the loss scale overflows."""

    overflows: frozenset[int] = frozenset()

    def training_step(self, batch):
        step = super().training_step(batch)
        if self.state.micro_step in self.overflows:
            root = (step.loss_sum - step.loss_sum.detach()).sqrt()  # 0, of infinite slope
            return StepOutput(step.loss_sum + root, step.num_terms, step.outputs)
        return step


def make(overflows, callbacks=(), accumulation_step=1, clip_norm=0.5):
    settings = FitSettings(
        iteration_num=NUM_ITERATIONS, clip_norm=clip_norm, accumulation_step=accumulation_step
    )
    toy = make_toy(settings)
    network = Overflowing(toy.model, settings, toy.optimizer, callbacks=callbacks)
    # A power of two: scaling and unscaling changes no bit.
    network._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    network.overflows = frozenset(overflows)
    schedule = Schedule("one_cycle_lr", NUM_ITERATIONS, 0.05)
    network.scheduler = make_schedule(network.optimizer, schedule)
    return network


def plain_loop(overflows, accumulation_step=1, clip_norm=0.5):
    """Return weights, average, losses, norms and rates of the steps that are taken."""
    toy = make_toy(FitSettings(iteration_num=NUM_ITERATIONS))
    rate = Schedule("one_cycle_lr", NUM_ITERATIONS, 0.05)
    average = weights_of(toy).clone()
    losses, norms, rates, number, epoch = [], [], [], 0, 0
    loader = toy_loader(ToyDataset(18), BATCH)
    while True:
        loader.sampler.start(epoch)
        batches = list(loader)
        epoch += 1
        for first in range(0, len(batches), accumulation_step):
            group = batches[first : first + accumulation_step]
            numbers = set(range(number, number + len(group)))
            number += len(group)
            if numbers & set(overflows):
                continue
            toy.optimizer.zero_grad()
            outputs = torch.cat([toy.model(batch["x"]).squeeze(-1) for batch in group])
            loss = ((outputs - torch.cat([batch["y"] for batch in group])) ** 2).mean()
            loss.backward()
            norm = torch.sqrt(sum((p.grad**2).sum() for p in toy.model.parameters()))
            for p in toy.model.parameters():
                p.grad *= min(1.0, clip_norm / (float(norm) + 1e-6))
            for param_group in toy.optimizer.param_groups:
                param_group["lr"] = rate(len(losses))
            rates.append(rate(len(losses)))
            toy.optimizer.step()
            losses.append(float(loss.detach()))
            norms.append(float(norm))
            decay = min(DECAY, (1 + len(losses)) / (10 + len(losses)))
            average = decay * average + (1 - decay) * weights_of(toy)
            if len(losses) == NUM_ITERATIONS:
                return weights_of(toy), average, losses, norms, rates


@pytest.mark.parametrize("accumulation_step", [1, 2])
@pytest.mark.parametrize("overflows", [(), (0,), (3, 4), (0, 1, 2, 5, 9), (4,)])
def test_a_skipped_step_is_no_iteration(tmp_path, overflows, accumulation_step):
    seen = []

    class Watch(Callback):
        def on_step_end(self, network):
            seen.append(dict(network.step_values))

    toy = make(overflows, accumulation_step=accumulation_step)
    average = WeightAverage(toy.model, DECAY)
    monitor = TrainingMonitor(tmp_path / "metrics.jsonl", every=NUM_ITERATIONS)
    toy.callbacks = [average, Watch(), monitor]
    toy.fit(toy_loader(ToyDataset(18), BATCH))
    weights, averaged, losses, norms, rates = plain_loop(overflows, accumulation_step)
    torch.testing.assert_close(weights_of(toy), weights, rtol=0, atol=1e-12)
    own = torch.cat([value.flatten() for value in average.average.values()])
    torch.testing.assert_close(own, averaged, rtol=0, atol=1e-12)
    assert average.num_updates == toy.scheduler.last_epoch == NUM_ITERATIONS
    for name, expected in (("loss", losses), ("gradient_norm", norms), ("learning_rate", rates)):
        assert [values[name] for values in seen] == pytest.approx(expected, rel=1e-10)
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-10)
    assert line["train_gradient_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-10)


def test_skipped_steps_are_in_the_record_where_there_can_be_some(tmp_path):
    for dtype in ("fp16", None):
        network = make((0, 5, 6))
        monitor = TrainingMonitor(tmp_path / f"{dtype}.jsonl", every=4)
        network.callbacks = [monitor]
        # Only the settings say fp16: the CPU has no such autocast.
        object.__setattr__(network.settings, "amp_dtype", dtype)
        network._autocast = lambda: torch.autocast("cpu", enabled=False)
        network.fit(toy_loader(ToyDataset(18), BATCH))
        lines = map(json.loads, (tmp_path / f"{dtype}.jsonl").read_text().splitlines())
        counts = [line.get("skipped_steps") for line in lines]
        assert counts == ([1, 3] if dtype else [None, None])
        assert (network.state.num_skipped, network.state.micro_step) == (3, NUM_ITERATIONS + 3)


def test_nothing_follows_a_skipped_step_but_the_next_one():
    calls = []

    class Record(Callback):
        def on_step_begin(self, network):
            calls.append("begin")

        def on_iteration_end(self, network):
            calls.append(network.state.iteration)

        def on_metrics(self, network, metrics):
            calls.append("valid")

    network = make((0, 2, 3, 10), (Record(),))
    object.__setattr__(network.settings, "iteration_valid", 4)
    network.fit(toy_loader(ToyDataset(18), BATCH), toy_loader(ToyDataset(6), BATCH))
    begin, twice = "begin", ["begin", "begin"]
    assert calls == [
        *(*twice, 1, *twice, begin, 2, begin, 3, begin, "valid", 4),
        *(begin, 5, begin, 6, begin, 7, *twice, "valid", 8),
    ]


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_fifty_in_a_row_end_the_training_with_a_reason(clip_norm):
    fine = make([*range(2, 51), *range(52, 60)], clip_norm=clip_norm)  # 49, one step, 8 more
    fine.fit(toy_loader(ToyDataset(18), BATCH))
    assert fine.state.iteration == NUM_ITERATIONS and fine.state.num_skipped == 57
    network = make(range(3, 99), clip_norm=clip_norm)
    message = "50 steps in a row after iteration 3 .* fp16: train with --tr_amp_dtype bf16"
    with pytest.raises(FloatingPointError, match=message):
        network.fit(toy_loader(ToyDataset(18), BATCH))
    assert network.state.micro_step == 53 and torch.isfinite(weights_of(network)).all()


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_training_with_skipped_steps_goes_on_bit_for_bit(tmp_path, stop):
    overflows = (0, 2, 3, 7)

    class Break(Exception):
        pass

    class BreakAfter(Callback):
        def on_iteration_end(self, network):
            if network.state.iteration == stop:
                raise Break

    def fit(name, extra=(), resume=False):
        network = make(overflows)
        folder = tmp_path / name
        network.callbacks = [
            WeightAverage(network.model, DECAY),
            TrainingMonitor(folder / "metrics.jsonl", every=3),
            CheckpointSaver(folder, every=1),
            *extra,
        ]
        if resume:
            network.load_state_dict(load_checkpoint(folder / "last.pt"))
        network.fit(toy_loader(ToyDataset(18), BATCH))
        return load_checkpoint(folder / "last.pt")

    whole = fit("whole")
    with pytest.raises(Break):
        fit("parts", (BreakAfter(),))
    assert_same_state(whole, fit("parts", resume=True))
    assert (whole["num_skipped"], whole["num_skipped_in_row"]) == (4, 0)


def test_checkpoints_without_a_count_of_skipped_steps_load():
    network = make(())
    state = network.state_dict()
    for name in network.state.LATER_FIELDS:
        del state[name]
    other = make(())
    other.state.num_skipped = 9
    other.load_state_dict(state)
    assert other.state.num_skipped == 0


def test_what_watches_activations_sees_only_the_step_that_was_taken():
    found = []
    for overflows in ((), (0, 1)):
        network = make(overflows)
        watch = ActivationTelemetry(network.model, "0", every=1)
        seen = []

        class Keep(Callback):
            def on_step_end(self, network, seen=seen):
                seen.append(dict(network.gauges))

        network.callbacks = [watch, Keep()]
        network.fit(toy_loader(ToyDataset(4), BATCH))
        found.append(seen[0])
        assert not network.model[0]._forward_hooks
    assert found[0].keys() == found[1].keys()
    # The inputs are other draws, the numbers of values are the same.
    assert watch._statistics.num_values == BATCH * 8
