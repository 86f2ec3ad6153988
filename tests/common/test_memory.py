"""The peak memory of a run grows with its batches, not with its data."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import warm

from common.memory import peak_memory_mb


def test_the_peak_is_that_of_the_process_and_stays():
    before = peak_memory_mb()
    held = np.ones(1 << 27, np.uint8)
    after = peak_memory_mb(torch.device("cpu"))
    del held
    assert before > 20 and after - before < 140
    assert peak_memory_mb() == after


def test_of_a_gpu_it_is_what_torch_has_allocated(monkeypatch):
    gpu = SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 20)
    assert peak_memory_mb(gpu) == 3.0


PROGRAM = """
import json, sys, tempfile
from pathlib import Path
from benchmarks import study_epoch as bench
from common.datasets.loading import make_loader
from common.datasets.samplers import LengthSampler
from common.features import slice_outputs
from common.memory import peak_memory_mb
slice_outputs._MOST_BYTES = 0  # as of features that are larger than what is kept in memory
with tempfile.TemporaryDirectory() as name:
    dataset = bench.make_dataset(bench.make_table(int(sys.argv[1]), Path(name)), 2048, Path(name))
    sampler = LengthSampler(len(dataset), 0, dataset.num_steps)
    loader, network = make_loader(dataset, 8, 0, sampler), bench.make_network(2048, 3)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    first = peak_memory_mb()
    network.fit(loader)
    for batch in loader:
        pass
    network.predict(make_loader(dataset, 8, 0))
    print(json.dumps([first, peak_memory_mb(), len(dataset.rows) * 2048 * 4 / 2**20]))
"""


@pytest.mark.long
def test_a_training_and_a_prediction_hold_batches_not_data() -> None:
    """A study network reads 330 MB of features, in float32; less than a third of them is held."""
    done = warm.run(["-c", PROGRAM, 1200])
    assert done.returncode == 0, done.stderr
    first, last, features = json.loads(done.stdout)
    assert features > 300 and last - first < features / 3
