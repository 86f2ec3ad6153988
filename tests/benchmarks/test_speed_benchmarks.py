"""The benchmarks of speed run at toy size and end with their JSON."""

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmarks import loader, predictor, transforms
from benchmarks.loader import make_ways, write_sources
from common.transforms import load_transform


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run a benchmark's main with flags; give its table and its figures."""

    def run(module: ModuleType, *flags: str) -> tuple[str, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", [str(module.__file__), *flags])
        module.main()
        *table, last = capsys.readouterr().out.splitlines()
        return "\n".join(table), json.loads(last)

    num_threads = torch.get_num_threads(), cv2.getNumThreads()
    yield run
    torch.set_num_threads(num_threads[0])
    cv2.setNumThreads(num_threads[1])


@pytest.mark.long
def test_loader(run: Any) -> None:
    flags = ("--repeats", "1", "--samples", "4", "--size", "48", "--batch_size", "2")
    table, figures = run(loader, *flags)
    ways = {"dicom", "png", "npy", "store+cpu", "store+device"}
    assert set(figures["samples_per_second"]) == ways and all(way in table for way in ways)
    for rates in figures["samples_per_second"].values():
        assert set(rates) == {"0", "2"} and all(rate > 0 for rate in rates.values())
    assert figures["ratio_cpu"] > 0 and figures["ratio_device"] > 0


@pytest.mark.long
def test_predictor(run: Any, test_data: Path, tmp_path: Path) -> None:
    for file in sorted((test_data / "ge_head").glob("*.dcm"))[:6]:
        (tmp_path / file.name).symlink_to(file)
    table, figures = run(predictor, "--folder", str(tmp_path), "--repeats", "1")
    assert "6 slices, the volume (6, 512, 512)" in table
    parts = ("study", "predicting", "network")
    for one, part_of_it in pairwise(parts):
        assert figures[one][2] > 0.5 * figures[part_of_it][2] > 0  # beside other programs
    assert {"import", "open", "first study", *parts, "volume", "peak_memory_mb"} < set(figures)


@pytest.mark.long
def test_transforms(run: Any) -> None:
    table, figures = run(transforms, "--size", "48", "--repeats", "1")
    of_pipelines, alone = figures["pipelines"], figures["alone, windows included"]
    assert set(of_pipelines) == set(transforms.PIPELINES) and "DoseNoise" in alone
    for name, both in (of_pipelines | alone).items():
        assert name in table and len(both) == 2 and min(both) > 0


def test_all_ways_of_the_loader_show_the_same_image(tmp_path: Path) -> None:
    """But for noise: what is compared is the same work."""
    transform = load_transform(Path("transforms/train_complex_512.json")).with_size(64)
    assert write_sources(tmp_path, 64) > 0
    made = {name: make(1, 9) for name, make in make_ways(tmp_path, transform).items()}
    device = made.pop("store+device")
    images = {name: image.numpy() for name, image in made.items()}
    images["device"] = transform.device_part()(device["image"][None], device["draws"][None])[0]
    for name, image in images.items():
        image = np.asarray(image)
        assert image.dtype == np.float32 and image.shape == (3, 64, 64)
        assert np.corrcoef(image.ravel(), images["store+cpu"].ravel())[0, 1] > 0.9, name
