"""Training samples per second and processor core, by the way slices are kept and changed.

Every way draws the complex augmentation (transforms/train_complex_512.json) from the same seeds:

* dicom: the DICOM file is decoded in every epoch, three float channels go through albumentations;
* png: so do three 8-bit channels of a PNG file with the windows in it;
* npy: as dicom, of HU saved by numpy;
* store+cpu: this project's store and its transforms on the CPU;
* store+device: this project's store; the loader hands over HU and draws, the rest is for a device.

The first three are read with torch's loader, the others with this project's, which keeps the
memory that workers hand batches over in. All give float32 (batch, 3, size, size), the last one
after its device side, whose time is shown but not counted: a GPU does it. The ways take turns, with
0 and with 2 workers, each after an epoch that is not counted. A core's rate is samples by the
processor time of the main process and its workers together; medians are shown.

Slices are those of $ICH_TEST_DATA/ge_head (default ../shared/data), else made up. Then come the
parts of what is left of store+device, by the wall clock, in ms a sample. The last line is JSON.

    python benchmarks/loader.py [--repeats 5] [--samples 84] [--size 512] [--batch_size 14]
"""

import argparse
import os
import random
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
import pydicom  # noqa: E402
import torch  # noqa: E402
from pydicom import examples  # noqa: E402
from torch.utils.data import DataLoader, default_collate  # noqa: E402
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter  # noqa: E402

from benchmarks.figures import print_figures  # noqa: E402
from common.albumentations import Memory  # noqa: E402
from common.datasets.base import AbstractDataset  # noqa: E402
from common.datasets.loading import make_loader  # noqa: E402
from common.datasets.samplers import EpochSampler  # noqa: E402
from common.precision import keep_freed_memory  # noqa: E402
from common.slices.store import SliceStore, write_series  # noqa: E402
from common.transforms import SampleTransform, catalog, load_transform  # noqa: E402
from common.transforms.draw import random_state  # noqa: E402
from common.windows import NETWORK_WINDOWS, windowed  # noqa: E402

TRANSFORM = ROOT / "transforms" / "train_complex_512.json"
WAYS = ("dicom", "png", "npy", "store+cpu", "store+device")
OWN_WAYS = WAYS[-2:]
WORKERS = (0, 2)


class Slices(AbstractDataset):
    """Samples made by a function of a slice number, a seed and the memory of the batch."""

    def __init__(self, num_samples: int, num_slices: int, make: Callable[..., Any]) -> None:
        super().__init__(seed=1)
        self.num_samples, self.num_slices, self.make = num_samples, num_slices, make

    def __len__(self) -> int:
        return self.num_samples

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        """Return the image, with the draws where there are any."""
        made = self.make(index % self.num_slices, seed, self.image_memory)
        return made if isinstance(made, dict) else {"image": made}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """As `ImageClassificationDataset` does."""
        if "draws" not in samples[0]:
            return super().collate(samples)
        draws = np.stack([sample.pop("draws") for sample in samples])
        return {**super().collate(samples), "draws": draws}


class ThreeChannels:
    """The augmentation as the covered systems run it: three channels all the way.

    Args:
        is_windowed: the image is 0 to 255 instead of HU.
    """

    def __init__(self, transform: SampleTransform, is_windowed: bool) -> None:
        self.is_windowed = is_windowed
        pipeline = transform.pipeline
        self._geometry, self._window, self._intensity = (
            [catalog.build(node, "") for node in nodes]
            for nodes in (pipeline.geometry, [pipeline.window], pipeline.intensity)
        )

    def __call__(self, image: np.ndarray, seed: int) -> torch.Tensor:
        """Return float32 (3, height, width) of (height, width, 3)."""
        generator, py = random_state(seed)
        py.random()
        image = self._run(self._geometry, image, generator, py)
        window = self._window[0]
        window.set_random_state(generator, py)
        drawn = window.get_params()
        if not self.is_windowed:
            width, center = (np.float32(drawn[name]) for name in ("widths", "centers"))
            image = np.clip((image - (center - width / 2)) / width, 0, 1)
        image = self._run(self._intensity, image, generator, py)
        if self.is_windowed:
            image = image.astype(np.float32) / 255
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    @staticmethod
    def _run(transforms: list[Any], image: np.ndarray, generator: Any, py: random.Random) -> Any:
        for transform in transforms:
            transform.set_random_state(generator, py)
            image = transform(image=image)["image"]
        return image


def read_dicom(path: Path) -> np.ndarray:
    """HU of a DICOM file as float32 (rows, columns), as a dataset class of 2019 reads it."""
    dataset = pydicom.dcmread(path)
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    return dataset.pixel_array.astype(np.float32) * slope + intercept


def three_times(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[:, :, None], 3, axis=2)


def write_sources(folder: Path, size: int) -> int:
    """Write the same slices in all forms; return how many there are."""
    data = Path(os.environ.get("ICH_TEST_DATA", ROOT.parent / "shared" / "data"))
    files = sorted((data / "ge_head").glob("*.dcm")) if size == 512 else []
    if not files:
        files = write_dicom(folder, size)
    stack = []
    for number, path in enumerate(files):
        image_hu = read_dicom(path).round().clip(-1024, 31767).astype(np.int16)
        stack.append(image_hu)
        (folder / f"{number}.dcm").write_bytes(path.read_bytes())
        np.save(folder / f"{number}.npy", image_hu)
        grey = np.stack([windowed(image_hu, *window) for window in NETWORK_WINDOWS], axis=-1)
        cv2.imwrite(str(folder / f"{number}.png"), grey)
    write_series(folder / "series.b2nd", stack)
    return len(files)


def write_dicom(folder: Path, size: int) -> list[Path]:
    """Uncompressed DICOM files of discs with noise."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    paths = []
    for number in range(4):
        rng = np.random.default_rng(number)
        image_hu = np.where(np.hypot(x, y) < 0.4 - 0.03 * number, 40, -1000)
        stored = (image_hu + rng.normal(0, 5, image_hu.shape) + 1024).round().astype(np.uint16)
        dataset = examples.ct
        dataset.set_pixel_data(stored, "MONOCHROME2", 16)
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
        paths.append(folder / f"made_{number}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def make_ways(folder: Path, transform: SampleTransform) -> dict[str, Callable[..., Any]]:
    """How each way makes the sample of a slice number and a seed, and of its place in the batch."""
    store = SliceStore(folder)
    in_hu, in_grey = ThreeChannels(transform, False), ThreeChannels(transform, True)
    host = transform.host_part()

    def from_dicom(number: int, seed: int, memory: Memory = None) -> torch.Tensor:
        return in_hu(three_times(read_dicom(folder / f"{number}.dcm")), seed)

    def from_png(number: int, seed: int, memory: Memory = None) -> torch.Tensor:
        image = cv2.imread(str(folder / f"{number}.png"))
        assert image is not None
        return in_grey(image, seed)

    def from_npy(number: int, seed: int, memory: Memory = None) -> torch.Tensor:
        return in_hu(three_times(np.load(folder / f"{number}.npy").astype(np.float32)), seed)

    def from_store(number: int, seed: int, memory: Memory = None) -> torch.Tensor:
        image_hu = store.read("series.b2nd", number)
        return torch.from_numpy(transform(image_hu, seed, memory=memory))

    def from_store_for_device(number: int, seed: int, memory: Memory = None) -> dict[str, Any]:
        image, draws = host(store.read("series.b2nd", number)[None], seed)
        return {"image": torch.from_numpy(image), "draws": draws}

    return dict(zip(WAYS, (from_dicom, from_png, from_npy, from_store, from_store_for_device)))


def processor_seconds(pids: list[int]) -> float:
    """Processor time of this process and the given ones, which must live."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def run_epoch(
    dataset: Slices, batch_size: int, num_workers: int, is_plain: bool
) -> tuple[float, float]:
    """Return samples per second and core, and per second, `is_plain` with torch's own loader."""
    sampler = EpochSampler(len(dataset), seed=0)
    if is_plain:
        loader = DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )
    else:
        loader = make_loader(dataset, batch_size, num_workers, sampler)
    sampler.start(0)
    for _ in loader:  # starts the workers, which stay, and fills the memory that is kept
        pass
    sampler.start(1)
    batches = iter(loader)
    num_samples = len(dataset)
    workers = batches._workers if isinstance(batches, _MultiProcessingDataLoaderIter) else []
    pids = [worker.pid for worker in workers if worker.pid is not None]
    assert len(pids) == loader.num_workers
    processor, wall = processor_seconds(pids), time.perf_counter()
    for _ in range(len(loader)):
        next(batches)
    used, passed = processor_seconds(pids) - processor, time.perf_counter() - wall
    return num_samples / used, num_samples / passed


def profile(folder: Path, transform: SampleTransform, num_slices: int, batch: int) -> dict:
    """Milliseconds a sample of the parts of store+device; the device side here, for comparison."""
    store, host = SliceStore(folder), transform.host_part()
    device = transform.device_part()
    images = [store.read("series.b2nd", number % num_slices)[None] for number in range(batch)]
    parts: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        parts.setdefault(name, []).append(1000 * (time.perf_counter() - start) / batch)
        return result

    for repeat in range(5):
        seeds = [repeat * batch + number for number in range(batch)]
        timed("read the store", lambda: [
            store.read("series.b2nd", number % num_slices) for number in range(batch)
        ])  # fmt: skip
        made = timed("draw", lambda seeds: [host(i, s) for i, s in zip(images, seeds)], seeds)
        stacked = timed("collate", lambda made: default_collate(
            [{"image": torch.from_numpy(image)} for image, _ in made]
        ), made)  # fmt: skip
        rows = np.stack([row for _, row in made])
        result = timed("the device side, on this CPU", device, stacked["image"], rows)
        assert result.dtype == torch.float32 and result.shape[:2] == (batch, 3)
    return {name: statistics.median(values) for name, values in parts.items()}


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    num_slices = write_sources(folder, arguments.size)
    transform = load_transform(TRANSFORM)
    if arguments.size != 512:
        transform = transform.with_size(arguments.size)
    ways = make_ways(folder, transform)
    shapes = {name: tuple(make(0, 1).shape) for name, make in list(ways.items())[:-1]}
    assert set(shapes.values()) == {(3, arguments.size, arguments.size)}, shapes
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(arguments.repeats):
        for num_workers in WORKERS:
            for name, make in ways.items():
                faster = 4 if name == "store+device" else 1
                dataset = Slices(arguments.samples * faster, num_slices, make)
                is_plain = name not in OWN_WAYS
                rate = run_epoch(dataset, arguments.batch_size, num_workers, is_plain)
                rates.setdefault((name, num_workers), []).append(rate)
    medians = {key: [statistics.median(v) for v in zip(*values)] for key, values in rates.items()}
    return {
        "samples_per_second": {
            name: {str(workers): round(medians[name, workers][0], 2) for workers in WORKERS}
            for name in WAYS
        },
        "wall_samples_per_second": {
            name: {str(workers): round(medians[name, workers][1], 2) for workers in WORKERS}
            for name in WAYS
        },
        "ratio_cpu": _ratio(rates, "store+cpu"),
        "ratio_device": _ratio(rates, "store+device"),
        "profile_ms": profile(folder, transform, num_slices, arguments.batch_size),
    }


def _ratio(rates: dict[tuple[str, int], list[tuple[float, float]]], way: str) -> float:
    """Return the lower one, of 0 and 2 workers, of the median ratios of each turn to dicom."""
    return min(
        statistics.median(one[0] / other[0] for one, other in zip(rates[way, n], rates["dicom", n]))
        for n in WORKERS
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=84)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=14)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_freed_memory()  # as train.py does
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(Path(folder), arguments)
    print("samples per second and core (by the wall clock)")
    print(f"{'way':<14}" + "".join(f"{f'{n} workers':>22}" for n in WORKERS))
    for way in WAYS:
        core, wall = figures["samples_per_second"][way], figures["wall_samples_per_second"][way]
        cells = (f"{core[str(n)]:.1f} ({wall[str(n)]:.1f})" for n in WORKERS)
        print(f"{way:<14}" + "".join(f"{cell:>22}" for cell in cells))
    print(f"against dicom: cpu {figures['ratio_cpu']:.1f}, device {figures['ratio_device']:.1f}")
    print("parts of store+device, ms a sample")
    for name, value in figures["profile_ms"].items():
        print(f"  {name:<30}{value:.3f}")
    print_figures(figures)


if __name__ == "__main__":
    main()
