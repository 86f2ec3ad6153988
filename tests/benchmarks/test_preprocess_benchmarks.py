"""The benchmarks of preparing run at toy size and end with their JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import preprocess_100k
from common.preparation import prepare_dataset
from rsna.sources.rsna import RSNASource


def last_line(project_root: Path, script: str, *arguments: object) -> dict[str, object]:
    command = [sys.executable, str(project_root / "benchmarks" / script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_made_up_challenge_is_prepared_whole(tmp_path: Path) -> None:
    preprocess_100k.write_challenge(tmp_path / "in", 320)
    source = RSNASource(tmp_path / "in")
    prepared = prepare_dataset(source, tmp_path / "out", n_jobs=0, num_folds=2)
    assert (prepared.num_slices, prepared.num_series, prepared.rejected) == (320, 10, {})
    assert prepared.folds is not None


@pytest.mark.long
def test_both_benchmarks_end_with_their_figures(
    project_root: Path, test_data: Path, tmp_path: Path
) -> None:
    toy = ("--num_series", 1, "--num_rounds", 1, "--num_pairs", 1)
    found = last_line(project_root, "preprocess.py", "--folder", test_data / "ge_head", *toy)
    names = ["peak_memory_mb", "peak_child_memory_mb"]
    names += ["slices_per_second", "fraction_of_bound", "ratio_vs_reread", "ratio_vs_baseline"]
    assert list(found) == [*names, "speedup_2_workers"]
    assert found.pop("ratio_vs_baseline") is None
    assert all(isinstance(value, float) and value > 0 for value in found.values())

    toy = ("--num_series", 1, "--num_rounds", 1, "--num_pairs", 0, "--baseline", project_root)
    found = last_line(project_root, "preprocess.py", "--folder", test_data / "ge_head", *toy)
    ratio = found["ratio_vs_baseline"]
    assert isinstance(ratio, float) and 0.2 < ratio < 5

    toy = ("--num_slices", 3200, "--n_jobs", 1, "--work", tmp_path)
    found = last_line(project_root, "preprocess_100k.py", *toy)
    assert found["num_slices"] == 3200
    assert all(value for value in found.values())
