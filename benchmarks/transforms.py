"""Processor time of pipelines and of the transforms by the physics of CT, ms a sample.

Pipelines make `--size` pixels of slices of $ICH_TEST_DATA/ge_head (default ../shared/data; else of
made up ones) with 1 and 3 slices a sample; transforms are run alone on that size, always applied.
Pipelines take turns; medians over `--repeats` turns of 16 samples. The last line is JSON.

    python benchmarks/transforms.py [--size 256] [--repeats 7]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.figures import print_figures  # noqa: E402
from benchmarks.loader import write_sources  # noqa: E402
from common.transforms import SampleTransform, catalog, load_transform  # noqa: E402

PIPELINES = ("train_small", "train_complex", "train_complex_512", "ct_physics", "ct_physics_strong")
NUM_SAMPLES = 16
SPACING_MM = (0.5, 0.5, 5.0)


def alone(name: str) -> SampleTransform:
    """Return a pipeline of one transform, always applied."""
    node = {"__class_fullname__": name, "p": 1.0}
    compose = {"__class_fullname__": "Compose", "p": 1.0, "transforms": [node]}
    return SampleTransform.from_dict({"__version__": "2.0.8", "transform": compose}, name)


def measure(
    transforms: dict[str, SampleTransform], images: list[np.ndarray], repeats: int
) -> dict[str, float]:
    """Return the median processor time of each transform, ms a sample."""
    times: dict[str, list[float]] = {name: [] for name in transforms}
    for turn in range(repeats + 1):  # the first one is not counted
        for name, transform in transforms.items():
            start = time.process_time()
            for sample in range(NUM_SAMPLES):
                transform(images[sample % len(images)], 97 * turn + sample, None, SPACING_MM)
            times[name].append(1000 * (time.process_time() - start) / NUM_SAMPLES)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def stacks(images: list[np.ndarray], num_slices: int) -> list[np.ndarray]:
    """Return samples (height, width, slices) of neighbours."""
    ends = range(len(images) - num_slices + 1)
    return [np.stack(images[start : start + num_slices], axis=-1) for start in ends]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        count = write_sources(Path(folder), 512)
        images = [np.load(Path(folder) / f"{number}.npy") for number in range(count)]
    size = (arguments.size, arguments.size)
    small = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in images]
    pipelines = {
        name: load_transform(ROOT / "transforms" / f"{name}.json").with_size(arguments.size)
        for name in PIPELINES
    }
    own = {name: alone(name) for name in sorted(catalog.IN_MM)} | {
        "windows": alone("DicomWindowShift")
    }
    figures: dict[str, Any] = {}
    groups: tuple[tuple[str, dict[str, SampleTransform], Callable[[int], Any]], ...] = (
        ("pipelines", pipelines, lambda n: stacks(images, n)),
        ("alone, windows included", own, lambda n: stacks(small, n)),
    )
    for title, transforms, samples in groups:
        made = {n: measure(transforms, samples(n), arguments.repeats) for n in (1, 3)}
        print(f"{title + ', ms a sample':<38}{'1 slice':>10}{'3 slices':>10}")
        for name in transforms:
            print(f"  {name:<36}{made[1][name]:>10.2f}{made[3][name]:>10.2f}")
        figures[title] = {name: [made[1][name], made[3][name]] for name in transforms}
    print_figures(figures)


if __name__ == "__main__":
    main()
