"""Two processes, started as by torchrun, are one process with the doubled batch."""

import os
import subprocess
import sys
from pathlib import Path

import distributed_toy
import numpy as np
import pytest
import torch
import warm

from common import distributed
from common.datasets.samplers import EpochSampler, PartSampler, batches_per_epoch
from common.distributed import Processes, connected
from common.errors import InputError

TOY = warm.ROOT / "tests" / "helpers" / "distributed_toy.py"


def run_toy(
    folder: Path, what: str, num_processes: int, dropout: float = 0.0
) -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*torchrun, f"--nproc_per_node={num_processes}", TOY, folder, what, str(dropout)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def results(folder: Path, num_processes: int) -> list[dict]:
    paths = [folder / f"result{rank}.pt" for rank in range(num_processes)]
    return [torch.load(path, weights_only=True) for path in paths]


def assert_same(first: dict, second: dict, tolerance: float) -> None:
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=tolerance)


def test_two_processes_are_one_with_the_doubled_batch(tmp_path: Path) -> None:
    # 21 samples in batches of 8 end with a batch of 5, which two processes share as 3 and 2.
    (tmp_path / "1").mkdir()
    distributed_toy.train(tmp_path / "1", "fit", 0.0, Processes())
    (tmp_path / "2").mkdir()
    for done in warm.run_together(2, [TOY, tmp_path / "2", "fit", 0.0]):
        assert done.returncode == 0, done.stderr
    (alone,) = results(tmp_path / "1", 1)
    for together in results(tmp_path / "2", 2):
        assert_same(alone["model"], together["model"], 1e-12)
        assert_same(alone["averages"]["model"], together["averages"]["model"], 1e-12)
        # Each sample of the validation counts once, in its place.
        assert together["gathered"]["index"] == list(range(11))
        assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-12)
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-12)
        torch.testing.assert_close(
            together["predictions"], alone["predictions"], rtol=0, atol=1e-12
        )
    # One writer, and no trace of the wrapper.
    names = [torch.load(tmp_path / n / "last.pt", weights_only=True)["model"] for n in "12"]
    assert list(names[0]) == list(names[1])


@pytest.mark.long
def test_stopped_together_and_resumed_to_the_same_bits(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_toy(whole, "fit", 2, dropout=0.3).returncode == 0
    stopped = run_toy(parts, "stop", 2, dropout=0.3)
    assert stopped.returncode != 0
    assert torch.load(parts / "last.pt", weights_only=True)["iteration"] == 4
    assert run_toy(parts, "resume", 2, dropout=0.3).returncode == 0
    for first, second in zip(results(whole, 2), results(parts, 2), strict=True):
        assert_same(first["model"], second["model"], 0.0)


@pytest.mark.parametrize("what", [pytest.param("fail", marks=pytest.mark.long), "late"])
def test_processes_fail_together_with_the_reason(tmp_path: Path, what: str) -> None:
    first, last = warm.run_together(2, [TOY, tmp_path, what, 0.0])
    assert first.returncode != 0 and last.returncode != 0
    assert "error: the loss is not finite at iteration 5" in last.stderr
    reason = "stopped by the failure of another process: process 1: the loss is not finite"
    assert reason in first.stderr
    weights = torch.load(tmp_path / "last.pt", weights_only=True)
    assert weights["iteration"] == 4
    assert all(torch.isfinite(value).all() for value in weights["model"].values())


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5])
@pytest.mark.parametrize("position", [0, 6])
@pytest.mark.parametrize("num_samples", [*range(18, 35)])
def test_processes_share_every_batch_and_the_order_is_that_of_one(
    num_samples, num_processes, position
):
    samplers = []
    for rank in range(num_processes):
        sampler = EpochSampler(num_samples, seed=4)
        sampler.share(4, rank, num_processes)
        sampler.start(2, position)
        samplers.append(sampler)
    order = list(samplers[0].order(2)[position:])
    taken = [[index for _, index in sampler] for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(part) for part in taken]
    sizes = [list(sampler.batch_sizes()) for sampler in samplers]
    cut = [list(sampler.batches()) for sampler in samplers]
    assert [[index for batch in batches for _, index in batch] for batches in cut] == taken
    for number in range(len(sizes[0])):
        batch = []
        for rank in range(num_processes):
            total, own = sizes[rank][number]
            assert total == sizes[0][number][0]
            part = [index for _, index in cut[rank][number]]
            # Nobody has one sample; who has none of its own repeats two of the batch.
            assert len(part) == own or (own == 0 and part == order[:2])
            assert len(part) > 1
            batch += part[:own]
        assert batch == order[:total]
        order = order[total:]
    assert not order


@pytest.mark.parametrize("num_samples", range(2, 60))
def test_any_number_of_processes_trains_on_the_same_batches(num_samples):
    def sizes(num_processes):
        sampler = EpochSampler(num_samples, seed=4)
        sampler.share(12 // num_processes, 0, num_processes)
        return [total for total, _ in sampler.batch_sizes()]

    whole, left = divmod(num_samples, 12)
    expected = [12] * whole + ([left] if left else [])
    if left == 1 and whole:
        expected[-2:] = [13]
    assert sizes(1) == sizes(2) == sizes(3) == sizes(6) == sizes(12) == expected
    assert batches_per_epoch(num_samples, 12) == len(expected)


def test_batches_of_one_sample_stay_so_where_they_are_asked_for():
    for rank in (0, 1, 2):
        sampler = EpochSampler(8, seed=4)
        sampler.share(1, rank, 3)
        assert [len(batch) for batch in sampler.batches()] == [1, 1, 1]
        assert [own for _, own in sampler.batch_sizes()] == [1, 1, int(rank < 2)]
    assert batches_per_epoch(8, 3) == 3 and batches_per_epoch(8, 1) == 8


@pytest.mark.parametrize("num_samples", [0, 1, 7, 12])
def test_parts_of_an_evaluation_cover_all_once(num_samples):
    parts = [PartSampler(num_samples, rank, 5) for rank in range(5)]
    assert [index for part in parts for index in part] == list(range(num_samples))
    num_batches = [-(-len(part) // 2) + part.num_batches_less(2) for part in parts]
    assert len(set(num_batches)) == 1


def test_alone_everything_is_what_it_was():
    processes = Processes()
    tensor = torch.ones(3)
    processes.average([tensor])
    assert processes.total([1.5, 2.0]) == [1.5, 2.0]
    assert processes.largest(4) == 4
    assert processes.gathered("a") == ["a"]
    assert processes.from_main(lambda: 7) == 7
    assert np.array_equal(tensor, np.ones(3))


def test_tensors_become_their_means_over_the_processes(monkeypatch):
    others = [torch.arange(7.0), torch.full((7,), 4.0)]

    def all_reduce(tensor):
        for other in others:
            tensor += other

    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    own = [torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64), torch.tensor(5.0), torch.ones(2)]
    flat = torch.cat([tensor.flatten().float() for tensor in own])
    expected = sum(others, flat) / 3
    Processes(rank=1, num=3).average(own)
    assert own[0].shape == (2, 2) and own[0].dtype == torch.float64
    torch.testing.assert_close(torch.cat([t.flatten().float() for t in own]), expected)
    Processes(rank=1, num=3).average([])


def test_environment_that_makes_no_sense(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="WORLD_SIZE"):
        Processes.from_environment()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    processes = Processes.from_environment()
    with (
        pytest.raises(InputError, match="torchrun"),
        connected(processes, torch.device("cpu")),
    ):
        pass


def test_one_of_many_leaves_without_taking_the_interpreter_down(project_root: Path) -> None:
    # Taking it down while gloo's threads still hold tensors aborts a process now and then.
    program = """
import atexit, sys
from common.cli import run_script
from common.errors import InputError

class Last:
    def __del__(self):
        print("taken down", flush=True)

last = Last()
atexit.register(print, "tidied up")

def main():
    print("written", end=" ")
    raise InputError("no such flag")

run_script(main)
"""
    ends = {}
    for num in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=project_root,
            env={**os.environ, "WORLD_SIZE": num},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "error: no such flag" in done.stderr
        ends[num] = done.stdout
    assert ends == {"1": "written tidied up\ntaken down\n", "2": "written tidied up\n"}


def test_the_last_lines_of_torchrun_are_the_refusal(project_root: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc_per_node=2", "train.py", "--tr_dropout", "2"],
        cwd=project_root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "--tr_dropout is no flag of train.py" in done.stderr.splitlines()[-2]
    # No traceback of our own.
    assert "common/cli.py" not in done.stderr
