"""The comparison of encoders: commands that share features, and the whole at toy size."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_dataset import make_tiny_dataset

from benchmarks import encoders
from benchmarks.levels.level_runs import Plan


def test_an_encoder_becomes_flags_and_its_heads_wait_for_each_other(tmp_path: Path) -> None:
    arguments = argparse.Namespace(size=64, iterations=3)
    names = ["resnet18", "random:resnet18", "vit_a=some/w.pt"]
    made = encoders.stages(names, Plan(tmp_path, "demo"), arguments)
    assert len({stage.experiment_id for stage in made}) == 3 * len(encoders.HEADS)
    by_encoder = [made[place : place + 2] for place in (0, 2, 4)]
    for (first, second), pretrained in zip(by_encoder, "101", strict=True):
        assert not first.needs and second.needs == (first.experiment_id,)
        for stage in (first, second):
            flags = dict(zip(stage.flags[::2], stage.flags[1::2], strict=True))
            assert flags["--net_pretrained"] == pretrained
    assert "--net_weight_file" not in made[0].flags
    assert str(Path("some/w.pt").resolve()) in made[4].flags


@pytest.mark.long
def test_the_whole_at_toy_size(project_root: Path, tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path / "input" / "datasets" / "demo", num_patients=12)
    own = ("random:test_resnet", "random:test_vit", "--work", tmp_path, "--iterations", 3)
    command = [sys.executable, project_root / "benchmarks" / "encoders.py", *own, "--size", 32]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    for head in encoders.HEADS:
        first, second = found[head].values()
        assert first["more_than_first"]["difference"] == 0
        difference = second["weighted_log_loss"] - first["weighted_log_loss"]
        assert second["more_than_first"]["difference"] == pytest.approx(difference, abs=1e-9)
        assert 0 < first["to_prior"] < 9 and 0 <= first["auc_any"] <= 1
    assert result.stdout.count("| `random:test_vit` |") == len(encoders.HEADS)
