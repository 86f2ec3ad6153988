"""The benchmark of a study network's epoch at toy size; its claims are those of the full size."""

import json
import sys

import pytest

from benchmarks import study_epoch
from common.datasets import samplers


@pytest.mark.long
def test_batches_by_length_hold_less_padding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--studies", "320", "--dim", "8", "--batch_size", "16"]
    monkeypatch.setattr(samplers, "_POOL", 256)
    monkeypatch.setattr(study_epoch, "RESIDENT_STEPS", 4)
    monkeypatch.setattr(study_epoch, "COPIED_BYTES", 1 << 20)
    monkeypatch.setattr(sys, "argv", ["study_epoch.py", *flags])
    study_epoch.main()
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures["padded_share"] < figures["padded_share_random"] / 4
    assert figures["share_of_bound"] > 0 and figures["peak_memory_mb"] > 50
    assert 10_000 < figures["num_slices"] < 11_500
    ways = ("random order", "by length", "loading alone", "resident", "bandwidth")
    assert all(way in "\n".join(table) for way in ways)
