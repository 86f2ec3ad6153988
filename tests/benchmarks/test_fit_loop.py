"""The fit loop takes the steps of a bare loop; its cost is measured by the script alone."""

import json
import sys

import pytest

from benchmarks import fit_loop


def test_same_weights_and_readable_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--repeats", "1", "--steps", "5", "--batch_size", "4", "--size", "16"]
    monkeypatch.setattr(sys, "argv", ["fit_loop.py", *sizes])
    fit_loop.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["max_weight_difference"] == 0.0
    assert figures["overhead_ratio"] > -1
    # Importing a client of a store takes time; the steps do not hold it.
    assert figures["start_cpu_s"] > 0.1
    assert figures["start_wall_s"] > 0.1
    assert figures["peak_memory_mb"] > 50
