"""A head over a frozen encoder through train.py: features kept, predictor, resume, refusals."""

import json
import logging
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from slice_experiments import make_slice_experiment
from timm.models._hub import save_for_hf
from tiny_dataset import make_tiny_dataset

import evaluate
import predict
import train
from common.checkpoint import load_checkpoint
from common.cli import status_of
from common.predictors.base import PredictOptions
from common.predictors.loading import load_predictor
from common.slices.table import SliceTable
from rsna_model import build_model
from rsna_task import LABELS

FLAGS = {
    "data_dataset": "tiny",
    "net_model": "study-linear",
    "net_encoder": "test_resnet",
    "net_pretrained": 0,
    "data_img_size": 32,
    "tr_iteration_num": 6,
    "tr_batch_size": 2,
    "tr_batch_size_valid": 8,
    "tr_iteration_valid": 3,
    "tr_iteration_checkpoint": 2,
    "optim_ema_decay": 0.9,
    "mlflow_enabled": 0,
    "n_jobs": 0,
}
EXTRACTED, KEPT = "extracting features of the encoder: 32 slices", ", kept in"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("frozen")
    make_tiny_dataset(folder / "input" / "datasets" / "tiny", num_patients=8)
    torch.manual_seed(3)
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    save_file({f"encoder.{name}": value for name, value in state.items()}, folder / "e.safetensors")
    return folder


def run(monkeypatch, place: Path, script, experiment: str, **flags) -> int:
    values = {"experiment_id": experiment, "output_dir": place / "output", **flags}
    if script is not predict:
        values["data_input_folder"] = place / "input"
    arguments = [f"--{name}={value}" for name, value in values.items()]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *arguments])
    return status_of(script.main)


def results(place: Path, experiment: str) -> Path:
    return place / "output" / "results" / experiment


def test_all_folds_share_features_and_the_predictor_gives_what_was_validated(
    place, monkeypatch, capsys, caplog
):
    """With three slices as channels and the encoder of a file; the head is another command's."""
    caplog.set_level(logging.INFO)
    flags = {**FLAGS, "data_neighbors": 1, "net_weight_file": place / "e.safetensors"}
    assert run(monkeypatch, place, train, "all", **flags, data_fold="all") == 0, capsys.readouterr()
    assert caplog.text.count(EXTRACTED) == 1 and caplog.text.count(KEPT) == 1
    assert "2 tensors left out" in caplog.text and "encoder.fc.weight" in caplog.text
    caplog.clear()
    gru = {**flags, "net_model": "study-bigru", "net_study_dim": 8, "net_study_hidden": 4}
    assert run(monkeypatch, place, train, "gru", **gru) == 0
    assert EXTRACTED not in caplog.text

    # The predictor stands alone: neither the file nor the stored features are needed.
    folder = results(place, "all")
    alone = shutil.copytree(folder / "fold_1" / "predictor", place / "alone")
    valid = pd.read_parquet(folder / "fold_1" / "predictions" / "valid.parquet")
    columns = [f"logit_{label}" for label in LABELS]
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    found = load_predictor(alone, build_model).predict_rows(table, table.rows_of(valid["image_id"]))
    np.testing.assert_allclose(found.logits, valid[columns], atol=2e-3)
    assert valid["logit_any"].std() > 1e-3

    dataset, output = place / "input" / "datasets" / "tiny", place / "predicted"
    assert (
        run(monkeypatch, place, predict, "all", pr_input=dataset, pr_output=output, n_jobs=0) == 0
    )
    assert len(pd.read_csv(output / "studies.csv")) == 8
    assert run(monkeypatch, place, evaluate, "all", data_dataset="tiny", n_jobs=0) == 0
    content = json.loads((folder / "predictor" / "predictor.json").read_text())
    record = content["training"]["encoder"]
    assert record["source"] == "file e.safetensors" and len(record["sha256"]) == 64
    for report in folder.rglob("report.html"):
        assert "file e.safetensors, licence: none stated" in report.read_text(), report
        assert str(place) not in report.read_text()


def test_it_starts_at_the_prior(place, monkeypatch, capsys):
    flags = {**FLAGS, "tr_iteration_num": 1, "optim_scheduler_max_lr": 1e-12}
    assert run(monkeypatch, place, train, "start", **flags) == 0, capsys.readouterr().err
    prior = json.loads((results(place, "start") / "predictor" / "predictor.json").read_text())
    valid = pd.read_parquet(results(place, "start") / "predictions" / "valid.parquet")
    for label in LABELS:
        np.testing.assert_allclose(valid[label], prior["prior"][label], atol=1e-5)


def test_resume_is_bit_identical_and_wants_the_same_encoder(place, monkeypatch, capsys):
    weights = place / "own.safetensors"
    shutil.copy(place / "e.safetensors", weights)
    flags = {**FLAGS, "net_weight_file": weights}
    assert run(monkeypatch, place, train, "whole", **flags) == 0, capsys.readouterr().err
    assert run(monkeypatch, place, train, "halves", **flags, tr_max_hours=1e-9) == 143
    shutil.copytree(results(place, "halves"), results(place, "other"))
    assert run(monkeypatch, place, train, "halves", tr_resume=1, tr_max_hours=0) == 0
    one, two = (
        load_checkpoint(results(place, name) / "checkpoints" / "last.pt")["model"]
        for name in ("whole", "halves")
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    torch.manual_seed(8)
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    capsys.readouterr()
    assert run(monkeypatch, place, train, "other", tr_resume=1, tr_max_hours=0) == 2
    assert "not those that the checkpoint was made" in capsys.readouterr().err


def test_other_pixels_or_transforms_are_extracted_anew(place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    assert run(monkeypatch, place, train, "first", **FLAGS, seed=5) == 0
    store = next((place / "input" / "datasets" / "tiny" / "store").glob("*.b2nd"))
    times = store.stat()
    slices = place / "input" / "datasets" / "tiny" / "slices.parquet"
    changes = ({"data_img_size": 48}, {"net_pooling": "max"}, {}, "pixels", "spacing")
    for number, change in enumerate(changes):
        caplog.clear()
        if change == "spacing":
            frame = pd.read_parquet(slices)
            frame.assign(spacing_row=frame["spacing_row"].fillna(0.4) * 1.1).to_parquet(slices)
            change = {}
        if change == "pixels":
            os.utime(store, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
            change = {}
        flags = {**FLAGS, "seed": 5, **change}
        assert run(monkeypatch, place, train, f"again{number}", **flags) == 0
        assert (EXTRACTED in caplog.text) == (number != 2), (number, caplog.text)


def test_kept_features_that_are_damaged_are_extracted_anew(place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    flags = {**FLAGS, "seed": 5, "data_img_size": 40}
    assert run(monkeypatch, place, train, "sound", **flags) == 0
    newest = max((place / "output" / "features").glob("*/encoder.b2nd"), key=os.path.getmtime)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    for number, damaged in enumerate((content, content[: len(content) // 2])):
        newest.write_bytes(damaged)
        caplog.clear()
        assert run(monkeypatch, place, train, f"damaged{number}", **flags) == 0
        assert "extracted anew" in caplog.text and EXTRACTED in caplog.text
    one, two = (
        load_checkpoint(results(place, name) / "checkpoints" / "last.pt")["model"]
        for name in ("sound", "damaged1")
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_dev_mode_extracts_only_what_it_needs(place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    flags = {**FLAGS, "dev_enabled": 1, "dev_num_studies": 3, "seed": 6}
    assert run(monkeypatch, place, train, "dev", **flags) == 0
    assert "extracting features of the encoder: 12 slices" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data_features": "0001"}, "--data_features or --net_encoder, and not both"),
        ({"net_encoder": "resnett18"}, "--net_encoder resnett18: neither an alias"),
        ({"pr_tta_views": "flip"}, "--pr_tta, --pr_tta_views"),
        ({"net_weight_file": "/no/such.pt"}, "--net_weight_file /no/such.pt: no such file"),
        ({"net_encoder": "test_vit"}, ""),
    ],
)
def test_unusable_flags_are_refused_before_a_folder_is_made(
    place, monkeypatch, capsys, flags, message
):
    expected = 2 if message else 0
    assert run(monkeypatch, place, train, "refused", **{**FLAGS, **flags}) == expected
    assert message in capsys.readouterr().err
    assert results(place, "refused").exists() == (not message)


def test_a_linear_head_needs_features(place, monkeypatch, capsys):
    flags = {name: value for name, value in FLAGS.items() if name != "net_encoder"}
    assert run(monkeypatch, place, train, "refused2", **flags, data_features="0001") == 2
    assert "--net_model study-linear needs features" in capsys.readouterr().err


def test_a_slice_network_of_a_folder_stands_alone_bit_for_bit(place, monkeypatch, capsys):
    """Trained on, with three slices as channels and a mean and std of its own."""
    source = timm.create_model("test_resnet", num_classes=3)
    source.pretrained_cfg.update(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), license="mit")
    save_for_hf(source, place / "enc", safe_serialization=True)
    flags = {**FLAGS, "net_model": place / "enc", "net_pretrained": 1, "data_neighbors": 1}
    del flags["net_encoder"]
    assert run(monkeypatch, place, train, "folder", **flags) == 0, capsys.readouterr().err
    shutil.rmtree(place / "enc")
    folder = results(place, "folder")
    content = json.loads((folder / "predictor" / "predictor.json").read_text())
    assert "0.1" in json.dumps(content["transform"]) and str(place) not in json.dumps(content)
    record = content["training"]["encoder"]
    assert (record["source"], record["licence"]) == ("folder enc", "mit")
    assert run(monkeypatch, place, evaluate, "folder") == 0
    assert "folder enc, licence: mit" in (folder / "report.html").read_text()
    predictor = load_predictor(folder / "predictor", build_model)
    assert predictor.transform.pipeline.normalization.mean[:3] == (0.1, 0.2, 0.3)
    table = SliceTable.load(place / "input" / "datasets" / "tiny")
    valid = pd.read_parquet(folder / "predictions" / "valid.parquet")
    rows = table.rows_of(valid["image_id"])
    found = predictor.predict_rows(table, rows, PredictOptions(batch_size=8))
    columns = [f"logit_{label}" for label in LABELS]
    np.testing.assert_array_equal(found.logits, valid[columns].to_numpy(np.float32))


def test_a_slice_experiment_of_ones_own_is_an_encoder_for_its_folds(
    place, monkeypatch, capsys, caplog
):
    slices = make_slice_experiment(place, "slices", "tiny", model="test_resnet")
    own = f"{slices}/fold_{{fold}}/predictor/model.pt"
    other = {**FLAGS, "net_weight_file": own.format(fold=1)}
    assert run(monkeypatch, place, train, "leak", **other) == 2
    assert "it has seen the patients that fold 0 validates" in capsys.readouterr().err
    caplog.set_level(logging.INFO)
    right = {**FLAGS, "net_weight_file": own}
    assert run(monkeypatch, place, train, "head", **right, data_fold="all") == 0
    assert caplog.text.count(EXTRACTED) == 2
    weights = load_checkpoint(Path(own.format(fold=1)))
    frozen = results(place, "head") / "fold_1" / "predictor" / "slices_0" / "model.pt"
    for name, value in load_checkpoint(frozen).items():
        assert torch.equal(value, weights[name]) or name.startswith("classifier")
