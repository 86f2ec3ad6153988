"""benchmarks/gpu.sh at toy size: its parts, their limits, and the wheels that it takes along."""

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_fits, gpu_parts, tables
from common.errors import CheckFailed, InputError

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the script")


@pytest.fixture
def values(tmp_path: Path) -> Any:
    """Run a part in this process; give its values."""

    def values(part: str) -> dict[str, Any]:
        gpu.measure(part, tmp_path / f"{part}.json")
        return json.loads((tmp_path / f"{part}.json").read_text())[part]

    return values


@on_cpu
def test_transforms(values: Any) -> None:
    made = values("transforms")
    assert made["train_complex_512"]["least_psnr_db"] >= made["least_psnr_db"] > 60
    assert made["largest_difference"] == 0  # the device is this CPU
    assert made["ms_per_image"] > 0


@on_cpu
def test_memory(values: Any) -> None:
    made = values("memory")
    ways = ("kept, pinned", "kept", "torch's, pinned")
    assert [made[way]["wrong_slices"] for way in ways] == [0, 0, 0]
    assert all(made[way]["images_per_second"] > 0 for way in ways)


def test_a_slice_written_over_is_counted(values: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a slot of kept memory were free too early."""
    loaded_sums = gpu_parts._loaded_sums

    def late(loader: Any, are_late: bool) -> tuple[float, Any]:
        seconds, sums = loaded_sums(loader, are_late)
        sums[3] = sums[4] + 1
        return seconds, sums

    monkeypatch.setattr(gpu_parts, "_loaded_sums", late)
    assert values("memory")["kept"]["wrong_slices"] == 1


@on_cpu
def test_exchange_of_one_process(values: Any) -> None:
    made = values("nccl")
    assert made["backend"] == "gloo" and made["all_reduce_ms"] > 0
    assert made["difference_to_alone"] == made["difference_of_runs_alone"] == 0


@on_cpu
def test_precision(values: Any) -> None:
    made = values("precision")
    assert set(made) == {"float32", "bf16"}
    assert made["float32"]["last_loss_difference"] == 0
    assert 0 < made["bf16"]["first_loss_difference"] < 0.05
    assert all(one["images_per_second"] > 0 for one in made.values())


def test_a_scale_that_is_too_large_is_a_state_like_others() -> None:
    """fp16 needs a GPU; its scale is set in what a checkpoint holds."""
    seen = []

    def start(network: Any) -> None:
        gpu_parts._with_too_large_a_scale(network)
        seen.append(network.state_dict()["scaler"].get("scale"))

    options = {"amp": "fp16"} if torch.cuda.is_available() else {}
    made = gpu_fits.fit(gpu_fits.InMemory(2, 32), steps=2, start=start, **options)
    assert made.network.state.iteration == 2 and len(made.network.losses) >= 2
    assert seen == [2.0**40 if options else None]


@on_cpu
def test_networks(values: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can't be made leaves the others their figures."""
    small = gpu_fits.SIZE.networks[0]
    size = dataclasses.replace(gpu_fits.SIZE, networks=("no_such_network", small))
    monkeypatch.setattr(gpu_parts, "SIZE", size)
    made = values("networks")
    assert "no_such_network" in made["no_such_network"]["error"]
    assert made[small]["train"] > 0 and made[small]["predict"] > 0


def test_halves_the_batch_until_it_fits() -> None:
    tried = []

    def work(batch_size: int) -> str:
        tried.append(batch_size)
        if batch_size > 2:
            raise torch.OutOfMemoryError("too large")
        return "done"

    assert gpu_fits.fitting(16, work) == (2, "done")
    assert tried == [16, 8, 4, 2]
    with pytest.raises(torch.OutOfMemoryError):
        gpu_fits.fitting(1, lambda _: work(3))


FAST = {"images_per_second": 95, "images_per_second_in_memory": 96, "busy_share": 0.99}
FAST |= {"product_share": 0.7, "share_of_matrix_tflops": 0.4}


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"images_per_second": 48}, "loading: 50%"),
        ({"busy_share": 0.6}, "launching kernels: the GPU computes 60%"),
        ({}, "convolutions: 70% of the time, 40% of a matrix product's rate"),
        ({"product_share": 0.3}, "memory bandwidth: 70%"),
    ],
)
def test_what_bounds_it(changes: dict[str, float], bound: str) -> None:
    found = gpu.bound_by({**FAST, **changes})
    assert found is not None and found.startswith(bound)
    assert gpu.bound_by({"images_per_second": 3}) is None


def test_limits_leave_time_to_start() -> None:
    assert sum(gpu.PARTS.values()) <= 8 * 60 - 20
    assert all(callable(getattr(gpu_parts, part)) for part in gpu.PARTS)


SCRIPT = """
import json, subprocess, sys, time
part, folder = sys.argv[1], sys.argv[3]
kept = {"machine": "m", "torch": "1", "cores": 2, "commit": "c", part: {"value": 1}}
json.dump(kept, open(f"{folder}/{part}.json", "w"))
if part == "memory":  # with a worker that outlives it
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    print(worker.pid, flush=True)
    time.sleep(300)
if part == "nccl":
    raise ValueError("no NCCL here")
"""


@pytest.mark.long
def test_a_failure_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "part.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(gpu, "PARTS", {"transforms": 60, "memory": 3, "nccl": 60, "train": 60})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    with pytest.raises(CheckFailed) as failed:
        gpu.main()
    assert failed.value.findings == [
        "memory: stopped after its 3 s",
        "nccl: status 1: ValueError: no NCCL here",
    ]
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads((tmp_path / "gpu.json").read_text())
    assert all(figures[name] == {"value": 1} for name in gpu.PARTS)
    worker = int((tmp_path / "memory.log").read_text())
    state = Path(f"/proc/{worker}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_figures_of_another_machine_are_not_mixed_in(tmp_path: Path) -> None:
    for number, (part, commit) in enumerate((("train", "a"), ("memory", "b"), ("nccl", "b"))):
        made = {"machine": "m", "torch": "1", "cores": 2, "commit": commit, part: {}}
        (tmp_path / f"{part}.json").write_text(json.dumps(made))
        os.utime(tmp_path / f"{part}.json", (number, number))
    found = gpu.collected(tmp_path)
    assert found["commit"] == "b" and "nccl" in found and "memory" in found
    assert "train" not in found


def test_an_unknown_part_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "trian", "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="trian: no such part; there are transforms, "):
        gpu.main()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def elsewhere(tmp_path: Path, project_root: Path) -> Path:
    """A checkout on a machine without blosc2; its Python is one that only installs."""
    for folder in ("benchmarks", "output/wheels", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "benchmarks" / "gpu.sh").write_text(
        (project_root / "benchmarks/gpu.sh").read_text()
    )
    python = tmp_path / "bin" / "python"
    # Without packages of the environment: -S leaves them out, where pip is not asked for.
    python.write_text(f'#!/bin/sh\n[ "$1" = -m ] || set -- -S "$@"\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    shown = "import sys, blosc2, albumentations; print(blosc2.WHERE, sys.argv[1:])"
    (tmp_path / "benchmarks" / "gpu.py").write_text(shown)
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(folder / "benchmarks" / "gpu.sh"), *arguments]
    environment = {**os.environ, "PYTHON": str(folder / "bin" / "python")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_carried_wheels_are_used(elsewhere: Path) -> None:
    missing = start(elsewhere, "train")
    assert missing.returncode == 2 and missing.stdout == ""
    assert "error: albumentations or blosc2 is missing" in missing.stderr
    for name in ("albumentations", "blosc2"):
        wheel = elsewhere / "output" / "wheels" / f"{name}-1.0-py3-none-any.whl"
        about = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(f"{name}.py", "WHERE = 'carried'\n")
            file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0")
            file.writestr(
                f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
            )
            file.writestr(f"{about}/RECORD", "")
    for _ in range(2):  # the second time they are there
        done = start(elsewhere, "train", "--out", "x")
        assert done.stdout == "carried ['train', '--out', 'x']\n", done.stderr


def test_wheels_are_for_a_version_of_python(elsewhere: Path) -> None:
    refused = start(elsewhere, "download")
    assert refused.returncode == 2
    assert refused.stderr == "error: download: give the version of Python there, such as 3.12\n"


@on_cpu
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_parts_by_the_script(tmp_path: Path, project_root: Path) -> None:
    """Every cell of the page's tables has a value, but those of a GPU and of real networks."""
    command = [project_root / "benchmarks" / "gpu.sh", "--out", tmp_path, "--patience", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["machine"] == "cpu" and figures["failures"] == {}
    assert set(figures["seconds"]) == set(gpu.PARTS) <= set(figures)
    assert 0 <= figures["train"]["data_wait_share"] <= 1
    assert figures["compiled"]["images_per_second"] > 0
    assert figures["graphs"][gpu_fits.TOY.model] == {"breaks": 0, "reasons": []}
    *_, template = (m[2] for m in tables.TABLE.finditer(tables.PAGE.read_text()) if m[1] == "gpu")
    lacking = {m[1] for m in tables.CELL.finditer(template)
               if tables.filled(m[0], figures) == tables.NOTHING}  # fmt: skip
    of_gpu = ("peak_gib", "epoch_seconds", "busy_share", "tf32", "fp16", "rsna-")
    assert {path for path in lacking if not any(name in path for name in of_gpu)} == {"bound"}
