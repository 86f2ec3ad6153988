"""Data loaders and the end of the process."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

ZEROS = """
import contextlib, gc, multiprocessing, sys, time
import torch
from common.datasets.base import AbstractDataset
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
class Zeros(AbstractDataset):
    def __len__(self):
        return 8
    def make_sample(self, index, seed):
        return {"image": torch.zeros(2)}
sampler = EpochSampler(8, seed=0)
sampler.start(0)
loader = make_loader(Zeros(), 2, 2, sampler)
batches = iter(loader)
next(batches)
"""
LIVES_ON = """
sys.held = loader, batches
raise ValueError("the loader lives on")
"""
CLOSED = """
held = [batches]
held.append(held)  # only a collection of garbage frees it
start = time.perf_counter()
loader.close()
print(len(multiprocessing.active_children()))
del batches, held, loader
gc.collect()
print(time.perf_counter() - start < 5)
"""


def test_the_process_ends_though_a_loader_lives_on() -> None:
    """Workers ignore the signal by which multiprocessing would end them."""
    command = [sys.executable, "-c", ZEROS + LIVES_ON]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the loader lives on" in done.stderr


def test_a_closed_loader_has_no_workers_whoever_holds_it() -> None:
    command = [sys.executable, "-c", ZEROS + CLOSED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "True"], done.stderr
