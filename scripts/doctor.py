"""Checks the installation: what works, what does not, and what to do. Status 1: not usable."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.cli import run_script
from common.requirements import DISTRIBUTION, EXTRAS, FOLDER, install_command, required_packages

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from config import Config

GROUPS = ("general", "data", "network")
OK, NOTE, FAIL = "ok", "note", "FAIL"
REINSTALL = (
    "pip install -r requirements.txt -c requirements/lock.txt"
    if FOLDER.is_dir()
    else f"install {DISTRIBUTION} again"
)
GIB = 1 << 30
LEAST_DISK_GIB, LEAST_SHARED_MIB = 5, 512


class Finding(NamedTuple):
    """One line: OK, NOTE (works, with a limit) or FAIL (nothing works without it)."""

    state: str
    topic: str
    text: str
    remedy: str = ""


def main() -> None:
    """Print a line per finding; status 1 if one of them is FAIL."""
    found = list(map(report, findings()))
    num_failed = found.count(FAIL)
    print(f"Not usable yet: {num_failed} to mend." if num_failed else "Ready.")
    if num_failed:
        sys.exit(1)


def findings() -> Iterator[Finding]:
    """Run all checks; those that need what is not there end with a finding of their own."""
    try:
        from config import parse_config

        config = parse_config(__doc__ or "", GROUPS)
    except ImportError:  # packages() names what is missing.
        yield from packages()
        return
    yield from packages()
    yield from extras()
    for check in (devices, codecs, weights, memory, disk):
        try:
            yield from check(config)
        except (ImportError, OSError) as error:
            yield Finding(FAIL, check.__name__, f"can't be checked ({error})", REINSTALL)


def report(finding: Finding) -> str:
    """Print a finding on a line; return its state."""
    remedy = f": {finding.remedy}" if finding.remedy else ""
    print(f"{finding.state:<5} {finding.topic:<9} {finding.text}{remedy}", flush=True)
    return finding.state


def packages() -> Iterator[Finding]:
    """Python, and the packages that every command needs."""
    python = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding(OK, "python", python)
    else:
        yield Finding(FAIL, "python", python, "install Python 3.11, 3.12 or 3.13")
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in required_packages()]
    bad = [problem for problem in map(_problem, wanted) if problem]
    if bad:
        yield Finding(FAIL, "packages", ", ".join(bad), REINSTALL)
    else:
        yield Finding(OK, "packages", f"{len(wanted)} of {len(wanted)} needed are installed")


def _problem(wanted: "Requirement") -> str | None:
    try:
        installed = version_of(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is missing"
    if wanted.specifier.contains(installed, prereleases=True):
        return None
    return f"{wanted.name} {installed} is not {wanted.specifier}"


def extras() -> Iterator[Finding]:
    """Packages that only some flags need."""
    for extra, (package, use) in EXTRAS.items():
        try:
            yield Finding(OK, "extra", f"{package} {version_of(package)}")
        except PackageNotFoundError:
            yield Finding(NOTE, "extra", f"no {package}, for {use}", install_command(extra))


def devices(config: "Config") -> Iterator[Finding]:
    """One convolution on each device that --device may choose."""
    import torch
    import torchvision

    yield Finding(OK, "torch", f"{torch.__version__}, torchvision {torchvision.__version__}")
    names = ["cpu"] + [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    for device in names:
        name = f"{len(os.sched_getaffinity(0))} cores"
        if device != "cpu":
            properties = torch.cuda.get_device_properties(device)
            name = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
        try:
            weight = torch.ones(1, 1, 3, 3, device=device)
            image = torch.ones(1, 1, 8, 8, device=device)
            works = torch.nn.functional.conv2d(image, weight).sum().item() == 9 * 36
        except RuntimeError as error:
            remedy = "update the driver, or install a torch for this GPU"
            yield Finding(FAIL, device, f"{name} ({str(error).splitlines()[0]})", remedy)
        else:
            yield Finding(OK if works else FAIL, device, name if works else f"{name}: wrong sums")
    chosen = config.resolved("training").chosen
    yield Finding(OK, "auto", chosen.removeprefix("auto, "))
    if len(names) == 1:
        yield _no_gpu(config.general.device == "cuda", torch.version.cuda)


def _no_gpu(is_wanted: bool, cuda: str | None) -> Finding:
    state = FAIL if is_wanted else NOTE
    if shutil.which("nvidia-smi") is None:
        return Finding(state, "cuda", "no NVIDIA driver: networks run on the CPU")
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout.strip():
        return Finding(state, "cuda", "no GPU: networks run on the CPU")
    if cuda is None:
        remedy = "pip install --force-reinstall torch torchvision, of the usual index"
        return Finding(state, "cuda", "there is a GPU, and torch is the build for the CPU", remedy)
    return Finding(
        state, "cuda", f"torch does not see the GPU, built for CUDA {cuda}", "update the driver"
    )


def codecs(config: "Config") -> Iterator[Finding]:
    """A decoder for each transfer syntax that preparation reads."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    from common.dicom.checks import ENCAPSULATED_SYNTAXES

    missing = [
        name
        for uid, name in ENCAPSULATED_SYNTAXES.items()
        if not get_decoder(UID(uid)).is_available
    ]
    num_syntaxes = len(ENCAPSULATED_SYNTAXES)
    if missing:
        remedy = "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-rle python-gdcm"
        yield Finding(FAIL, "codecs", f"no decoder for {', '.join(missing)}", remedy)
    else:
        yield Finding(OK, "codecs", f"decoders of all {num_syntaxes} compressed transfer syntaxes")


def weights(config: "Config") -> Iterator[Finding]:
    """Whether the ImageNet weights of --net_model are on this disk."""
    from common.models.timm_factory import find_weights
    from rsna_model import ALIASES

    name = config.network.net_model
    try:
        place = find_weights(ALIASES.get(name, name))
    except ValueError as error:
        yield Finding(FAIL, "weights", str(error))
        return
    if place:
        yield Finding(OK, "weights", f"{name}: {place}")
    else:
        remedy = (
            "the first training downloads them; offline, --net_pretrained 0 or --net_weight_file"
        )
        yield Finding(NOTE, "weights", f"{name}: not on this disk", remedy)


def memory(config: "Config") -> Iterator[Finding]:
    """Memory of the machine, and shared memory, by which workers hand over batches."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    if found:
        yield Finding(OK, "memory", f"{int(found[1]) / (1 << 20):.1f} GiB available")
    shared = shutil.disk_usage("/dev/shm").total / (1 << 20)
    if shared >= LEAST_SHARED_MIB:
        yield Finding(OK, "memory", f"{shared:.0f} MiB of /dev/shm")
    else:
        remedy = "docker run --shm-size 2g, or --n_jobs 0"
        yield Finding(NOTE, "memory", f"only {shared:.0f} MiB of /dev/shm for workers", remedy)


def disk(config: "Config") -> Iterator[Finding]:
    """Whether the folders of input and output can be written, and the space that is left."""
    for flag, name in (
        ("data_input_folder", config.data.data_input_folder),
        ("output_dir", config.general.output_dir),
    ):
        folder = Path(name).absolute()
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        try:
            tempfile.TemporaryFile(dir=place).close()
        except OSError as error:
            remedy = f"allow it, or choose another folder with --{flag}"
            yield Finding(FAIL, "disk", f"{place} can't be written ({error.strerror})", remedy)
            continue
        free = shutil.disk_usage(place).free / GIB
        text = f"{free:.0f} GiB free for {folder}"
        if free >= LEAST_DISK_GIB:
            yield Finding(OK, "disk", text)
        else:
            yield Finding(NOTE, "disk", text, f"free some space, or another --{flag}")


if __name__ == "__main__":
    run_script(main)
