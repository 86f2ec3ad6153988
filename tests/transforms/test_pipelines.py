"""The JSON files in transforms/: generated, complete, deterministic where they must be."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from common.transforms import SampleTransform, load_transform
from common.transforms.catalog import name_of

FOLDER = Path(__file__).resolve().parents[2] / "transforms"
SIZES = {
    "ipan2026_train": 512,
    "ipan2026_valid": 512,
    "train_intermediate": 512,
    "train_complex": 512,
    "train_complex_norm": 512,
    "train_complex_512": 512,
    "train_complex_410_norm": 410,
    "validate_simple": 512,
    "valid_simple_512": 512,
    "valid_simple_410_norm": 410,
    "test_simple": 512,
    "test_intermediate_tta_512": 512,
    "test_intermediate_tta_410_norm": 410,
    "test_intermediate_tta_500_norm": 500,
    "train_small": 192,
    "valid_small": 192,
    "train_levels": 64,
    "tta_small": 192,
    **{f"ct_ich_{use}": 192 for use in ("train", "valid", "physics")},
    "ct_physics": 256,
    "ct_physics_strong": 256,
    **{f"appian_{use}": 512 for use in ("train", "valid", "tta")},
    **{f"takmanman_{use}": 200 for use in ("train", "valid", "tta")},
    **{f"rsna_hemorrhage_{use}": 410 for use in ("train", "valid", "tta")},
    **{f"first_place_{use}": 256 for use in ("train", "valid", "tta")},
    **{f"efficientnet_d4_{use}": 512 for use in ("train", "valid", "tta")},
    **{f"efficientnet_d4_resnext_{use}": 410 for use in ("train", "valid")},
    **{f"efficientnet_d4_224_{use}": 224 for use in ("train", "valid")},
    **{f"best_{use}": 512 for use in ("train", "valid", "tta")},
}
# One channel a slice, in the window of its header; the others have three windows.
OF_HEADER = ("takmanman", "first_place")
NORMALIZED = (
    "ipan2026",
    "appian",
    "rsna_hemorrhage",
    "train_intermediate",
    "validate_simple",
    "test_simple",
)
# The systems that turn heads upside down, or flip them.
TURNED = ("efficientnet_d4", "ipan2026")
DETERMINISTIC = {
    "validate_simple",
    "valid_simple_512",
    "valid_simple_410_norm",
    "test_simple",
    "valid_small",
    *(name for name in SIZES if name.endswith("_valid")),
}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_transforms", FOLDER / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def head() -> np.ndarray:
    """A disc of brain with blood on one side in a ring of bone, in HU, as each of three slices."""
    y, x = np.mgrid[:256, :256]
    radius = np.hypot((y - 128) / 1.2, x - 128)
    image = np.full((256, 256), -1024, np.int16)
    image[radius < 95] = 1200
    image[radius < 87] = 35
    image[100:130, 150:180] = 70
    return np.stack([image] * 3, axis=2)


def test_files_are_those_the_script_generates(generator: ModuleType) -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SIZES)
    for name, document in generator.generate().items():
        saved = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        assert saved == document, f"run python transforms/generate.py: {name}.json is not current"


@pytest.mark.parametrize("name", sorted(SIZES))
def test_pipeline(name: str) -> None:
    transform = load_transform(FOLDER / f"{name}.json")
    size = SIZES[name]
    num_windows = 1 if name.startswith(OF_HEADER) else 3
    assert transform.output_size == (size, size) and transform.num_windows == num_windows
    assert transform.is_deterministic == (name in DETERMINISTIC)
    assert transform.has_normalize == (name.endswith("norm") or name.startswith(NORMALIZED))
    images = [transform(head(), seed) for seed in range(6)]
    for image in images:
        assert image.shape == (3 * num_windows, size, size) and np.isfinite(image).all()
    is_same = all(np.array_equal(images[0], image) for image in images)
    assert is_same == (name in DETERMINISTIC)
    small = transform.with_size(96)(head()[:, :, 0], 0)
    assert small.shape == (num_windows, 96, 96)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_every_argument_is_explicit(name: str) -> None:
    document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert SampleTransform.from_dict(document).to_dict() == document
    for node in document["transform"]["transforms"]:
        assert "p" in node
        if "border_mode" in node:
            assert node["fill"] == -1024


@pytest.mark.parametrize("name", sorted(SIZES))
def test_strengths_suit_a_head(name: str) -> None:
    """Heads stay upright, HU stay absolute, noise is at most 7 grey levels of 255."""
    nodes = load_transform(FOLDER / f"{name}.json").pipeline.nodes
    names = {name_of(node) for node in nodes}
    turns = names & {"VerticalFlip", "Transpose", "RandomRotate90", "D4"}
    assert bool(turns) == (name.startswith(TURNED) and not name.endswith("_valid"))
    for node in nodes:
        if name_of(node) == "GaussNoise":
            assert min(node["std_range"]) * 255 >= 1 and max(node["std_range"]) * 255 <= 7.1
        if name_of(node) in ("DicomWindowShift", "HeaderWindow"):
            assert node["min_max_normalize"] is False
        if name_of(node) in ("Rotate", "Affine"):
            assert max(node.get("limit", node.get("rotate"))) <= 45


def test_validation_sees_the_whole_slice() -> None:
    image = load_transform(FOLDER / "valid_small.json")(head()[:, :, 0], 0)
    brain = np.clip(cv2.resize(head()[:, :, 0].astype(np.float32), (192, 192)) / 80, 0, 1)
    assert np.abs(image[0] - brain).mean() < 0.01
