"""Engines from the command line and from Python: exported, asked for, without torch."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from predictor_factory import make_dataset, make_predictor
from torch import nn

from common.errors import InputError
from common.preparation.workers.runner import TaskRunner
from config import Config, parse_config
from evaluate import GROUPS as EVALUATE_GROUPS
from rsna.evaluation.exporting import export
from rsna.evaluation.prediction import predict
from rsna.evaluation.run import evaluate
from rsna_model import build_model
from rsna_task import LABELS

# Runs predict.py, then a warm predictor on a volume, and fails where torch or timm was imported.
WITHOUT_TORCH = """
import sys
import numpy as np
import predict
predict.main()
from rsna.predictor import Predictor
hu = np.full((4, 64, 64), 40)
hu[:, :8] = -1000
warm = Predictor.open(sys.argv[2], engine="float32")
assert len(warm.predict_volume(hu, (5.0, 3.0, 3.0)).predictions) == 4
assert len(warm.predict_volume(hu, (5.0, 3.0, 3.0)).studies) == 1
found = {"torch", "timm", "torchvision"} & sys.modules.keys()
assert not found, found
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("engines")
    make_dataset(root / "datasets" / "tiny")
    torch.manual_seed(0)
    network = build_model({"name": "test_efficientnet", "num_classes": len(LABELS), "in_chans": 3})
    nn.init.normal_(network.classifier.weight, std=30)
    training = {"experiment_id": "0001", "dataset": "another"}
    changes = {"network": network.eval(), "model": network.specification, "training": training}
    make_predictor(**changes).save(root / "net")
    return root


@pytest.fixture(scope="module")
def lines(place) -> list[str]:
    flags = {"pr_predictor": str(place / "net"), "data_dataset": "tiny", "n_jobs": 0}
    return list(export(Config().with_flags(**flags, data_input_folder=str(place))))


def predicted(place, name, **flags) -> pd.DataFrame:
    paths = {"pr_input": str(place / "datasets" / "tiny"), "pr_output": str(place / name)}
    flags |= {"pr_predictor": str(place / "net"), "n_jobs": 0, "pr_pages": 0}
    config = Config().with_flags(**flags, **paths)
    list(predict(config, TaskRunner(0)))
    return pd.read_csv(place / name / "studies.csv")


def test_an_export_says_what_it_changes(lines, place):
    assert "float32: probabilities differ" in lines[0] and "slices of tiny" in lines[0]
    kept = json.loads((place / "net" / "predictor.json").read_text())["engine"]["measured"]
    assert f"log loss {kept['float32']['log_loss']:.5f}" in lines[0]
    assert "--pr_engine openvino" in lines[-1]


def test_predict_takes_the_engine_that_is_asked_for(lines, place):
    in_torch = predicted(place, "torch")
    found = predicted(place, "openvino", pr_engine="openvino")
    names = list(LABELS)
    assert in_torch[names].to_numpy().std(axis=0).min() > 1e-4
    np.testing.assert_allclose(found[names], in_torch[names], atol=1e-5)
    pd.testing.assert_frame_equal(found.drop(columns=names), in_torch.drop(columns=names))


def test_an_engine_predicts_without_torch(lines, place, project_root):
    flags = ["--pr_predictor", str(place / "net"), "--pr_engine", "openvino", "--n_jobs", "0"]
    flags += ["--pr_input", str(place / "datasets" / "tiny"), "--pr_output", str(place / "out")]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *flags],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (place / "out" / "studies.csv").is_file()


def test_flags_that_do_not_go_with_an_engine(caplog):
    with pytest.raises(InputError, match="--pr_engine openvino runs on the CPU"):
        parse_config("", ("general", "engine"), ["--pr_engine", "openvino", "--device", "cuda"])
    parse_config("", ("general", "engine"), ["--pr_precision", "bf16"])
    assert "--pr_precision has no effect without --pr_engine openvino" in caplog.text


def test_evaluate_says_what_ran_the_networks(lines, place):
    flags = ["--pr_predictor", str(place / "net"), "--data_input_folder", str(place)]
    flags += ["--data_dataset", "tiny", "--n_jobs", "0"]
    found = {}
    for engine in ("torch", "openvino"):
        list(evaluate(parse_config("", EVALUATE_GROUPS, [*flags, "--pr_engine", engine])))
        file = place / "net" / "evaluations" / "tiny" / "metrics.json"
        found[engine] = json.loads(file.read_text())
    assert found["torch"]["engine"] is None
    assert found["openvino"]["engine"] == "openvino float32"
    losses = [each["weighted_log_loss"] for each in found.values()]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert found["torch"]["weights_sha256"] == found["openvino"]["weights_sha256"]
