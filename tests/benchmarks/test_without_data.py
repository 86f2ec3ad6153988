"""A benchmark whose data are not there ends with one line and status 2."""

import pytest
import warm


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ct_ich_levels.py", "none"), "no such folder"),
        (("encoders.py", "--dataset", "ct_ich"), "--dataset ct_ich needs --folder"),
        (("study_labels.py", "none"), "no such folder"),
        (("predictor.py", "--folder", "none"), "--folder none: no such folder"),
        (("demo_difficulty.py",), "no dataset at input/datasets/demo"),
        (("heat_maps.py", "none"), "none"),
        (("pooled_folds.py", "0001"), "output/results/0001"),
        (("preprocess.py", "--folder", "none"), "--folder none: no files there"),
        (("label_errors.py", "--experiment_id", "0001"), "no experiment at output/results/0001"),
    ],
)
def test_one_line_and_status_2(tmp_path, arguments, message):
    script, *others = arguments
    done = warm.run([warm.ROOT / "benchmarks" / script, *others], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not list(tmp_path.iterdir())
