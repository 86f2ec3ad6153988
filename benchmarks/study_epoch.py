"""Measure an epoch of a study network at the size of RSNA 2019, with batches by length or not.

22,000 made-up studies of 20 to 60 slices (most of about 32), 750,000 slices in all, with 2,048
stored features each, are trained on as `train.py --net_model study-bigru` does: read from the
compressed file, standardised, thinned and reversed as by default, padded, one epoch in random order
and one with `LengthSampler`. Beside it:

* resident: the same step over batches in memory, all of one length: what arithmetic allows.
* loading: the batches alone, without a network.
* bandwidth: the features in float16 copied once from memory to memory.

All is done by one process, and times are processor time: other work on the machine hardly changes
them. Prints a table, then one line of JSON: padded_share_random and padded_share, ratio (seconds of
the epoch in random order over those by length), share_of_bound (of the resident way, or of
bandwidth where that is slower), and peak_memory_mb of the two epochs.

    python benchmarks/study_epoch.py [--studies 22000] [--dim 2048]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# First: it says how torch's threads wait.
import common  # noqa: F401, I001

import numpy as np
import pandas as pd
import torch

from benchmarks.figures import print_figures
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler, LengthSampler, batches_per_epoch
from common.datasets.sequence import SequenceDataset
from common.datasets.series import SeriesAugmentation
from common.features.slice_outputs import outputs_of_encoder
from common.features.store import FeatureTable, writing_features
from common.memory import peak_memory_mb
from common.models import build_sequence_model
from common.networks import FitSettings, SequenceClassifierNetwork
from common.precision import keep_freed_memory
from common.slices.table import SLICE_COLUMNS, SliceTable
from rsna_task import LABEL_WEIGHTS, LABELS

BLOCK_ROWS = 8192
RESIDENT_STEPS = 40
COPIED_BYTES = 1 << 28


def make_table(num_studies: int, folder: Path) -> SliceTable:
    """Studies of one series each, without pixels."""
    rng = np.random.default_rng(0)
    usual = np.where(rng.random(num_studies) < 0.75, 32, 38) + rng.normal(0, 3, num_studies)
    odd = rng.integers(20, 61, num_studies)
    lengths = np.where(rng.random(num_studies) < 0.1, odd, usual).astype(int).clip(20, 60)
    series = np.repeat(np.arange(num_studies), lengths)
    rank = np.arange(len(series)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    frame = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in SLICE_COLUMNS.items()})
    frame = frame.reindex(range(len(series))).assign(
        image_id=pd.Series(np.arange(len(series))).astype(str),
        store_file=pd.Series(series).map("{:05d}.b2nd".format),
        store_index=rank,
        rank=rank,
        position_mm=5.0 * rank,
        status="ok",
        **{name: (rng.random(len(series)) < 0.1).astype(np.float32) for name in LABELS},
    )
    return SliceTable(frame, folder)


def make_dataset(table: SliceTable, dim: int, folder: Path) -> SequenceDataset:
    """Write features as an encoder's, and open them as a training does."""
    rng, ids = np.random.default_rng(1), table.frame["image_id"].to_numpy(dtype=object)
    rows = np.arange(len(table))
    block = rng.standard_normal((BLOCK_ROWS, dim), dtype=np.float32)
    with writing_features(folder, "oof", {}) as writer:
        for start in range(0, len(rows), BLOCK_ROWS):
            names = ids[start : start + BLOCK_ROWS]
            writer.append(names, np.roll(block, start // BLOCK_ROWS, axis=1)[: len(names)], 0)
    features = FeatureTable.load(folder, "oof")
    outputs = outputs_of_encoder(features, table, rows, rows, 0, len(LABELS))
    return SequenceDataset(table, rows, [outputs], LABELS, SeriesAugmentation(0.25, 0.5))


def make_network(dim: int, num_steps: int) -> SequenceClassifierNetwork:
    """The default recurrent network, the same weights each time."""
    torch.manual_seed(0)
    specification = {"name": "study-bigru", "num_labels": len(LABELS), "feature_dims": [dim]}
    model = build_sequence_model(specification)
    settings = FitSettings(iteration_num=num_steps, clip_norm=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    return SequenceClassifierNetwork(model, settings, LABEL_WEIGHTS, optimizer=optimizer)


class InMemory:
    """A loader that repeats batches which it holds."""

    def __init__(self, batches: list[Any], batch_size: int) -> None:
        self.batches, self.batch_size = batches, batch_size
        self.sampler = EpochSampler(batch_size * RESIDENT_STEPS, seed=0)

    def __iter__(self) -> Iterator[Any]:
        return islice(cycle(self.batches), RESIDENT_STEPS)


def resident_seconds_per_slice(dataset: SequenceDataset, dim: int, batch_size: int) -> float:
    """Return the time of a step over whole series of one length, per slice."""
    lengths = dataset.num_steps(0)
    usual = np.flatnonzero(lengths == np.bincount(lengths).argmax())
    parts = np.split(usual[: batch_size * (len(usual) // batch_size)][: 4 * batch_size], 4)
    loader = InMemory(
        [dataset.collate([dataset[(0, int(i))] for i in p]) for p in parts], batch_size
    )
    num_slices = RESIDENT_STEPS * batch_size * int(lengths[usual[0]])
    run: Callable[[], Any] = lambda: make_network(dim, RESIDENT_STEPS).fit(loader)  # type: ignore[arg-type]  # noqa: E731
    run()
    return seconds_of(run) / num_slices


def copy_bytes_per_second() -> float:
    """Return how fast memory is copied, by bytes read."""
    values = np.ones(COPIED_BYTES, np.uint8)
    target = values.copy()
    return len(values) / min(seconds_of(lambda: np.copyto(target, values)) for _ in range(3))


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the processor time of this process."""
    started = time.process_time()
    run()
    return time.process_time() - started


def padded_share(sampler: EpochSampler, lengths: np.ndarray) -> float:
    """Return the share of steps of an epoch's batches that stand for no slice."""
    sampler.start(0)
    batches = [lengths[[index for _, index in batch]] for batch in sampler.batches()]
    return 1 - sum(b.sum() for b in batches) / sum(len(b) * b.max() for b in batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=22_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=16)
    arguments = parser.parse_args()
    keep_freed_memory()
    size, dim = arguments.batch_size, arguments.dim
    with tempfile.TemporaryDirectory() as name:
        dataset = make_dataset(make_table(arguments.studies, Path(name)), dim, Path(name))
        lengths = dataset.num_steps(0)
        samplers = {
            "random order": EpochSampler(len(dataset), seed=0),
            "by length": LengthSampler(len(dataset), 0, dataset.num_steps),
        }
        seconds, shares = {}, {}
        for way, sampler in samplers.items():
            loader = make_loader(dataset, size, 0, sampler)
            shares[way] = padded_share(sampler, lengths)
            network = make_network(dim, batches_per_epoch(len(dataset), size))
            seconds[way] = seconds_of(lambda: network.fit(loader))  # noqa: B023
        peak = peak_memory_mb()
        sampler.start(0)
        seconds["loading alone"] = seconds_of(lambda: [None for _ in loader])
        seconds["resident"] = resident_seconds_per_slice(dataset, dim, size) * lengths.sum()
        seconds["bandwidth"] = float(2 * dim * lengths.sum()) / copy_bytes_per_second()
    print(f"{len(dataset)} studies, {len(dataset.rows)} slices, {lengths.sum()} after thinning")
    print(f"{'way':<16}{'seconds':>10}{'slices/s':>12}{'padded':>9}")
    for way, taken in seconds.items():
        padded = f"{shares[way]:.1%}" if way in shares else ""
        print(f"{way:<16}{taken:>10.2f}{lengths.sum() / taken:>12.0f}{padded:>9}")
    bound = max(seconds["resident"], seconds["bandwidth"])
    figures = {
        "num_slices": len(dataset.rows),
        "padded_share_random": shares["random order"],
        "padded_share": shares["by length"],
        "ratio": seconds["random order"] / seconds["by length"],
        "share_of_bound": bound / seconds["by length"],
        "epoch_s": seconds["by length"],
        "peak_memory_mb": peak,
    }
    print_figures(figures)


if __name__ == "__main__":
    main()
