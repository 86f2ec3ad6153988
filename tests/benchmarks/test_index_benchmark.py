"""The benchmark of the index runs at toy size and ends with its JSON."""

import json
import sys

import numpy as np
import pytest

from benchmarks import index
from rsna_task import LABELS, SUBTYPES


def test_figures_of_a_toy_index(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(index, "run_step", index.measure)
    monkeypatch.setattr(sys, "argv", ["index.py", "--rows", "3000", "--repeats", "1"])
    index.main()
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures["rows"] == 3000
    for name in index.LIMITS:
        assert any(line.startswith(f"{name} ") and "(at most" in line for line in table), name
    seconds = [value for name, value in figures.items() if name.endswith("_s")]
    assert len(seconds) == 12 and min(seconds) >= 0
    assert isinstance(figures["limits_missed"], list)


def test_the_made_up_rows_are_like_those_of_the_challenge() -> None:
    frame = index.made_up_slices(60_000)
    assert len(frame) == 60_000 and frame["image_id"].is_unique
    assert (frame.groupby("series_id")["patient_id"].nunique() == 1).all()
    assert frame.groupby("series_id").size().mean() == pytest.approx(34.6, abs=1)
    expected = dict(zip(SUBTYPES, (0.0042, 0.048, 0.035, 0.047, 0.063)))
    for name, share in expected.items():
        assert frame[name].mean() == pytest.approx(share, rel=0.6), name
    assert (frame["any"] == frame[list(SUBTYPES)].max(axis=1)).all()
    assert set(LABELS) <= set(frame.columns) and np.isfinite(frame["hu_mean"]).all()
