"""A predictor small enough to be passed on: what it says, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from predictor_factory import make_dataset, make_predictor

from common.ensembling.blending import Blender, BlendOptions
from common.ensembling.smoothing import Smoothing
from common.errors import InputError
from common.predictors.blend import BlendPredictor
from common.predictors.loading import load_predictor
from common.predictors.second_level import SecondLevelPredictor
from common.scoring.predictions import Calibration
from rsna.releases.writing import write_half
from rsna_model import RSNAModel, build_model
from rsna_task import LABEL_WEIGHTS, LABELS


def make_blend(num_members: int = 1) -> BlendPredictor:
    """A calibrated blend of a second level over one slice network, or over several."""
    shared = {"label_names": LABELS, "label_weights": LABEL_WEIGHTS, "prior": np.full(6, 0.1)}
    members = []
    for seed in range(num_members):
        torch.manual_seed(seed)
        network = RSNAModel("test_resnet")
        members.append(make_predictor(network=network, model=network.specification))
    smoothing = Smoothing("gaussian", "slices", "probabilities", (1.0,) * 6)
    level = SecondLevelPredictor(members=members, levels={0: smoothing}, **shared)
    blender = Blender(BlendOptions("mean"), ((1.0,),) * 6, (0.0,) * 6)
    calibration = Calibration((2.0,) * 6, (0.5,) * 6)
    return BlendPredictor(
        members=[level], member_names=["one"], blender=blender, calibration=calibration, **shared
    )


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "net"
    write_half(make_blend(), folder)
    return folder


def test_it_predicts_as_before_but_for_the_rounding(released: Path, tmp_path: Path) -> None:
    table = make_dataset(tmp_path / "data")
    rows = np.arange(len(table))
    expected = make_blend().predict_rows(table, rows)
    found = load_predictor(released, build_model).predict_rows(table, rows)
    np.testing.assert_array_equal(found.unreadable, expected.unreadable)
    np.testing.assert_allclose(found.logits, expected.logits, atol=0.02)
    assert not np.array_equal(found.logits, expected.logits)


def test_its_weights_are_half_as_large_and_the_only_ones(released: Path, tmp_path: Path) -> None:
    make_blend().save(tmp_path / "whole")
    (whole,) = (tmp_path / "whole").rglob("model.pt")
    (half,) = released.rglob("*.safetensors")
    assert not list(released.rglob("*.pt"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size


def test_other_bytes_are_refused(released: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(released, folder)
    (path,) = folder.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        load_predictor(folder, build_model)


def test_several_networks_are_not_passed_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 networks"):
        write_half(make_blend(2), tmp_path / "two")


def test_weights_beyond_float16_are_not_passed_on(tmp_path: Path) -> None:
    blend = make_blend()
    with torch.no_grad():
        next(blend.members[0].members[0].network.parameters()).fill_(1e6)
    with pytest.raises(InputError, match="float16"):
        write_half(blend, tmp_path / "large")
