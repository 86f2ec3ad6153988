"""The imported release gives what its authors' code gave, through the one path of data.

The weights are made by rule (`rule.py` beside the golden numbers), so none of the release's own
are needed.
"""

import importlib.util
import json
import socket
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import InputError
from common.models import build_series_model, hub
from common.predictors.base import PredictOptions
from common.predictors.loading import load_predictor
from common.predictors.sequence import StudyPredictor
from common.slices.store import write_series
from common.slices.table import SLICE_COLUMNS, STORE_FOLDER, SliceTable
from common.tables import write_parquet
from config import Config
from rsna.predictor import Predictor
from rsna.releases import ipan2026
from rsna.releases.importing import import_release
from rsna_dataset import find_transform
from rsna_model import build_model
from rsna_task import LABELS

SHARES = {
    "slice_blend_alphas": [0.75, 0.75, 0.75, 0.75, 0.75, 1.0],
    "series_blend_alphas": [0.5, 0.25, 0.5, 1.0, 0.5, 0.5],
}
TOLERANCE = 1e-4  # of logits; other processors round differently


@pytest.fixture(scope="module")
def published(test_data: Path) -> Path:
    return test_data / "published"


@pytest.fixture(scope="module")
def rule(published: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location("rule", published / "rule.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden(published: Path) -> dict[str, Any]:
    return dict(json.loads((published / "ipan2026_outputs.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def release(published: Path, rule: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    keys = json.loads((published / "ipan2026_keys.json").read_text("utf-8"))
    for name, shapes in keys.items():
        state = {
            key: torch.zeros(
                shape, dtype=torch.int64 if key.endswith("batches_tracked") else torch.float32
            )
            for key, shape in shapes.items()
        }
        (folder / name).parent.mkdir(parents=True)
        save_file(rule.fill(state), folder / name)
    config = {"labels": list(LABELS), "training_max_sequence_length": 64, **SHARES}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


@pytest.fixture(scope="module")
def predictor(release: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyPredictor:
    """The predictor as a user gets it: imported, written and read back."""
    output = str(tmp_path_factory.mktemp("output"))
    config = Config().with_flags(im_source=str(release), output_dir=output)
    experiment = import_release(config)
    loaded = load_predictor(experiment.predictor, build_model)
    assert isinstance(loaded, StudyPredictor)
    assert loaded.training["experiment_id"] == experiment.id == "0001"
    assert loaded.training["licence"] == "MIT" and loaded.training["trained_on"] == "rsna"
    return loaded


@pytest.fixture(scope="module")
def volumes(rule: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> SliceTable:
    folder = tmp_path_factory.mktemp("volumes")
    records: list[dict[str, Any]] = []
    for name in rule.SHAPES:
        image_hu = rule.volume(name).astype(np.int16)
        write_series(folder / STORE_FOLDER / f"{name}.b2nd", image_hu)
        for place, _ in enumerate(image_hu):
            records.append(
                dict.fromkeys(("patient_id", "study_id", "series_id"), name)
                | {"image_id": f"{name}_{place}", "status": "ok", "split": "train"}
                | {"position_mm": 5.0 * place, "rank": place, "num_slices": len(image_hu)}
                | {"store_file": f"{name}.b2nd", "store_index": place}
                | {"rows": image_hu.shape[1], "columns": image_hu.shape[2]}
                | {"keep_for_training": True}
            )
    frame = pd.DataFrame(records).reindex(columns=list(SLICE_COLUMNS)).astype(SLICE_COLUMNS)
    write_parquet(folder / "slices.parquet", frame.assign(**dict.fromkeys(LABELS, np.nan)))
    return SliceTable.load(folder)


@pytest.mark.parametrize("name", ["plain", "large", "small", "between"])
def test_input_is_that_of_the_release(name: str, volumes: SliceTable, golden: dict[str, Any]):
    """Windows, zeros past the ends, and size: the mean of each slab before normalization."""
    transform = find_transform("data_valid_transform", ipan2026.TRANSFORM, 0, (0.5,), (0.5,))
    rows = np.flatnonzero(volumes.frame["series_id"] == name)
    assert ipan2026.FLAGS["data_neighbor_end"] == "air"
    for row, mean in zip(rows, golden[name]["input_checksum"]["mean"], strict=True):
        neighbours = volumes.sample_rows(int(row), (-1, 0, 1), past_end="air")
        air_hu = np.full_like(volumes.image_hu(int(row)), -1024)
        slab = [air_hu if other < 0 else volumes.image_hu(other) for other in neighbours]
        image = transform(np.stack(slab, axis=-1), 0)
        assert image.shape == (9, 512, 512)
        assert image.mean() / 2 + 0.5 == pytest.approx(mean, abs=1e-6)


def test_sequence_network_of_a_series_longer_than_it_takes(
    release: Path, rule: ModuleType, golden: dict[str, Any]
):
    settings = ipan2026._read_settings(release / "config.json")
    network = build_series_model(
        {"name": "study-pooled", "num_labels": 6, "feature_dim": 512, "hidden": 256}
        | {"num_layers": 2, "pool_hidden": 128, **settings}
    ).eval()
    ipan2026._load(network, release / ipan2026.SEQUENCE_WEIGHTS, ipan2026._SEQUENCE_NAMES)
    features = torch.from_numpy(rule.features())
    batch = {
        "features": [torch.stack([features, torch.zeros_like(features)])],
        "logits": torch.stack([features[:, :6], torch.full((70, 6), 9.0)]),
        "lengths": torch.tensor([70, 3]),  # one that is padded beside it
    }
    with torch.inference_mode():
        outputs = network(batch)
    expected = golden["sequence_of_70"]
    np.testing.assert_allclose(outputs["logits"][0], expected["slice_logits"], atol=TOLERANCE)
    np.testing.assert_allclose(
        outputs["series_logits"][0], expected["series_logits"], atol=TOLERANCE
    )
    # Shares of 1: what the GRUs and the pool say alone.
    network.slice_shares.fill_(1.0)
    network.series_shares.fill_(1.0)
    with torch.inference_mode():
        outputs = network(batch)
    for ours, theirs in (("logits", "slice"), ("series_logits", "series")):
        np.testing.assert_allclose(
            outputs[ours][0], expected[f"contextual_{theirs}_logits"], atol=TOLERANCE
        )


@pytest.mark.long
def test_numbers_of_the_authors_code(
    predictor: StudyPredictor, volumes: SliceTable, golden: dict[str, Any]
):
    """Features, slice network, blend and series, for all volumes in one call."""
    rows = np.arange(len(volumes))
    result = predictor.predict_rows(volumes, rows)
    slices = predictor.slice_predictors[0].predict_rows(
        volumes, rows, PredictOptions(with_features=True)
    )
    assert result.series_logits is not None and slices.features is not None
    for name in volumes.frame["series_id"].unique():
        of_name, expected = (volumes.frame["series_id"] == name).to_numpy(), golden[name]
        pairs = (
            (slices.features[of_name, :8], "pooled_first8"),
            (slices.logits[of_name], "base_slice_logits"),
            (result.logits[of_name], "slice_logits"),
            (result.series_logits[of_name], "series_logits"),
        )
        for found, key in pairs:
            wanted = np.broadcast_to(expected[key], found.shape)
            np.testing.assert_allclose(found, wanted, atol=TOLERANCE, err_msg=f"{name} {key}")


@pytest.mark.long
def test_studies_have_the_logits_of_the_series(predictor: StudyPredictor, volumes: SliceTable):
    """In studies.csv as in the scores of evaluate.py, unless studies are calibrated."""
    prediction = Predictor(predictor).predict_table(volumes)
    result = predictor.predict_rows(volumes, np.arange(len(volumes)))
    assert result.series_logits is not None
    first = volumes.frame.drop_duplicates("series_id").index
    ours = prediction.studies.set_index("study_id").loc[volumes.frame["study_id"][first]]
    expected = 1 / (1 + np.exp(-result.series_logits[first].astype(np.float64)))
    np.testing.assert_allclose(ours[list(LABELS)].to_numpy(np.float64), expected, rtol=1e-6)
    assert predictor.study_rule == "the network's own, of the used series"


def test_prior_is_that_of_the_challenge():
    assert ipan2026.PRIOR[-1] == pytest.approx(0.1440, abs=5e-5)
    assert ipan2026.PRIOR[:-1].max() < ipan2026.PRIOR[-1] < ipan2026.PRIOR[:-1].sum()


def broken(release: Path, folder: Path, **changes: Any) -> Path:
    """A copy of the release without the slice weights, its config.json changed."""
    (folder / "sequence").mkdir(parents=True)
    content = json.loads((release / "config.json").read_text("utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(content), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": ["any", *LABELS[:-1]]}, "another release"),
        ({"slice_blend_alphas": [0.5] * 5}, "6 shares from 0 to 1"),
        ({"series_blend_alphas": [1.5] * 6}, "6 shares from 0 to 1"),
        ({"training_max_sequence_length": None}, "not the config.json of this release"),
    ],
)
def test_settings_of_another_release_are_refused(release, tmp_path, changes, problem):
    folder = broken(release, tmp_path / "release", **changes)
    with pytest.raises(InputError, match=problem):
        ipan2026._read_settings(folder / "config.json")


def test_shares_may_be_given_by_label(release, tmp_path):
    by_label = dict(zip(LABELS, SHARES["slice_blend_alphas"], strict=True))
    folder = broken(release, tmp_path / "release", slice_blend_alphas=by_label)
    settings = ipan2026._read_settings(folder / "config.json")
    assert settings["slice_shares"] == SHARES["slice_blend_alphas"]


@pytest.mark.parametrize("damage", ["truncated", "missing key", "other shape", "not finite"])
def test_damaged_weights_are_refused(release, tmp_path, damage):
    path = tmp_path / "model.safetensors"
    state = load_file(release / ipan2026.SEQUENCE_WEIGHTS)
    name = "slice_head.bias"
    if damage == "missing key":
        del state[name]
    elif damage == "other shape":
        state[name] = torch.zeros(5)
    elif damage == "not finite":
        state[name][2] = torch.nan
    save_file(state, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    settings = ipan2026._read_settings(release / "config.json")
    network = build_series_model(
        {"name": "study-pooled", "num_labels": 6, "feature_dim": 512, "hidden": 256}
        | {"num_layers": 2, "pool_hidden": 128, **settings}
    )
    problem = "can't be read" if damage == "truncated" else f"of this release.*{name}"
    with pytest.raises(InputError, match=rf"model\.safetensors.*{problem}"):
        ipan2026._load(network, path, ipan2026._SEQUENCE_NAMES)


@pytest.mark.parametrize("source", ["/nowhere/release", "./release", "no-address"])
def test_a_source_that_is_neither_folder_nor_address(source, tmp_path):
    config = Config().with_flags(im_source=source, output_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"--im_source.*no such folder.*hub address"):
        import_release(config)
    assert not any(tmp_path.iterdir())


def test_a_folder_without_a_file_of_the_release(tmp_path):
    config = Config().with_flags(im_source=str(tmp_path), output_dir=str(tmp_path / "output"))
    with pytest.raises(InputError, match=r"--im_source.*config\.json is missing"):
        import_release(config)


def test_a_silent_hub_is_refused_within_5_s(tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub import constants, snapshot_download  # its imports are not measured

    assert snapshot_download
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "TIMEOUT_S", 0.5)  # test_hub.py looks at what it is
    config = Config().with_flags(im_source="some/release", output_dir=str(tmp_path / "output"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        started = time.monotonic()
        with pytest.raises(InputError, match=r"--im_source some/release: can't be had"):
            import_release(config)
        assert time.monotonic() - started < 5
    assert not (tmp_path / "output").exists()
