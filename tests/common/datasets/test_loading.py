"""Data loaders and the end of the process."""

import subprocess
import sys
from pathlib import Path

from toy import ToyDataset, toy_loader

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import sys
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
sys.held = loader, batches
raise ValueError("the loader lives on")
"""


def test_the_process_ends_though_a_loader_lives_on() -> None:
    """Workers ignore the signal by which multiprocessing would end them."""
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the loader lives on" in done.stderr


def test_a_closed_loader_has_no_workers_whoever_holds_it() -> None:
    loader = toy_loader(ToyDataset(12), 2, num_workers=2)
    batches = iter(loader)
    next(batches)
    workers = batches._workers
    assert len(workers) == 2 and all(worker.is_alive() for worker in workers)
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert len(list(loader)) == 6, "it begins again with others"
    loader.close()
