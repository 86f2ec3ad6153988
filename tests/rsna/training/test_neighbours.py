"""Trainings on several slices and any number of windows, from flags to predictions."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_dataset import make_tiny_dataset

from common.errors import InputError
from common.experiment import Experiment
from common.predictors.base import PredictOptions
from common.predictors.loading import load_predictor
from common.slices.table import SliceTable
from config import parse_config
from flags.data import DataConfig
from flags.network import NetworkConfig
from rsna.data import image_shape, load_data, neighbour_offsets
from rsna.evaluation.evaluation import evaluate_on_dataset
from rsna.training.training import RSNATraining
from rsna_model import build_model
from rsna_task import LABELS
from train import GROUPS

OWN = "common.albumentations."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neighbours")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny")
    make_tiny_dataset(folder / "input" / "datasets" / "other", num_patients=2)
    return folder


def config_of(place: Path, *flags: str) -> Any:
    return parse_config(
        "Test.",
        GROUPS,
        [
            *("--data_dataset", "tiny", "--data_input_folder", str(place / "input")),
            *("--output_dir", str(place / "output"), "--data_img_size", "32"),
            *("--net_model", "test_efficientnet", "--net_pretrained", "0"),
            *("--tr_iteration_num", "2", "--tr_batch_size", "4", "--tr_iteration_valid", "0"),
            *("--n_jobs", "0", "--mlflow_enabled", "0", *flags),
        ],
    )


def transform_file(path: Path, *nodes: dict[str, Any]) -> str:
    resize = {"__class_fullname__": "Resize", "height": 32, "width": 32}
    compose = {"__class_fullname__": "Compose", "p": 1.0, "transforms": [resize, *nodes]}
    path.write_text(json.dumps({"__version__": "2.0.8", "transform": compose}))
    return str(path)


def fixed_windows(*windows: tuple[float, float]) -> dict[str, Any]:
    centers, widths = zip(*windows)
    limits = {f"window_width_{end}": widths for end in ("mins", "maxs")}
    limits |= {f"window_center_{end}": centers for end in ("mins", "maxs")}
    return {"__class_fullname__": OWN + "DicomWindowShift", **limits}


def test_nine_channels_are_trained_predicted_and_evaluated_alike(place: Path) -> None:
    flags = ["--data_neighbors", "1", "--data_neighbor_mm", "5", "--net_pooling", "gem"]
    flags += ["--net_head", "mlp", "--net_num_dropouts", "2", "--optim_layer_decay", "0.8"]
    flags += ["--optim_ema_decay", "0.9", "--optim_ema_bn_samples", "8"]
    flags += ["--tr_iteration_valid", "1", "--tr_iteration_valid_full", "2"]
    training = RSNATraining(config_of(place, *flags, "--tr_valid_subset", "1"))
    assert training.parts.model.backbone.conv_stem.in_channels == 9
    assert training.parts.data.train[0]["image"].shape == (9, 32, 32)
    folder = training.run().folder
    content = json.loads((folder / "predictor" / "predictor.json").read_text())
    assert content["slice_offsets"] == [-1, 0, 1] and content["offsets_mm"] == [-5, 0, 5]
    expected = {"in_chans": 9, "pooling": "gem", "head": "mlp", "image_size": None}
    assert expected.items() <= content["model"].items()
    predictor = load_predictor(folder / "predictor", build_model)
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    validated = pd.read_parquet(folder / "predictions" / "valid.parquet")
    logits = predictor.predict_rows(table, table.rows_of(validated["image_id"])).logits
    expected = validated[[f"logit_{label}" for label in LABELS]].to_numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.long
def test_evaluation_on_another_dataset_sees_the_neighbours(place: Path) -> None:
    flags = ["--data_neighbors", "1", "--data_neighbor_mm", "5"]
    folder = RSNATraining(config_of(place, *flags)).run().folder
    other = SliceTable.load(place / "input" / "datasets" / "other")
    evaluation = evaluate_on_dataset(Experiment(folder), other, "other", PredictOptions())
    assert evaluation.metrics["num_slices"] == len(other)
    assert "-5 mm, itself, +5 mm" in evaluation.place.report_file.read_text()
    predictor = load_predictor(folder / "predictor", build_model)
    frame = pd.read_parquet(evaluation.place.folder / "predictions.parquet")
    logits = predictor.predict_rows(other, other.rows_of(frame["image_id"])).logits
    expected = frame[[f"logit_{label}" for label in LABELS]].to_numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_offsets_follow_the_flags() -> None:
    def offsets(num: int, mm: float = 0.0) -> Any:
        return neighbour_offsets(DataConfig(data_neighbors=num, data_neighbor_mm=mm))

    assert offsets(0) == ((0,), ())
    assert offsets(2) == ((-2, -1, 0, 1, 2), ())
    assert offsets(2, 2.5) == ((-2, -1, 0, 1, 2), (-5, -2.5, 0, 2.5, 5))
    assert offsets(0, 2.5) == ((0,), ())  # and a warning: no effect


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        (DataConfig, "data_neighbors", -1),
        (DataConfig, "data_neighbors", 11),
        (DataConfig, "data_neighbor_mm", -2.0),
        (DataConfig, "data_neighbor_mm", float("nan")),
        (NetworkConfig, "net_num_dropouts", 0),
    ],
)
def test_values_that_make_no_sense_are_refused(group: Any, name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{name}"):
        group(**{name: value})


@pytest.mark.parametrize(
    ("node", "num_channels"),
    [
        (fixed_windows((40, 80)), 1),
        (fixed_windows((40, 80), (80, 200)), 2),
        ({"__class_fullname__": OWN + "HeaderWindow"}, 1),
    ],
)
def test_any_number_of_windows_is_taken(
    place: Path, tmp_path: Path, node: dict[str, Any], num_channels: int
) -> None:
    path = transform_file(tmp_path / "own.json", node)
    names = ("data_train_transform", "data_valid_transform", "data_test_transform")
    flags = [value for name in names for value in (f"--{name}", path)]
    for num_slices, more in ((1, []), (3, ["--data_neighbors", "1"])):
        config = config_of(place, *flags, *more)
        assert image_shape(config) == (num_slices * num_channels, 32, 32)
        data = load_data(config, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
        assert data.valid[0]["image"].shape[0] == num_slices * num_channels
        means = data.valid.transform.pipeline.normalization.mean
        assert means == pytest.approx((0.5,))


def test_pipelines_that_do_not_agree_are_refused_with_file_and_flag(
    place: Path, tmp_path: Path
) -> None:
    path = transform_file(tmp_path / "one.json", fixed_windows((40, 80)))
    message = r"--data_{}_transform: .*one\.json: .*1 channels of a slice instead of 3"
    for side in ("valid", "test"):
        with pytest.raises(InputError, match=message.format(side)):
            RSNATraining(config_of(place, f"--data_{side}_transform", path))


def test_nets_of_one_size_take_that_of_the_images_and_no_other(place: Path, tmp_path: Path) -> None:
    flags = ["--net_model", "test_maxvit", "--data_neighbors", "1"]
    training = RSNATraining(config_of(place, *flags))
    assert training.parts.model.specification["image_size"] == [32, 32]
    size = ["--data_img_size", "0", "--data_train_transform"]
    own = transform_file(tmp_path / "small.json")
    with pytest.raises(InputError, match=r"--data_valid_transform.*one size only"):
        RSNATraining(config_of(place, *flags, *size, own))


@pytest.mark.long
def test_header_windows_and_swaps_resume_and_predict_through_the_scripts(
    place: Path, tmp_path: Path, project_root: Path
) -> None:
    """Three slices through the headers' windows; interrupted, resumed bit for bit, predicted."""
    dataset = make_tiny_dataset(place / "input" / "datasets" / "headers")
    slices = dataset / "slices.parquet"
    frame = pd.read_parquet(slices)
    frame["window_center"], frame["window_width"] = 45.0, 90.0
    frame.loc[:3, "window_width"] = None
    frame.loc[frame["store_file"] == frame["store_file"].iloc[-1], "position_mm"] = None
    frame.to_parquet(slices)
    header = {"__class_fullname__": OWN + "HeaderWindow"}
    swap = {"__class_fullname__": OWN + "NeighborSwap", "p": 0.5}
    train = transform_file(tmp_path / "train.json", swap, header)
    valid = transform_file(tmp_path / "valid.json", header)
    flags = ["--data_dataset", "headers", "--data_train_transform", train]
    flags += ["--data_valid_transform", valid]
    flags += ["--data_test_transform", train, "--data_neighbors", "1", "--data_neighbor_mm", "10"]
    flags += ["--tr_iteration_num", "30", "--tr_iteration_checkpoint", "1", "--n_jobs", "1"]

    def run(script: str, *arguments: str) -> tuple[int, str]:
        result = subprocess.run(
            [sys.executable, script, *arguments],
            cwd=project_root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stderr

    config = config_of(place, *flags)
    own = [f"--{name}={value}" for name, value in config.flags().items() if name in config.given]
    output = f"--output_dir={place / 'output'}"
    status, log = run("train.py", *own, "--experiment_id=straight")
    assert status == 0, log
    assert "lack a window in their header: 40/80" in log
    assert "lack positions: neighbours by number" in log
    status, log = run("train.py", *own, "--experiment_id=cut", "--tr_max_hours=1e-9")
    assert status == 143, log
    again = ["--experiment_id=cut", "--tr_resume=1", "--tr_max_hours=0", output]
    status, log = run("train.py", *again)
    assert status == 0, log
    results = place / "output" / "results"
    one, other = (
        torch.load(results / name / "predictor" / "model.pt", weights_only=True)
        for name in ("straight", "cut")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    out = tmp_path / "predicted"
    inputs = [f"--pr_input={dataset}", f"--pr_output={out}", "--pr_tta=2", output]
    status, log = run("predict.py", "--experiment_id=cut", *inputs)
    assert status == 0, log
    assert "prediction: 4 of 24 slices lack a window in their header" in log
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert len(predictions) == len(frame)
    assert np.isfinite(predictions[list(LABELS)].to_numpy()).all()
