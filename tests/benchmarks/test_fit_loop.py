"""The fit loop takes the steps of a bare loop; its cost is measured by the script alone."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import fit_loop


def but_the_first(run_fit: Callable[..., Any]) -> Callable[..., Any]:
    """Leave out the run that makes the store ready: its time is a figure and nothing else."""
    left_out = iter([(fit_loop.Cost(1.0, 1.0), fit_loop.Cost(1.0, 1.0), None)])

    def run(*arguments: Any) -> Any:
        return next(left_out, None) or run_fit(*arguments)

    return run


@pytest.mark.long
def test_same_weights_and_readable_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--repeats", "1", "--steps", "5", "--batch_size", "4", "--size", "16"]
    monkeypatch.setattr(sys, "argv", ["fit_loop.py", *sizes])
    monkeypatch.setattr(fit_loop, "run_fit", but_the_first(fit_loop.run_fit))
    fit_loop.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["max_weight_difference"] == 0.0
    assert figures["overhead_ratio"] > -1
    # Importing a client of a store takes time; the steps do not hold it.
    assert figures["start_cpu_s"] > 0.1
    assert figures["start_wall_s"] > 0.1
    assert figures["peak_memory_mb"] > 50
