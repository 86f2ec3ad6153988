"""preprocessing.py --pre_report and --pre_export as users run them."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from prepared import write_series_files
from tiny_dataset import make_tiny_dataset

import preprocessing
from common.errors import InputError
from common.preparation.export import EXPORT_WINDOWS, FALLBACK_WINDOW
from flags.preprocessing import PreprocessingConfig


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the script in this process and return the lines it printed."""

    def run(*flags: object) -> list[str]:
        places = ["--data_input_folder", tmp_path / "input", "--data_dataset", "x", "--n_jobs", 0]
        monkeypatch.setattr(sys, "argv", ["preprocessing.py", *map(str, [*flags, *places])])
        monkeypatch.setattr(preprocessing, "log_to_console", lambda: None)
        preprocessing.main()
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def dataset(tmp_path) -> Path:
    return make_tiny_dataset(tmp_path / "input" / "datasets" / "x")


def test_a_prepared_dataset_needs_no_source(run, dataset):
    lines = run("--pre_report", 1)
    assert lines == [f"report: {dataset / 'report.html'}"]
    assert (dataset / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_what_has_no_effect_on_a_prepared_dataset_earns_a_warning(run, dataset, caplog):
    with caplog.at_level(logging.WARNING):
        run("--pre_report", 1, "--pre_num_folds", 3, "--pre_export_windows", "[bone]")
    warnings = "\n".join(caplog.messages)
    assert "--pre_num_folds has no effect without --pre_source or --pre_folder" in warnings
    assert "--pre_export_windows has no effect without --pre_export png" in warnings
    assert len(caplog.messages) == 2


def test_a_preparation_ends_with_the_report_and_the_export(run, tmp_path):
    write_series_files(tmp_path / "in")
    flags = ["--pre_source", "dicom", "--pre_folder", tmp_path / "in", "--pre_report", 1]
    lines = run(*flags, "--pre_export", "png", "--pre_export_folder", tmp_path / "out")
    folder = tmp_path / "input" / "datasets" / "x"
    assert "stored 4 slices" in lines[-3]
    assert lines[-2] == f"report: {folder / 'report.html'}"
    assert lines[-1].startswith(f"{tmp_path / 'out'}: exported 4 slices")
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
    page = (folder / "report.html").read_text()
    assert "patient of" not in page
    assert str(tmp_path) not in page


def test_the_export_has_a_folder_of_its_own_by_default(run, dataset):
    (line,) = run("--pre_export", "npy")
    assert line.startswith(f"{dataset / 'export_npy'}: exported 24 slices")


def test_without_a_dataset_there_is_nothing_to_report(run, tmp_path):
    with pytest.raises(InputError, match="no dataset at"):
        run("--pre_report", 1)
    assert not (tmp_path / "input").exists()


@pytest.mark.parametrize("windows", [["brain", "bone"], ["lung"], []])
def test_windows_that_make_no_image_are_refused(windows):
    with pytest.raises(InputError, match="pre_export_windows"):
        PreprocessingConfig(pre_export_windows=windows)


def test_the_flag_knows_the_windows_that_there_are():
    for name in EXPORT_WINDOWS:
        PreprocessingConfig(pre_export_windows=[name])
    assert EXPORT_WINDOWS["brain"] == FALLBACK_WINDOW


@pytest.mark.long
def test_the_script_prints_the_path_of_the_page(project_root, dataset, tmp_path):
    command = [sys.executable, "preprocessing.py", "--pre_report", "1", "--data_dataset", "x"]
    command += ["--data_input_folder", str(tmp_path / "input")]
    result = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"report: {dataset / 'report.html'}"
