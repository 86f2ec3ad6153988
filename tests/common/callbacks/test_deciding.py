"""Early stopping, the maximum time and the best checkpoints, in real fits."""

import json
import signal

import numpy as np
import pytest
import torch
from toy import ToyDataset, ToyNetwork, make_toy, toy_loader, weights_of

from common.callbacks import Callback, CheckpointSaver, EarlyStopping, MaxTime, TrainingMonitor
from common.checkpoint import load_checkpoint
from common.errors import InputError, Interrupted
from common.networks import FitSettings


class Scripted(Callback):
    """Gives validations the values that a test wants, by iteration."""

    def __init__(self, name, values):
        self.metric, self.values = name, values

    def on_outputs(self, network, outputs, metrics):
        metrics[self.metric] = self.values[network.state.iteration]


def fit(callbacks, num=8, every=1, network=None, full=0, subset=None):
    settings = FitSettings(iteration_num=num, iteration_valid=every, iteration_valid_full=full)
    network = network or make_toy(settings, callbacks=tuple(callbacks))
    data = toy_loader(ToyDataset(8), 4)
    network.fit(data, toy_loader(ToyDataset(8), 8), subset)
    return network


@pytest.mark.parametrize(
    ("metric", "values", "end"),
    [
        ("loss", [9, 8, 8, 8.5, 1], 4),  # two in a row that do not improve on 8
        ("auc.any", [0.5, 0.6, 0.6, 0.55, 0.9], 4),
        ("loss", [5, 4, 4.5, 3, 3.5, 2], 6),  # never two in a row
        ("auc.any", [None, 0.5, None, None, 0.9], 4),  # undefined is no improvement
        ("auc.any", [None, None, 0.9], 2),
    ],
)
def test_early_stopping_waits_for_its_patience(metric, values, end):
    scripted = Scripted(metric, dict(enumerate(values, start=1)))
    network = fit([scripted, EarlyStopping(metric, patience=2)], num=len(values))
    assert network.state.iteration == end


def test_a_small_improvement_does_not_count():
    values = dict(enumerate([1.0, 0.95, 0.93, 0.92], start=1))
    network = fit([Scripted("loss", values), EarlyStopping("loss", 2, min_delta=0.1)], num=4)
    assert network.state.iteration == 3


def test_a_subset_never_decides(tmp_path):
    # On the subset the metric only gets worse; on the whole (4, 8) it gets better.
    values = {i: 100.0 + i for i in range(9)} | {4: 2.0, 8: 1.0}
    saver = CheckpointSaver(tmp_path, every=100, metric="loss", num_best=5)
    callbacks = [Scripted("loss", values), EarlyStopping("loss", 1), saver]
    network = fit(callbacks, full=4, subset=toy_loader(ToyDataset(3), 3))
    assert network.state.iteration == 8
    assert saver.best == [(1.0, 8), (2.0, 4)]


def test_an_ended_training_stays_ended_when_it_is_resumed(tmp_path):
    def callbacks():
        values = dict.fromkeys(range(1, 99), 1.0)
        monitor = TrainingMonitor(tmp_path / "metrics.jsonl", every=5)
        return [Scripted("loss", values), EarlyStopping("loss", 3), monitor]

    saver = CheckpointSaver(tmp_path, every=1)
    network = fit([*callbacks(), saver], num=99)
    assert network.state.iteration == 4
    again = make_toy(network.settings, callbacks=(*callbacks(), CheckpointSaver(tmp_path, 1)))
    again.load_state_dict(load_checkpoint(saver.last_path))
    fit([], network=again)
    assert again.state.iteration == 4
    assert torch.equal(weights_of(again), weights_of(network))
    # The steps since the last line are told, although no line was due; and told once.
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "train_loss" in line] == [4]


def test_maximum_time_saves_and_another_run_goes_on(tmp_path):
    now = iter(range(100))
    saver = CheckpointSaver(tmp_path, every=100)
    limit = MaxTime(3.0, clock=lambda: next(now))
    with pytest.raises(Interrupted) as stopped:
        fit([limit, saver], every=0)
    assert stopped.value.signal_number == signal.SIGTERM  # exit status 143
    state = load_checkpoint(saver.last_path)
    assert state["iteration"] == 3
    settings = FitSettings(iteration_num=8)
    resumed = make_toy(settings, callbacks=(MaxTime(1e9),))
    resumed.load_state_dict(state)
    fit([], network=resumed)
    assert torch.equal(weights_of(resumed), weights_of(fit([], every=0)))


def test_a_training_that_is_done_is_not_stopped():
    now = iter([0, 0, 0, 99])
    network = fit([MaxTime(5.0, clock=lambda: next(now))], num=3, every=0)
    assert network.state.iteration == 3


@pytest.mark.parametrize(("metric", "best"), [("auc.any", [0.9, 0.8]), ("ece.any", [0.1, 0.2])])
def test_the_best_checkpoints_follow_the_direction(tmp_path, metric, best):
    values = dict(enumerate([0.5, 0.9, 0.1, None, 0.8, 0.2], start=1))
    saver = CheckpointSaver(tmp_path, every=100, metric=metric, num_best=2)
    fit([Scripted(metric, values), saver], num=6)
    assert [value for value, _ in saver.best] == best
    expected = {value: iteration for iteration, value in values.items()}
    kept = sorted(path.name for path in tmp_path.glob("iteration_*.pt"))
    assert kept == sorted(f"iteration_{expected[value]:07d}.pt" for value in best)
    assert load_checkpoint(saver.best_path)["iteration"] == expected[best[0]]


def test_a_metric_without_a_direction_is_refused(tmp_path):
    with pytest.raises(InputError, match="sharpness"):
        CheckpointSaver(tmp_path, every=1, metric="sharpness")
    with pytest.raises(InputError, match="sharpness"):
        EarlyStopping("sharpness", 1)


def test_subsets_come_between_wholes_and_the_last_is_whole(tmp_path):
    class Counting(ToyNetwork):
        def compute_metrics(self, outputs):
            return {"num": float(len(outputs["index"]))}

    monitor = TrainingMonitor(tmp_path / "metrics.jsonl", every=100)
    settings = FitSettings(iteration_num=11, iteration_valid=2, iteration_valid_full=4)
    toy = make_toy(settings)
    network = Counting(toy.model, settings, toy.optimizer, callbacks=(monitor,))
    train, whole, subset = (toy_loader(ToyDataset(n), 4) for n in (8, 10, 3))
    network.fit(train, whole, subset)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = {
        prefix: [(x["iteration"], x[f"{prefix}_num"]) for x in lines if f"{prefix}_num" in x]
        for prefix in ("valid", "valid_subset")
    }
    assert seen["valid_subset"] == [(2, 3), (6, 3), (10, 3)]
    assert seen["valid"] == [(4, 10), (8, 10), (11, 10)]
    assert np.all([not ("valid_num" in x and "valid_subset_num" in x) for x in lines])


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_resume_with_subsets_and_early_stopping_is_the_same(tmp_path, stop):
    def run(folder, num):
        saver = CheckpointSaver(folder, every=1)
        monitor = TrainingMonitor(folder / "metrics.jsonl", every=3)
        settings = FitSettings(iteration_num=9, iteration_valid=2, iteration_valid_full=4)
        callbacks = (EarlyStopping("loss", 5), monitor, *_breaking(num), saver)
        network = make_toy(settings, callbacks=callbacks)
        if saver.last_path.exists():
            network.load_state_dict(load_checkpoint(saver.last_path))
        train, whole, subset = (toy_loader(ToyDataset(n), 4) for n in (8, 10, 3))
        try:
            network.fit(train, whole, subset)
        except Interrupted:
            run(folder, None)
        return load_checkpoint(saver.last_path), (folder / "metrics.jsonl").read_text()

    states, records = zip(run(tmp_path / "one", None), run(tmp_path / "two", stop), strict=True)
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name])
    early = [state["callbacks"]["EarlyStopping"] for state in states]
    assert early[0] == early[1]
    scores = [
        [{k: v for k, v in json.loads(x).items() if "valid" in k} for x in text.splitlines()]
        for text in records
    ]
    assert scores[0] == scores[1]


def _breaking(iteration):
    class Breaking(Callback):
        def on_iteration_end(self, network):
            if network.state.iteration == iteration:
                network.ask_to_stop()

    return (Breaking(),) if iteration else ()
