"""A machine is what containers, Slurm and torchrun leave of it."""

import select
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import common.machine
from common.errors import InputError
from common.machine import Gpu, Machine, cpu_quota, memory_limit
from common.precision import require_compiler


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        # Of nested groups the narrowest counts.
        ("0::/a/b\n", {"a/cpu.max": "150000 50000", "a/b/cpu.max": "800000 100000"}, 3),
        # The path of the host, in a container that sees its own group at the top.
        ("0::/docker/ab12\n", {"cpu.max": "50000 100000"}, 0.5),
        ("3:cpu,cpuacct:/job\n", {"cpu,cpuacct/job/cpu.cfs_quota_us": "400000\n"}, 4),
        ("3:cpu,cpuacct:/job\n", {"cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n"}, None),
        ("3:cpuset:/job\n0::/\n", {"cpuset/job/cpu.cfs_quota_us": "100000"}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path, own, files, quota):
    write(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    write(tmp_path, {"proc/self/cgroup": own})
    assert cpu_quota(tmp_path) == quota


def test_without_control_groups_nothing_limits(tmp_path):
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) > 10**8


@pytest.mark.parametrize(
    ("own", "name", "text", "limit"),
    [
        ("0::/x\n", "x/memory.max", "30000000\n", 30_000_000),
        ("4:memory:/x\n", "memory/x/memory.limit_in_bytes", "30000000\n", 30_000_000),
        ("4:memory:/x\n", "memory/x/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("0::/x\n", "x/memory.max", "max\n", None),
    ],
)
def test_the_memory_of_a_container(tmp_path, own, name, text, limit):
    whole = memory_limit(tmp_path)
    write(tmp_path, {"proc/self/cgroup": own, f"sys/fs/cgroup/{name}": text})
    assert memory_limit(tmp_path) == (whole if limit is None else limit)


@pytest.mark.parametrize(
    ("fields", "cores"),
    [
        ({"num_affine": 64}, 64),
        ({"num_affine": 64, "quota": 3.7}, 3),
        ({"num_affine": 64, "quota": 0.5}, 1),
        ({"num_affine": 64, "num_slurm": 16}, 16),
        ({"num_affine": 8, "num_slurm": 16, "quota": 12}, 8),
        ({"num_affine": 64, "num_slurm": 32, "num_processes": 4}, 8),
        ({"num_affine": 2, "num_processes": 8}, 1),
    ],
)
def test_cores_for_each_process(fields, cores):
    assert Machine(memory_gb=64, **fields).num_cores == cores


def test_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("WORLD_SIZE", "12")
    here = Machine.here("cpu")
    assert (here.num_slurm, here.num_processes, here.num_in_all, here.gpu) == (6, 3, 12, None)
    for words in ("", "many", "0"):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", words)
        assert Machine.here("cpu").num_slurm is None


def test_the_least_gpu_of_the_processes_counts(monkeypatch):
    gpus = [
        SimpleNamespace(name="A100", major=8, minor=0, total_memory=40 * 10**9),
        SimpleNamespace(name="T4", major=7, minor=5, total_memory=16 * 10**9),
        SimpleNamespace(name="H200", major=9, minor=0, total_memory=141 * 10**9),
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_properties", gpus.__getitem__)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert Machine.here().gpu == Gpu("A100", (8, 0), 40)
    assert Machine.here("cpu").gpu is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert Machine.here("cuda").gpu == Gpu("T4", (7, 5), 16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_driver_the_machine_is_known_without_torch(project_root):
    code = "import sys; from common.machine import Machine; print(Machine.here().gpu)"
    code += "; sys.exit('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True
    )
    assert found.stdout == "None\n"


def test_a_child_ends_with_its_parent_although_it_hangs(project_root):
    child = "from common.machine import end_with_parent as e; e(); print(1); import time; "
    parent = (
        f"import subprocess as s, sys; s.run([sys.executable, '-uc', {child + 'time.sleep(60)'!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], cwd=project_root, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        process.kill()
        # The end of the file comes when no process has it open any more.
        assert select.select([process.stdout], [], [], 20)[0] and process.stdout.read() == b""


def test_compiling_is_refused_where_something_is_missing(monkeypatch, tmp_path):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"^--tr_compile 1: needs a compiler \(g\+\+ or clang\+\+"):
        require_compiler(torch.device("cpu"))
    for name in ("g++", "gcc"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setattr(common.machine, "find_spec", lambda name: None)
    if common.machine.lacks_to_compile("cpu") is None:
        assert common.machine.lacks_to_compile("cuda") == "triton"
        # Each looks at the variable of its own compiler.
        monkeypatch.setenv("CXX", "none")
        assert common.machine.lacks_to_compile("cuda") == "triton"
        assert str(common.machine.lacks_to_compile("cpu")).startswith("a compiler")
        monkeypatch.setenv("CC", "none")
        assert str(common.machine.lacks_to_compile("cuda")).startswith("a compiler")
        monkeypatch.delenv("CXX")
    monkeypatch.setattr(common.machine.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match=r"the headers of Python.*give --tr_compile 0"):
        require_compiler(torch.device("cpu"))
