"""The evaluation of made-up rows runs to its end, with groups, calls and a triage."""

import json
import sys

import pytest

from benchmarks import evaluation


@pytest.mark.long
def test_few_rows_are_evaluated(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluation.py", "--rows", "4000"])
    evaluation.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["num_slices"] == 4000 and 90 < figures["num_studies"] < 140
    assert figures["cpu_s"] > 0 and figures["peak_mb"] > 100
