"""Folders that are either whole or absent, and locks."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from small_disk import files_up_to

from common.errors import InputError
from common.files import held, replacing_folder, write_text


def fill(folder: Path, text: str) -> None:
    with replacing_folder(folder) as temporary:
        write_text(temporary / "text", text)


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    for text in ("old", "new"):
        fill(tmp_path / "a.b", text)
        assert (tmp_path / "a.b" / "text").read_text() == text
    assert os.listdir(tmp_path) == ["a.b"]


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path, monkeypatch):
    """Nor is another process that replaces the same folder meanwhile."""
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "net_mine"):
            raise KeyboardInterrupt
    assert len(os.listdir(tmp_path)) == 1
    with replacing_folder(tmp_path / "net_mine"):
        fill(tmp_path / "net_mine", "first")
    fill(tmp_path / "net_mine", "second")
    assert (tmp_path / "net_mine" / "text").read_text() == "second"


@pytest.mark.parametrize("number", [1, 2])
def test_a_failed_rename_leaves_the_old_folder(tmp_path, monkeypatch, number):
    fill(tmp_path / "net", "old")
    rename, calls = os.rename, []

    def failing(source, target):
        calls.append(source)
        if len(calls) == number:
            raise OSError("stale file handle")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="stale"):
        fill(tmp_path / "net", "new")
    assert (tmp_path / "net" / "text").read_text() == "old"
    assert os.listdir(tmp_path) == ["net"]


def test_a_full_disk_leaves_the_old_folder(tmp_path):
    fill(tmp_path / "net", "old")
    with files_up_to(1000), pytest.raises(OSError, match="File too large"):
        fill(tmp_path / "net", "x" * 10_000)
    assert (tmp_path / "net" / "text").read_text() == "old"
    assert os.listdir(tmp_path) == ["net"]


def test_a_lock_is_held_once_and_left_with_the_block(tmp_path):
    for path in (tmp_path, tmp_path / "file"):
        with held(path, "busy"), pytest.raises(InputError, match=r"^busy$"), held(path, "busy"):
            pass
        with held(path, "busy"):
            pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("common.files.fcntl.flock", no_locks)
    with pytest.raises(InputError, match="can't be locked"), held(tmp_path, "busy"):
        pass
