"""Nested stacking beside ordinary stacking: the stages, and the whole at toy size."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_dataset import make_tiny_dataset

from benchmarks import nested_stacking


def test_nested_blends_wait_for_members_without_each_fold(tmp_path: Path) -> None:
    arguments = argparse.Namespace(
        work=tmp_path, num_folds=3, net_model="a", net_pretrained=0, img_size=32, iterations=2
    )
    stages = {stage.experiment_id: stage for stage in nested_stacking.plan(arguments)}
    inner = {name for name in stages if "-without-" in name}
    assert inner == {f"{name}_0-without-{fold}" for name in ("one", "three") for fold in range(3)}
    for name in inner:
        member, fold = name.split("-without-")
        flags = stages[name].flags
        assert flags[: len(stages[member].flags)] == stages[member].flags
        assert flags[len(stages[member].flags) :][:2] == ("--data_leave_out_fold", fold)
    for method in ("stacking", "weights"):
        plain, nested = stages[f"{method}_0"], stages[f"{method}_nested_0"]
        assert set(nested.needs) == inner | set(plain.needs) == inner | {"one_0", "three_0"}
        assert nested.flags == (*plain.flags, "--stack_nested", "1")


@pytest.mark.long
def test_the_whole_at_toy_size(project_root: Path, tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path / "input" / "datasets" / "demo", num_patients=9, num_folds=3)
    toy = ("--iterations", 2, "--img_size", 32, "--net_model", "test_resnet", "--net_pretrained", 0)
    script = project_root / "benchmarks" / "nested_stacking.py"
    command = [sys.executable, script, "--work", tmp_path, *toy]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    found = json.loads(last)
    assert set(found["levels"]) == {*nested_stacking.LEVELS, "prior"}
    assert set(found["steps"]) == {f"{a} - {b}" for a, b in nested_stacking.STEPS}
    assert found["num_trainings"] == 18
    assert any(line.startswith("| stacking, nested |") for line in lines)
