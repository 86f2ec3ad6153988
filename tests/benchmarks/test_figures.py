"""A benchmark ends with its figures and its peak memory as one line of JSON."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.figures import print_figures


def test_memory_of_the_process_and_of_its_largest_child_stands_beside_the_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = np.ones(40 * 2**17)  # 40 MiB
    command = [sys.executable, "-c", "b'1' * (300 * 2**20)"]
    subprocess.run(command, check=True)
    print_figures({"ratio": 1.5})
    found = json.loads(capsys.readouterr().out)
    assert found.pop("ratio") == 1.5
    assert set(found) == {"peak_memory_mb", "peak_child_memory_mb"}
    assert found["peak_memory_mb"] > held.nbytes / 2**20
    assert found["peak_child_memory_mb"] > 300


def test_memory_that_a_benchmark_measured_itself_is_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_figures({"peak_memory_mb": 7})
    assert json.loads(capsys.readouterr().out)["peak_memory_mb"] == 7
