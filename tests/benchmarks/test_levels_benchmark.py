"""Stages run in order, once, and go on; the benchmark of levels runs at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_dataset import make_tiny_dataset

from benchmarks.levels import level_runs, run
from benchmarks.levels.level_runs import Plan, Stage, run_stages
from common.errors import InputError
from common.slices.table import SliceTable

# Stands for train.py: notes its flags and leaves what a training leaves.
SCRIPT = """
import sys
from pathlib import Path
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = Path(flags["--output_dir"]) / "results" / flags["--experiment_id"]
for name in ("predictor/predictor.json", "predictions/oof.parquet"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
with (folder.parent / "order.txt").open("a") as file:
    file.write(flags["--experiment_id"] + (" again" if "--tr_resume" in flags else "") + "\\n")
(folder / "config.yaml").touch()
sys.exit(2) if "--fail" in flags else None
for name in ("predictor/predictor.json", "predictions/oof.parquet"):
    (folder / name).touch()
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(level_runs, "ROOT", tmp_path)
    for name in ("train.py", "ensemble.py"):
        (tmp_path / name).write_text(SCRIPT)
    return tmp_path / "work"


def order_of(work: Path) -> list[str]:
    return (work / "output" / "results" / "order.txt").read_text().split("\n")[:-1]


def stages_of(work: Path, *flags: str) -> list[Stage]:
    plan = Plan(work, "levels", seed=2)
    return [
        plan.blend("blend", ["one", "sequence"]),
        plan.train("sequence", needs=["one"]),
        plan.train("one", *flags),
    ]


def test_stages_wait_for_what_they_need_and_run_once(work: Path) -> None:
    run_stages(stages_of(work), 2, work / "logs")
    assert order_of(work) == ["one_2", "sequence_2", "blend_2"]
    run_stages(stages_of(work), 2, work / "logs")
    assert order_of(work) == ["one_2", "sequence_2", "blend_2"]


def test_what_was_cut_off_goes_on(work: Path) -> None:
    with pytest.raises(InputError, match=r"one_2: `train.py .* status 2: see"):
        run_stages(stages_of(work, "--fail", "1"), 1, work / "logs")
    run_stages(stages_of(work), 1, work / "logs")
    assert order_of(work) == ["one_2", "one_2 again", "sequence_2", "blend_2"]


def test_commands_are_those_to_type(work: Path) -> None:
    blend, sequence, one = stages_of(work, "--net_model", "resnet10t")
    assert one.command()[:3] == ["train.py", "--experiment_id", "one_2"]
    flags = dict(zip(one.flags[::2], one.flags[1::2]))
    assert flags["--seed"] == "4669" and flags["--data_fold"] == "all"
    assert flags["--net_model"] == "resnet10t" and flags["--data_dataset"] == "levels"
    assert sequence.needs == ("one_2",)
    assert "one_2,sequence_2" in blend.command() and "--seed" not in blend.command()


def test_shuffling_deals_places_within_studies(tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path / "a", num_slices=20)
    (tmp_path / "a" / "manifest.json").write_text("{}")
    (tmp_path / "a" / "studies.parquet").touch()
    run.write_shuffled(tmp_path / "a", tmp_path / "b")
    ordered, shuffled = SliceTable.load(tmp_path / "a"), SliceTable.load(tmp_path / "b")
    same = ["image_id", "study_id", "store_file", "store_index", "any"]
    assert shuffled.frame[same].equals(ordered.frame[same])
    assert (tmp_path / "b" / "folds.csv").read_text() == (tmp_path / "a" / "folds.csv").read_text()
    np.testing.assert_array_equal(shuffled.image_hu(5), ordered.image_hu(5))
    for _, own in shuffled.frame.groupby("study_id"):
        assert sorted(own["rank"]) == list(range(len(own)))
        assert np.allclose(own["position_mm"], 5.0 * own["rank"].astype(float))
        assert (own["rank"] != ordered.frame.loc[own.index, "rank"]).mean() > 0.7


@pytest.mark.long
def test_the_whole_at_toy_size(project_root: Path, tmp_path: Path) -> None:
    toy = ("--num_seeds", 1, "--num_patients", 9, "--slice_iterations", 4, "--study_iterations", 4)
    command = [
        sys.executable,
        project_root / "benchmarks" / "levels" / "run.py",
        "--work",
        tmp_path,
        *toy,
    ]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    found = json.loads(last)
    assert set(found["levels"]) == {*run.LEVELS, "prior"}
    for values in found["levels"].values():
        assert values["interval"][0] <= values["mean"] <= values["interval"][1]
    assert set(found["steps"]) == {f"{a} - {b}" for a, b in run.STEPS}
    assert any(line.startswith("| three slices |") for line in lines)
