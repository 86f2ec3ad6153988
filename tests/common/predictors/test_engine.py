import json
import logging
import os
import pickle
import shutil
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from predictor_factory import build_network, make_dataset, make_predictor
from torch import nn

from common.errors import InputError
from common.features.slice_outputs import Scaling
from common.models.study import SEQUENCE_MODELS, build_sequence_model
from common.predictors import engine, engine_files
from common.predictors.base import AbstractPredictor, PredictOptions
from common.predictors.engine_files import export_engines
from common.predictors.folds import FoldsPredictor
from common.predictors.loading import load_predictor
from common.predictors.sequence import StudyPredictor
from common.predictors.series import JointPredictor
from common.scoring.calibration import Calibration
from common.scoring.predictions import probabilities_of
from common.slices.table import SliceTable
from rsna_model import build_model
from rsna_task import LABEL_WEIGHTS, LABELS

OPTIONS = PredictOptions(batch_size=5)
TINY = {"name": "test_efficientnet", "num_classes": len(LABELS), "in_chans": 3}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> SliceTable:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


MODEL = {"name": "tiny", "num_classes": len(LABELS), "in_chans": 3}


class WithFeatures(nn.Module):
    """The tiny network, which gives its features too."""

    feature_dim = 4

    def __init__(self, model: dict) -> None:
        super().__init__()
        *body, self.forward_head = build_network(model)
        self.forward_features = nn.Sequential(*body)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(image))


def networks_of(model: dict) -> nn.Module:
    kinds = {"tiny": build_network, "features": WithFeatures}
    return kinds.get(model["name"], build_model)(model)


def timm_predictor(seed: int = 0) -> AbstractPredictor:
    torch.manual_seed(seed)
    network = build_model(TINY)
    nn.init.normal_(network.classifier.weight)
    return make_predictor(network=network.eval(), model=network.specification)


def exported(predictor: AbstractPredictor, folder, table: SliceTable):
    predictor.save(folder)
    export_engines(load_predictor(folder, networks_of), folder, table, "tiny", OPTIONS)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, table) -> Path:
    return exported(make_predictor(), tmp_path_factory.mktemp("tiny"), table)


@pytest.fixture
def folder(tmp_path, tiny) -> Path:
    """A predictor with its engine, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "net"))


def study_predictor(name: str) -> StudyPredictor:
    models = [{**MODEL, "name": "features", "seed": seed} for seed in (1, 2)]
    slices = [make_predictor(network=WithFeatures(m).eval(), model=m) for m in models]
    torch.manual_seed(3)
    dim = slices[0].network.feature_dim
    network = build_sequence_model(
        {"name": name, "num_labels": len(LABELS), "feature_dims": [dim], "num_networks": 2}
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    scaling = Scaling(np.full(dim, 0.1, np.float32), np.full(dim, 0.5, np.float32))
    return StudyPredictor(
        network=network.eval(),
        slice_predictors=slices,
        scalings=[None, scaling],
        slice_views=[(("plain",), "logits")] * 2,
        label_names=LABELS,
        label_weights=LABEL_WEIGHTS,
        prior=np.full(len(LABELS), 0.2),
    )


def assert_same(folder, table, options=OPTIONS) -> None:
    rows = np.arange(len(table))
    in_torch = load_predictor(folder, networks_of).predict_rows(table, rows, options)
    found = load_predictor(folder, networks_of, "float32").predict_rows(table, rows, options)
    assert np.ptp(in_torch.logits[table.readable], axis=0).min() > 1e-3
    np.testing.assert_allclose(
        probabilities_of(found.logits), probabilities_of(in_torch.logits), atol=1e-5
    )
    np.testing.assert_array_equal(found.unreadable, in_torch.unreadable)
    if options.with_features:
        np.testing.assert_allclose(found.features, in_torch.features, rtol=1e-3, atol=1e-4)


def test_an_engine_predicts_what_torch_does_whatever_the_batch_views_and_workers(tmp_path, table):
    folder = exported(
        make_predictor(calibration=Calibration((1.5,) * 6, (0.1,) * 6)), tmp_path, table
    )
    views = ("plain", "flip_lr", "random_1")
    assert_same(folder, table)
    assert_same(folder, table, PredictOptions(batch_size=7, num_workers=2, views=views))


def test_an_engine_gives_the_features(tmp_path, table):
    folder = exported(timm_predictor(), tmp_path, table)
    assert_same(folder, table, PredictOptions(batch_size=4, with_features=True))


def test_a_conversion_sends_no_statistics(tiny):
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_engines_of_sequence_networks(tmp_path, table, name):
    folder = exported(study_predictor(name), tmp_path, table)
    assert_same(folder, table)
    again = load_predictor(folder, networks_of, "float32")
    again.save(tmp_path / "copy")  # the weights are those of torch
    rows = np.arange(len(table))
    np.testing.assert_array_equal(
        load_predictor(tmp_path / "copy", networks_of).predict_rows(table, rows, OPTIONS).logits,
        load_predictor(folder, networks_of).predict_rows(table, rows, OPTIONS).logits,
    )


def test_engines_of_all_folds(tmp_path, table):
    members = {0: make_predictor(), 2: make_predictor(network=build_network({**MODEL, "seed": 9}))}
    folder = exported(FoldsPredictor(members), tmp_path, table)
    assert_same(folder, table)
    assert_same(folder / "fold_2", table)
    kept = json.loads((folder / "predictor.json").read_text())["engine"]["measured"]
    assert kept["dataset"] == "tiny" and kept["num_slices"] == int(table.readable.sum())
    assert kept["float32"]["largest_difference"] < 1e-5
    assert abs(kept["float32"]["log_loss"] - kept["float32"]["log_loss_in_torch"]) < 1e-5


def test_an_opened_engine_can_be_pickled_and_has_gradients_in_torch(tiny, table):
    opened = load_predictor(tiny, build_network, "float32")
    before = opened.predict_rows(table, [0, 1], OPTIONS)
    other = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(other.predict_rows(table, [0, 1], OPTIONS).logits, before.logits)
    assert isinstance(opened.network.in_torch(), nn.Sequential)


def test_bf16_is_used_only_where_it_was_measured(tmp_path, table, monkeypatch):
    monkeypatch.setattr(engine_files, "has_bf16", lambda: False)
    folder = exported(make_predictor(), tmp_path, table)
    monkeypatch.setattr(engine, "has_bf16", lambda: True)
    with pytest.raises(InputError, match=r"--pr_precision bf16: .* not measured"):
        load_predictor(folder, build_network, "bf16")
    monkeypatch.setattr(engine, "has_bf16", lambda: False)
    with pytest.raises(InputError, match="--pr_precision bf16: this processor has none"):
        load_predictor(folder, build_network, "bf16")


@pytest.mark.skipif(not engine.has_bf16(), reason="this processor has no bf16")
def test_what_bf16_changes_is_kept(tmp_path, table):
    folder = exported(timm_predictor(), tmp_path, table)
    kept = json.loads((folder / "predictor.json").read_text())["engine"]["measured"]["bf16"]
    rows = np.flatnonzero(table.readable)
    p, q = (
        probabilities_of(load_predictor(folder, networks_of, how).predict_rows(table, rows).logits)
        for how in (None, "bf16")
    )
    assert 1e-5 < np.abs(p - q).max() < 0.2
    assert kept["largest_difference"] == pytest.approx(np.abs(p - q).max(), rel=0.5)


def swap_weights(folder):
    make_predictor(network=build_network({**MODEL, "seed": 8})).save(folder / "other")
    content = json.loads((folder / "predictor.json").read_text())
    shutil.move(folder / "other" / "model.pt", folder / "model.pt")
    other = json.loads((folder / "other" / "predictor.json").read_text())
    content["weights_sha256"] = other["weights_sha256"]
    (folder / "predictor.json").write_text(json.dumps(content))


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap_weights, "made of other weights"),
        (lambda folder: flip_a_byte(folder / "model.pt"), r"model\.pt is damaged"),
        (lambda folder: flip_a_byte(folder / "engine.bin"), r"engine\.bin is missing, damaged"),
        (lambda folder: flip_a_byte(folder / "engine.xml"), r"engine\.xml is missing, damaged"),
        (lambda folder: (folder / "engine.bin").unlink(), r"engine\.bin is missing, damaged"),
        (lambda folder: make_predictor().save(folder), "has no engine: make one"),
    ],
)
def test_an_engine_that_is_not_of_the_weights_beside_it_is_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        load_predictor(folder, build_network, "float32")


def test_an_engine_that_differs_is_refused_and_nothing_is_left(tmp_path, table, monkeypatch):
    make_predictor().save(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}

    class Other(engine_files.OfImages):
        def forward(self, image):
            return self.network(image) + 0.002

    monkeypatch.setattr(engine_files, "OfImages", Other)
    with pytest.raises(InputError, match=r"off that of torch, more than 0\.0001: nothing was"):
        export_engines(load_predictor(tmp_path, build_network), tmp_path, table, "tiny", OPTIONS)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_a_network_that_can_not_be_converted_is_refused(tmp_path, table):
    class Loop(nn.Module):
        def forward(self, image):
            return torch.linalg.eigvals(image[:, 0]).real[:, :6]

    predictor = make_predictor(network=Loop())
    predictor.save(tmp_path)
    root = logging.getLogger()
    before = root.level, list(root.filters)
    with pytest.raises(InputError, match="OpenVINO can't run this network"):
        export_engines(predictor, tmp_path, table, "tiny", OPTIONS)
    assert (root.level, root.filters) == before, "later warnings are heard"
    joint = JointPredictor(**{name: getattr(predictor, name) for name in FIELDS})
    with pytest.raises(InputError, match="no engine is made of networks of the kind 'joint'"):
        export_engines(joint, tmp_path, table, "tiny", OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "predictor.json"]


FIELDS = ("network", "model", "label_names", "label_weights", "transform", "prior")


def test_a_missing_package_is_one_line_with_the_command(tmp_path, table, monkeypatch):
    make_predictor().save(tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"pip install -r requirements/engine\.txt"):
        load_predictor(tmp_path, build_network, "float32")


SIGNALLED = """
import gc, signal, subprocess, sys
from predictor_factory import build_network, make_dataset
from pathlib import Path
from common.predictors.base import PredictOptions
from common.predictors.engine import has_bf16
from common.predictors.loading import load_predictor
table = make_dataset(Path(sys.argv[2]))
signal.signal(signal.SIGCHLD, lambda *_: None)
opened = []
for _ in range(3):
    has_bf16()
    opened.append(load_predictor(Path(sys.argv[1]), build_network, "float32"))
    opened[-1].predict_rows(table, [0, 1], PredictOptions())
while opened:
    del opened[0]
    gc.collect()
subprocess.run(["true"], check=True)
"""


def test_signals_are_handled_after_engines_are_gone(tmp_path, tiny):
    done = warm.run(["-c", SIGNALLED, tiny, tmp_path / "other"])
    assert done.returncode == 0, done.stderr


class Killed:
    """Samples of which the last kills the process that makes it."""

    def __len__(self) -> int:
        return 8

    def sample(self, place: int) -> dict:
        if place == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"index": np.array(place)}


def test_a_process_that_is_killed_ends_the_others_and_the_prediction():
    with pytest.raises(BrokenProcessPool):
        list(engine._batches(Killed(), 1, 2))
