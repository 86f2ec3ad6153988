"""Networks that see whole series, trained as any other: results, resume, prediction."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_dataset import make_tiny_dataset

import train
from common.checkpoint import load_checkpoint
from common.cli import status_of
from common.predictors.base import PredictOptions
from common.predictors.loading import load_predictor
from common.scoring.predictions import read_predictions
from common.slices.store import UnreadableSlice
from common.slices.table import SliceTable
from config import parse_config
from rsna.ensembling.second_level import SecondLevel
from rsna.evaluation.evaluation import evaluate_experiment
from rsna.predictor import Predictor
from rsna.training.folds import make_training
from rsna.training.training import RSNATraining
from rsna_model import RSNAModel, build_model
from rsna_task import LABELS
from scripts import second_level

FLAGS = {
    "data_dataset": "tiny",
    "data_img_size": 32,
    "data_study_thin": 0,
    "data_study_crop": 3,
    "net_pretrained": 0,
    "net_study_dim": 16,
    "net_study_heads": 2,
    "net_study_layers": 1,
    "net_volume_width": 4,
    "net_drop_rate": 0.2,
    "tr_batch_size": 2,
    "tr_iteration_num": 4,
    "tr_iteration_valid": 2,
    "tr_iteration_checkpoint": 1,
    "optim_ema_decay": 0.9,
    "optim_ema_bn_samples": 8,
    "mlflow_enabled": 0,
    "n_jobs": 0,
}
MODELS = {"joint": "joint-test_resnet", "volume": "volume-resnet10"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("series")
    make_tiny_dataset(place / "input" / "datasets" / "tiny", num_patients=6, num_slices=5)
    make_tiny_dataset(place / "input" / "datasets" / "single", num_patients=2, num_slices=1)
    return place


def arguments(place: Path, name: str, **changes) -> list[str]:
    flags = {**FLAGS, "experiment_id": name, **changes}
    flags |= {"output_dir": place / "output", "data_input_folder": place / "input"}
    return [f"--{flag}={value}" for flag, value in flags.items()]


def run(place: Path, name: str, **changes) -> Path:
    config = parse_config("", train.GROUPS, arguments(place, name, **changes))
    return RSNATraining(config).run().folder


@pytest.fixture(scope="module")
def trained(place) -> dict[str, Path]:
    return {kind: run(place, kind, net_model=name) for kind, name in MODELS.items()}


@pytest.mark.parametrize("kind", MODELS)
def test_results_are_those_of_any_experiment(place, trained, kind):
    folder = trained[kind]
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    for name in ("valid", "valid_best"):
        predictions = read_predictions(folder / "predictions" / f"{name}.parquet", LABELS)
        folds = pd.read_csv(table.folder / "folds.csv")
        expected = folds.loc[folds["fold"] == 0, "image_id"]
        assert set(predictions["image_id"]) == set(expected)
    content = json.loads((folder / "predictor" / "predictor.json").read_text())
    assert content["kind"] == kind
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["iteration"] == 4
    assert "patient" not in (folder / "train.log").read_text()


@pytest.mark.parametrize("kind", MODELS)
def test_predictor_gives_what_was_validated(place, trained, kind):
    predictor = load_predictor(trained[kind] / "predictor", build_model)
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    valid = pd.read_parquet(trained[kind] / "predictions" / "valid.parquet")
    # A part of the rows, in another order: each is seen within its whole series.
    part = valid.iloc[[7, 2, 11]]
    result = predictor.predict_rows(
        table, table.rows_of(part["image_id"]), PredictOptions(with_features=True)
    )
    expected = part[[f"logit_{name}" for name in LABELS]].to_numpy()
    np.testing.assert_allclose(result.logits, expected, atol=1e-5)
    assert result.features is not None and result.features.shape[0] == 3
    views = predictor.predict_rows(
        table, table.rows_of(part["image_id"]), PredictOptions(views=["flip_lr"])
    )
    assert not np.allclose(views.logits, result.logits, atol=1e-6)


def test_unreadable_slices_have_the_prior(place, trained):
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    frame = table.frame.copy()
    frame.loc[3, ["status", "store_index", "store_file", "rank"]] = ["bad", None, None, None]
    table = SliceTable(frame, table.folder)
    read = table.image_hu

    def image_hu(row: int) -> np.ndarray:
        if row in (0, 5, 6, 7, 8, 9):  # a slice, and a whole series
            raise UnreadableSlice("checksum")
        return read(row)

    table.image_hu = image_hu  # type: ignore[method-assign]
    predictor = load_predictor(trained["volume"] / "predictor", build_model)
    prediction = Predictor(predictor).predict_table(table)
    assert len(prediction.predictions) == len(frame)
    unread = prediction.filled["image_id"].tolist()
    assert unread == [table.image_id(row) for row in (0, 3, 5, 6, 7, 8, 9)]
    rows = prediction.predictions.set_index("image_id").loc[unread, list(LABELS)]
    np.testing.assert_allclose(rows, np.tile(predictor.prior, (7, 1)), atol=1e-6)


@pytest.mark.parametrize("kind", ["joint", pytest.param("volume", marks=pytest.mark.long)])
def test_resume_is_bit_identical(monkeypatch, place, trained, kind, capsys):
    name = f"{kind}_stopped"
    flags = arguments(place, name, net_model=MODELS[kind], tr_max_hours=1e-9)
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    assert status_of(train.main) == 143
    assert "--tr_resume 1" in capsys.readouterr().err
    places = [flag for flag in flags if flag.startswith(("--output_dir", "--data_input_folder"))]
    again = [f"--experiment_id={name}", "--tr_resume=1", "--tr_max_hours=0", *places]
    monkeypatch.setattr(sys, "argv", ["train.py", *again])
    assert status_of(train.main) == 0
    folder = place / "output" / "results" / name
    one, other = (load_checkpoint(f / "checkpoints" / "last.pt") for f in (trained[kind], folder))
    for key, value in one["model"].items():
        assert torch.equal(value, other["model"][key]), key
    tables = [pd.read_parquet(f / "predictions" / "valid.parquet") for f in (trained[kind], folder)]
    tables = [table.drop(columns="experiment_id") for table in tables]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_frozen_encoder_is_that_of_the_slice_experiment(place):
    weights = place / "slices.pt"
    torch.manual_seed(5)
    encoder = RSNAModel("test_resnet")
    for name, value in encoder.state_dict().items():
        if "running_mean" in name:
            value.normal_()
    torch.save(encoder.state_dict(), weights)
    flags = {"net_model": MODELS["joint"], "net_encoder_frozen": 1, "net_weight_file": weights}
    folder = run(place, "frozen", **flags, net_encoder_slices=4)
    state = torch.load(folder / "predictor" / "model.pt", weights_only=True)
    for name, value in encoder.state_dict().items():
        assert torch.equal(state[f"encoder.{name}"], value), name
    assert state["sequence.head.weight"].any()


@pytest.mark.long
def test_whole_joint_network_is_a_start_too(place, trained):
    weights = trained["joint"] / "predictor" / "model.pt"
    flags = {"net_model": MODELS["joint"], "net_weight_file": weights, "dev_enabled": 1}
    folder = run(place, "again", **flags, dev_iteration_num=1, dev_num_studies=4, n_jobs=1)
    assert len(pd.read_parquet(folder / "predictions" / "valid.parquet")) == 5


@pytest.mark.long
def test_layer_decay_and_subset_validation(place):
    flags = {"net_model": MODELS["joint"], "optim_layer_decay": 0.5, "tr_iteration_num": 2}
    flags |= {"tr_iteration_valid": 1, "tr_iteration_valid_full": 2, "tr_valid_subset": 1}
    folder = run(place, "decay", **flags)
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    evaluation = evaluate_experiment(folder, table)
    assert evaluation.place.report_file.is_file() and evaluation.metrics["num_slices"] == 15
    assert "valid_subset_weighted_log_loss" in (folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net_model": "volume-x"}, "volume-x: no such network"),
        ({"net_model": "joint-nonsense"}, "--net_model nonsense: neither an alias"),
        ({"net_model": "joint-test_resnet", "data_sampler": "balanced"}, "sees whole series"),
        ({"net_model": "joint-test_resnet", "net_study_dim": 18}, "must be a multiple of 4"),
        (
            {"net_model": "volume-resnet10", "data_volume_spacing": 1, "data_img_size": 0},
            "0.1 to 5",
        ),
        (
            {"net_model": "test_efficientnet", "tr_batch_size": 1},
            "--tr_batch_size 1: batches of one, but batch norm of test_efficientnet",
        ),
        (
            {"net_model": "test_efficientnet", "tr_batch_size": 4, "data_dataset": "single"},
            "--data_dataset single with 1 slice to train on: batches of one",
        ),
        (
            {"net_model": "joint-test_efficientnet", "net_encoder_slices": 1},
            "--net_encoder_slices 1: batches of one, but batch norm of joint-test_efficientnet",
        ),
        (
            {"net_model": "volume-resnet10", "optim_layer_decay": 0.5},
            "volume-resnet10 does not say",
        ),
    ],
)
def test_unusable_flags_are_refused(monkeypatch, place, capsys, changes, message):
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments(place, "refused", **changes)])
    assert status_of(train.main) == 2
    assert message in capsys.readouterr().err
    assert not (place / "output" / "results" / "refused").exists()


@pytest.mark.long
def test_volume_on_a_grid_in_mm_predicts_with_the_same_grid(place):
    folder = run(place, "grid", net_model=MODELS["volume"], data_volume_spacing=1.0)
    content = json.loads((folder / "predictor" / "predictor.json").read_text())
    assert content["series_pixels"] == {
        "brain_crop": False,
        "head_crop": False,
        "spacing_mm": 1.0,
        "size": 32,
    }
    predictor = load_predictor(folder / "predictor", build_model)
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    valid = pd.read_parquet(folder / "predictions" / "valid.parquet")
    result = predictor.predict_rows(table, table.rows_of(valid["image_id"]))
    expected = valid[[f"logit_{name}" for name in LABELS]].to_numpy()
    np.testing.assert_allclose(result.logits, expected, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("kind", MODELS)
def test_all_folds_are_one_experiment_that_a_second_level_takes(place, kind):
    """train.py --data_fold all, then scripts/second_level.py over it."""
    flags = arguments(place, f"{kind}_all", net_model=MODELS[kind], data_fold="all")
    folder = make_training(parse_config("", train.GROUPS, flags)).run().folder
    oof = read_predictions(folder / "predictions" / "oof.parquet", LABELS)
    assert len(oof) == 30 and oof["fold"].nunique() == 2
    flags = [flag for flag in flags if "folder" in flag or "output_dir" in flag]
    flags += [f"--sl_experiments={kind}_all", f"--experiment_id={kind}_smooth"]
    above = SecondLevel(parse_config("", second_level.GROUPS, flags)).run().folder
    predictor = load_predictor(above / "predictor", build_model)
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    assert np.isfinite(predictor.predict_rows(table, np.arange(8)).logits).all()
    assert evaluate_experiment(above, table).metrics["num_slices"] == 30
