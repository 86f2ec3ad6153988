"""Simple mistakes are answered before the imports that take seconds."""

import json
import subprocess
import sys

import pytest

# Run a script as its user does, and say on stdout whether torch was imported.
_RUN = (
    "import runpy, sys; sys.argv = sys.argv[1:]\n"
    "try:\n"
    "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "except SystemExit as end:\n"
    "    print(end.code, 'torch' in sys.modules)\n"
)


@pytest.mark.parametrize("script", ["train.py", "lr_finder.py"])
def test_a_missing_dataset_is_refused_before_torch_is_imported(script, tmp_path, project_root):
    command = [sys.executable, "-c", _RUN, script, "--data_dataset", "nothing"]
    command += ["--data_input_folder", str(tmp_path)]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "False"]
    assert "no dataset at" in done.stderr


def test_a_predictor_of_phantoms_is_refused_before_torch_is_imported(tmp_path, project_root):
    content = {"format_version": 1, "training": {"dataset": "demo"}}
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "predictor.json").write_text(json.dumps(content))
    command = [sys.executable, "-c", _RUN, "deliver.py", "--pr_predictor", str(tmp_path / "net")]
    command += ["--dl_input", str(tmp_path), "--dl_output", str(tmp_path.parent / "out")]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "False"]
    assert "trained on phantoms alone" in done.stderr
