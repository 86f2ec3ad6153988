"""Steps are looked at late where a device computes them; the CPU takes the part of the device."""

import json
import math
from itertools import count

import pytest
import torch
from host_reads import host_reads
from toy import ToyDataset, ToyNetwork, make_toy, toy_loader, weights_of

from common.callbacks import Callback, CheckpointSaver, TrainingMonitor, WeightAverage
from common.checkpoint import load_checkpoint
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.models import masked
from common.networks import FitSettings, StepOutput
from common.networks.lr_range_test import find_learning_rate
from common.networks.network import STEPS_AHEAD
from tests.common.networks.test_sequence_network import make_network, random_dataset

NUM_STEPS = 9


class Nameless(ToyNetwork):
    """Its samples are not named: names are read of the batch of the host."""

    def batch_ids(self, batch):
        return []


class Failing(ToyNetwork):
    """The loss or the gradient of some batches, by their number, is not finite."""

    bad: tuple[int, ...] = ()
    what = "loss"

    def training_step(self, batch):
        step = super().training_step(batch)
        if self.state.micro_step not in self.bad:
            return step
        wrong = step.loss_sum * torch.nan
        if self.what == "gradient":
            wrong = (step.loss_sum - step.loss_sum.detach()).sqrt()  # 0, of infinite slope
        return StepOutput(step.loss_sum + wrong, step.num_terms, step.outputs)


def late(kind, callbacks=(), **settings):
    toy = make_toy(FitSettings(**{"iteration_num": NUM_STEPS, **settings}))
    network = kind(toy.model, toy.settings, toy.optimizer, callbacks=callbacks)
    network.steps_ahead = STEPS_AHEAD
    return network


def reads_of(network, loader, monkeypatch, on_host=()):
    """Return what each iteration has read, apart from its batches and what `on_host` may read.

    Args:
        on_host: (owner, name) of functions that read tensors of the host.
    """
    found, train_iteration = [], network._train_iteration

    def iterate(batches):
        with host_reads(monkeypatch) as reads, monkeypatch.context() as patch:

            def unseen(function):
                def call(*arguments, **options):
                    num_before = len(reads)
                    result = function(*arguments, **options)
                    del reads[num_before:]
                    return result

                return call

            for owner, name in on_host:
                patch.setattr(owner, name, unseen(getattr(owner, name)))
            done = train_iteration(map(unseen(lambda _: next(batches)), count()))
        found.append(reads)
        return done

    network._train_iteration = iterate
    network.fit(loader)
    return found


@pytest.mark.parametrize("accumulation_step", [1, 3])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_reads_only_the_verdict_of_an_older_one(monkeypatch, clip_norm, accumulation_step):
    network = late(Nameless, clip_norm=clip_norm, accumulation_step=accumulation_step)
    network.callbacks = [WeightAverage(network.model, 0.9)]
    reads = reads_of(network, toy_loader(ToyDataset(36), 4), monkeypatch)
    assert reads == [[], [], *[["tolist"]] * (NUM_STEPS - 2)]
    assert not network._unread._steps  # the last ones were read before the end


def test_reads_are_noticed(monkeypatch):
    class Reading(Nameless):
        def training_step(self, batch):
            step = super().training_step(batch)
            float(step.loss_sum)
            return step

    reads = reads_of(late(Reading), toy_loader(ToyDataset(36), 4), monkeypatch)
    assert all("aten._local_scalar_dense.default" in of_step for of_step in reads)
    at_once = late(Nameless)
    at_once.steps_ahead = 0
    reads = reads_of(at_once, toy_loader(ToyDataset(36), 4), monkeypatch)
    assert all(len(of_step) > 1 for of_step in reads)


@pytest.mark.parametrize("name", ["study-bigru", "study-transformer"])
def test_study_networks_read_nothing_but_lengths_on_the_host(monkeypatch, tmp_path, name):
    dataset = random_dataset(tmp_path, [9, 3, 14, 6])
    network = make_network(name, FitSettings(iteration_num=5))
    network.steps_ahead = STEPS_AHEAD
    network.optimizer = torch.optim.SGD(network.model.parameters(), 0.1)
    to_device, seen = network.to_device, []
    network.to_device = lambda batch: seen.append((batch, to_device(batch))) or seen[-1][1]
    loader = make_loader(dataset, 4, 0, EpochSampler(4, 1))
    on_host = [(network, "to_device"), (masked.BidirectionalRNN, "forward")]
    reads = reads_of(network, loader, monkeypatch, on_host)
    assert reads == [[], [], *[["tolist"]] * 3]
    # Packing reads lengths, and a batch its index before it is moved: both on the host.
    assert all(moved["lengths"] is batch["lengths"] for batch, moved in seen)


def test_late_or_at_once_the_record_and_the_weights_are_the_same(tmp_path):
    found = []
    for steps_ahead in (0, STEPS_AHEAD):
        path = tmp_path / f"{steps_ahead}.jsonl"
        settings = {"iteration_valid": 4, "clip_norm": 0.5, "accumulation_step": 2}
        network = late(ToyNetwork, [TrainingMonitor(path, every=3)], **settings)
        network.steps_ahead = steps_ahead
        network.fit(toy_loader(ToyDataset(22), 4), toy_loader(ToyDataset(8), 4))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        times = ("time", "memory_mb", "train_samples_per_second", "train_data_wait_share")
        found.append([{k: v for k, v in line.items() if k not in times} for line in lines])
        found[-1].append(weights_of(network).tolist())
    assert found[0] == found[1]


class Saved(Callback):
    """Whether a checkpoint of weights that are not finite was ever asked for and given."""

    def __init__(self):
        self.validations = []

    def on_validation_begin(self, network):
        self.validations.append(bool(torch.isfinite(weights_of(network)).all()))


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("accumulation_step", [1, 2])
@pytest.mark.parametrize("place", range(1, NUM_STEPS + 1))
@pytest.mark.parametrize("ends", ["checkpoint", "validation", "end", "stop"])
def test_a_bad_step_is_named_before_anything_is_kept(
    tmp_path, what, accumulation_step, place, ends
):
    """Wherever it is: also where a checkpoint, a validation or the end is the next thing."""

    class Stop(Callback):
        def on_iteration_end(self, network):
            if ends == "stop" and network.state.iteration == place:
                network.ask_to_stop()

    saver, saved = CheckpointSaver(tmp_path, every=place if ends == "checkpoint" else 99), Saved()
    valid = place if ends == "validation" else 0
    steps = place if ends == "end" else NUM_STEPS + 3
    network = late(
        Failing,
        [Stop(), saved, saver],
        iteration_num=steps,
        iteration_valid=valid,
        accumulation_step=accumulation_step,
    )
    # The last batch of the step, in its middle of an epoch or at its end.
    network.what, network.bad = what, (accumulation_step * place - 1,)
    dataset = ToyDataset(16)
    loader = toy_loader(dataset, 4)
    batches, seen = [], type(network).batch_ids

    def noted(batch):
        batches.append(seen(network, batch))
        return batches[-1]

    network.batch_ids = noted
    match = rf"the {what} is not finite at iteration {place}\b, in a batch of sample"
    with pytest.raises(FloatingPointError, match=match) as error:
        network.fit(loader, toy_loader(dataset, 4))
    of_step = batches[accumulation_step * (place - 1) : accumulation_step * place]
    bad = of_step[-1] if what == "loss" else [name for names in of_step for name in names]
    assert f"in a batch of {', '.join(bad)}:" in str(error.value)
    assert all(saved.validations) and network.state.iteration <= place + STEPS_AHEAD
    for path in tmp_path.glob("*.pt"):
        assert load_checkpoint(path)["iteration"] < place


def test_later_steps_hide_nothing():
    """A bad step whose weights are put right at once, as nothing but its verdict would tell."""

    class Healing(Callback):
        def on_step_begin(self, network):
            kept.append({k: v.clone() for k, v in network.model.state_dict().items()})

        def on_step_end(self, network):
            if network.state.iteration == 4:
                network.model.load_state_dict(kept[-1])
                network.optimizer.state.clear()

    kept = []
    network = late(Failing, [Healing()])
    network.bad = (3,)
    with pytest.raises(FloatingPointError, match=r"loss is not finite at iteration 4\b"):
        network.fit(toy_loader(ToyDataset(36), 4))
    assert torch.isfinite(weights_of(network)).all()


def test_a_state_that_is_loaded_replaces_unread_steps():
    network = late(Failing)
    state = network.state_dict()
    network._unread.add(1, [["sample0"]], torch.tensor([False, False, False]))
    network.load_state_dict(state)
    network.fit(toy_loader(ToyDataset(36), 4))
    assert network.state.iteration == NUM_STEPS


def test_the_speed_of_a_line_is_over_the_time_of_its_steps(tmp_path):
    """Where a device is waited for in some steps, the mean of their speeds would tell nothing."""
    monitor = TrainingMonitor(tmp_path / "m.jsonl", every=2)

    class Clock(Callback):
        def on_step_end(self, network):
            seconds = 1000.0 if network.state.iteration == 1 else 3000.0
            network.step_seconds = seconds
            network.step_values |= {"samples_per_second": 6e3 / seconds, "data_wait_share": 0.0}

    late(ToyNetwork, [Clock(), monitor], iteration_num=2).fit(toy_loader(ToyDataset(36), 4))
    (line,) = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert math.isclose(line["train_samples_per_second"], 12e3 / 4000, rel_tol=1e-3)


def test_the_range_test_reads_each_step():
    network = late(Nameless)
    found = find_learning_rate(network, toy_loader(ToyDataset(60), 4), 1e-4, 1e4, 30)
    assert all(map(math.isfinite, found.losses)) and network.steps_ahead == STEPS_AHEAD
