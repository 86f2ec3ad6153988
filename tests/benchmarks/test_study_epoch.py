"""The benchmark of a study network's epoch at toy size; its claims are those of the full size."""

import json
import sys

import pytest

from benchmarks import study_epoch


def test_batches_by_length_hold_less_padding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--studies", "1100", "--dim", "8", "--batch_size", "64"]
    monkeypatch.setattr(sys, "argv", ["study_epoch.py", *flags])
    study_epoch.main()
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures["padded_share"] < figures["padded_share_random"] / 4
    assert figures["share_of_bound"] > 0 and figures["peak_memory_mb"] > 50
    assert 34_000 < figures["num_slices"] < 40_000
    ways = ("random order", "by length", "loading alone", "resident", "bandwidth")
    assert all(way in "\n".join(table) for way in ways)
