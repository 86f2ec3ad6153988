"""The example of docs/how_to/new_task.md: short, it learns, and it goes on bit for bit."""

import json
from pathlib import Path

import torch

from common.checkpoint import load_checkpoint
from docs import new_task_example


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_it_is_short(project_root):
    assert len((project_root / "docs" / "new_task_example.py").read_text().splitlines()) < 80


def test_it_learns_and_goes_on_bit_for_bit(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    new_task_example.main(str(whole), 70)
    accuracy = [line["valid_accuracy"] for line in records(whole) if "valid_accuracy" in line]
    assert len(accuracy) == 2
    assert accuracy[-1] > 0.7
    new_task_example.main(str(part), 43)
    torch.rand(3)
    new_task_example.main(str(part), 70)
    states = [load_checkpoint(folder / "last.pt") for folder in (whole, part)]
    assert [state["iteration"] for state in states] == [70, 70]
    for kind in (lambda state: state["model"], lambda s: s["averages"]["WeightAverage"]["model"]):
        one, other = map(kind, states)
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_page_names_it(project_root):
    page = (project_root / "docs" / "how_to" / "new_task.md").read_text()
    assert "python -m docs.new_task_example" in page
