"""The flags of folds and checks in combination, and what preprocessing.py prints about overlap."""

import logging
from pathlib import Path

import pytest
from prepared import write_rsna_folder

from common.cli import status_of
from common.errors import InputError
from config import parse_config
from preprocessing import GROUPS, main


def parse(*flags: str):
    return parse_config("test", GROUPS, list(flags)).preprocessing


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--pre_valid_fraction", "1"), "--pre_valid_fraction"),
        (("--pre_valid_fraction", "-0.1"), "--pre_valid_fraction"),
        (("--pre_valid_fraction", "0.1", "--pre_fold_by", "source"), "--pre_fold_by"),
        (("--pre_fold_by", "study"), "--pre_fold_by"),
    ],
)
def test_unusable_flags(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(*flags)


@pytest.mark.parametrize(
    ("flags", "without_effect"),
    [
        ((), []),
        (("--pre_num_folds", "4", "--pre_fold_seed", "1"), []),
        (("--pre_num_folds", "4", "--pre_valid_fraction", "0.1"), ["pre_num_folds"]),
        (("--pre_fold_seed", "4", "--pre_valid_fraction", "0.1"), []),
        (("--pre_fold_seed", "4", "--pre_fold_by", "source"), ["pre_fold_seed"]),
        (("--pre_check", "1"), []),
        (("--pre_check", "1", "--pre_source", "rsna"), ["pre_source"]),
        (("--pre_check", "1", "--pre_drop_overlap", "1"), ["pre_drop_overlap"]),
        (("--pre_check", "1", "--pre_remove", "1"), ["pre_remove"]),
    ],
)
def test_flags_without_effect_warn(
    flags: tuple[str, ...], without_effect: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        parse(*flags)
    warned = [record.getMessage().split()[0] for record in caplog.records]
    assert warned == [f"--{name}" for name in without_effect]


def test_a_source_split_of_one_source_is_refused_before_pixels_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rsna_folder(tmp_path / "in")
    flags = ["--pre_source", "rsna", "--pre_folder", str(tmp_path / "in"), "--n_jobs", "0"]
    flags += ["--data_input_folder", str(tmp_path), "--data_dataset", "x"]
    monkeypatch.setattr("sys.argv", ["preprocessing.py", *flags, "--pre_fold_by", "source"])
    assert status_of(main) == 2
    assert "--pre_fold_by source" in capsys.readouterr().err
    assert not (tmp_path / "datasets" / "x" / "store").exists()


def test_the_script_tells_the_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rsna_folder(tmp_path / "in")
    folder = tmp_path / "in"
    shared = sorted((folder / "stage_2_train").iterdir())[0]
    (folder / "stage_2_test" / shared.name).write_bytes(shared.read_bytes())
    flags = ["--pre_source", "rsna", "--pre_folder", str(folder), "--n_jobs", "0"]
    flags += ["--data_input_folder", str(tmp_path), "--data_dataset", "x", "--pre_num_folds", "2"]
    monkeypatch.setattr("sys.argv", ["preprocessing.py", *flags])
    assert status_of(main) == 0
    told = capsys.readouterr().out
    assert "Training and test share" in told and "1 image id" in told
    assert "--pre_drop_overlap 1 leaves them out" in told
