"""ich doctor: what is missing is found, named and mended by what it says."""

import sys
from collections import namedtuple
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from common.cli import status_of
from scripts import doctor


def run(monkeypatch, capsys, *flags: str) -> tuple[int, list[str]]:
    monkeypatch.setattr(sys, "argv", ["doctor.py", *flags])
    try:
        status = status_of(doctor.main)
    except SystemExit as stop:
        status = int(str(stop.code))
    return status, capsys.readouterr().out.splitlines()


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, ...]:
    return ("--output_dir", str(tmp_path / "out"), "--data_input_folder", str(tmp_path / "in"))


def test_a_whole_installation_is_ready_and_nothing_is_made(places, tmp_path, monkeypatch, capsys):
    status, lines = run(monkeypatch, capsys, *places)
    assert (status, lines[-1]) == (0, "Ready.")
    assert not [line for line in lines if line.startswith("FAIL")]
    topics = {line.split()[1] for line in lines[:-1]}
    assert {"python", "packages", "torch", "cpu", "codecs", "weights", "disk"} <= topics
    assert not list(tmp_path.iterdir())


def test_a_missing_and_an_old_package_are_named(places, monkeypatch, capsys):
    def version(name: str) -> str:
        if name == "nibabel":
            raise PackageNotFoundError(name)
        return {"pydicom": "2.4.4"}.get(name, doctor_version(name))

    doctor_version = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", version)
    status, lines = run(monkeypatch, capsys, *places)
    assert (status, lines[-1]) == (1, "Not usable yet: 1 to mend.")
    (line,) = (line for line in lines if line.startswith("FAIL"))
    assert "pydicom 2.4.4 is not >=3.0, nibabel is missing: pip install -r req" in line


def test_a_codec_that_is_missing_is_named(places, monkeypatch, capsys):
    import pydicom.pixels

    real = pydicom.pixels.get_decoder
    missing = namedtuple("Decoder", "is_available")(False)
    monkeypatch.setattr(
        pydicom.pixels, "get_decoder", lambda u: missing if u.endswith("4.70") else real(u)
    )
    status, lines = run(monkeypatch, capsys, *places)
    assert status == 1
    assert [line for line in lines if "FAIL  codecs    no decoder for JPEG Lossless SV1:" in line]


def test_a_package_that_breaks_on_import_is_a_finding(places, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    status, lines = run(monkeypatch, capsys, *places)
    assert status == 1
    assert [line for line in lines if line.startswith("FAIL  devices") and "torchvision" in line]
    assert [line for line in lines if line.split()[1] == "disk"], "goes on"


def test_folders_models_and_devices_of_the_flags_are_checked(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    flags = ("--output_dir", "/proc/no", "--net_model", "resnt18", "--device", "cuda")
    status, lines = run(monkeypatch, capsys, *flags)
    assert (status, lines[-1]) == (1, "Not usable yet: 3 to mend.")
    failed = "\n".join(line for line in lines if line.startswith("FAIL"))
    assert "/proc can't be written" in failed
    assert "choose another folder with --output_dir" in failed
    assert "did you mean resnet18" in failed
    assert "cuda" in failed


def test_weights_that_are_on_disk_are_found(places, tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    file = tmp_path / "checkpoints" / "resnet18_a1_0-d63eafa0.pth"
    for found in (False, True):
        if found:
            file.parent.mkdir()
            file.touch()
        _, lines = run(monkeypatch, capsys, *places, "--net_model", "resnet18")
        (line,) = (line for line in lines if " weights " in line)
        assert line.startswith("ok") is found
        assert (str(file) in line) is found
