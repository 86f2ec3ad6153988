"""What all tests share: the place of the test data, and the project on the import path."""

import gc
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

# What the imports of a collection make stays to the end: looking for garbage in it is vain.
gc.disable()

STARTED = time.monotonic()
DRAWS = [False]

# Files that take long: begun first, so that two processes end at about the same time.
LONGEST = (
    "test_style.py",
    "test_worker.py",
    "test_predictor.py",
    "test_train_script.py",
    "test_calibrate.py",
    "test_folds.py",
    "test_delivery.py",
    "test_preprocessing.py",
    "test_ensemble.py",
    "test_frozen.py",
    "test_distributed.py",
    "test_deciding.py",
    "test_engine.py",
    "test_bag.py",
    "test_demo.py",
    "test_memory.py",
    "test_phantom.py",
    "test_tracking.py",
    "test_evaluate.py",
    "test_gpu_benchmark.py",
    "test_tracker.py",
    "test_runner.py",
    "test_imports.py",
    "test_deliver.py",
    "test_batch_memory.py",
    "test_ich.py",
    "test_check.py",
    "test_validation.py",
    "test_drift.py",
    "test_automatic_flags.py",
    "test_cases.py",
    "test_regions.py",
    "test_predict.py",
    "test_fit_loop.py",
)
ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tests" / "helpers"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the limit that CI sets to the long tests."""
    parser.addoption(
        "--time-budget",
        type=float,
        help="seconds after whose end no further test is started: the rest is skipped",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the files that take long in front; the order within a file stays.

    With a time budget, files take turns: each commit begins with others.
    """
    place = {name: number for number, name in enumerate(LONGEST)}
    if config.getoption("--time-budget") is not None:
        command = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout
        names = {item.path.name for item in items}
        place = {name: zlib.crc32(commit + name.encode()) for name in names}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from modules and items: a collection takes 0.4 s with them."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what would start after the time budget; find out whether figures are drawn."""
    DRAWS[0] = item.get_closest_marker("drawn") is not None
    budget = item.config.getoption("--time-budget")
    if budget is not None and time.monotonic() - STARTED > budget:
        pytest.skip(f"the time budget of {budget:.0f} s is used up")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with ct_ich, ge_head and odd_dicom; skips the test where there is none."""
    folder = Path(os.environ.get("ICH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set ICH_TEST_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def undrawn() -> Iterator[None]:
    """Leave the figures of reports empty but in tests marked `drawn`: they take most of the time.

    The marked ones are those of common/report, and one or two of each script that writes a report.
    """
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def save(drawing: Figure, place: Any, **options: Any) -> None:
        if options.get("format") == "svg" and not DRAWS[0]:
            place.write(b'<svg xmlns="http://www.w3.org/2000/svg"/>')
        else:
            savefig(drawing, place, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Leave files in the memory of the system: none has to outlast a power cut, each takes 2 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which knows of bad descriptors too
        yield


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The root of the checkout."""
    return ROOT
