"""Labels that are shares of raters: learned as they are, scored by their majority."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from prepared import write_series_files
from sklearn.metrics import log_loss
from torch.nn.functional import binary_cross_entropy_with_logits

import evaluate
import preprocessing
import train
from common.datasets.loading import make_loader
from common.scoring.metrics import majority
from common.scoring.predictions import read_predictions
from common.slices.table import SliceTable
from config import parse_config
from rsna.build import make_sampler
from rsna.evaluation.run import evaluate as run_evaluation
from rsna.preparation.preparation import preprocess
from rsna.training.folds import make_training
from rsna.training.kinds import build_parts
from rsna_task import LABEL_WEIGHTS, LABELS

# Shares of four raters for `any` and subdural of the four slices of each patient.
SHARES = [[0, 0.25, 0.75, 1], [0.25, 0.5, 0, 0.25], [0.75, 0.75, 0.25, 0.5], [0, 0, 0.25, 1]]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("soft")
    names = ("SOPInstanceUID", *LABELS)
    rows = [",".join(names)]
    for patient, shares in enumerate(SHARES):
        write_series_files(place / "in", f"1.{patient}", PatientID=f"p{patient}")
        rows += [f"1.{patient}.{i},0,0,0,0,{share},{share}" for i, share in enumerate(shares)]
    (place / "labels.csv").write_text("\n".join(rows) + "\n")
    flags = ["--pre_source=dicom", f"--pre_folder={place / 'in'}", "--data_dataset=soft"]
    flags += [f"--pre_labels={place / 'labels.csv'}", "--pre_num_folds=2", "--n_jobs=0"]
    flags += [f"--data_input_folder={place / 'input'}"]
    list(preprocess(parse_config("", preprocessing.GROUPS, flags)))
    return place


def config_of(place: Path, **changes):
    flags = {
        "data_dataset": "soft",
        "data_img_size": 32,
        "net_model": "test_convnext",
        "net_pretrained": 0,
        "net_drop_rate": 0,
        "tr_batch_size": 4,
        "tr_iteration_num": 2,
        "experiment_id": "soft",
        "mlflow_enabled": 0,
        "n_jobs": 0,
        "output_dir": place / "output",
        "data_input_folder": place / "input",
        **changes,
    }
    return parse_config("", train.GROUPS, [f"--{name}={value}" for name, value in flags.items()])


def test_loss_takes_shares_as_they_are(place):
    parts = build_parts(config_of(place))
    labels = parts.data.train.labels
    assert set(np.unique(labels)) >= {0.0, 0.25, 0.75}
    network = parts.make_network([])
    network.model.eval()
    (batch,) = make_loader(parts.data.train, 8, 0)
    with torch.no_grad():
        step = network.training_step(batch)
    losses = binary_cross_entropy_with_logits(
        step.outputs["logits"], torch.from_numpy(labels), reduction="none"
    )
    assert float(step.loss_sum) == pytest.approx(
        float((losses @ torch.tensor(LABEL_WEIGHTS)).sum()) / 7, rel=1e-5
    )


def test_prior_and_samplers_count_the_majority(place):
    config = config_of(place, data_sampler="balanced")
    train_data = build_parts(config).data
    hard = majority(train_data.train.labels)[:, -1]
    n = np.sum(~np.isnan(hard))
    assert train_data.prior[-1] == pytest.approx(np.clip(np.nanmean(hard), 1 / (2 * n), 1))
    sampler = make_sampler(config, train_data.train)
    assert len(sampler.packs[1]) == np.sum(hard == 1)


def test_scores_are_those_of_the_majority(place):
    folder = make_training(config_of(place, data_fold="all")).run().folder
    flags = ["--experiment_id=soft", f"--output_dir={place / 'output'}"]
    list(run_evaluation(parse_config("", evaluate.GROUPS, flags)))
    metrics = json.loads((folder / "metrics.json").read_text())
    table = SliceTable.load(place / "input" / "datasets" / "soft")
    oof = read_predictions(folder / "predictions" / "oof.parquet", LABELS)
    share = table.labels(table.rows_of(oof["image_id"]), ["any"])[:, 0]
    known = share != 0.5  # a tie is unknown
    assert known.sum() == 14 and metrics["num_slices"] == 16  # ties know the other labels
    assert metrics["log_loss"]["any"] == pytest.approx(
        log_loss(share[known] > 0.5, oof["any"][known]), rel=1e-9
    )
    assert sum(metrics["confusion"]["any"].values()) == 14
    # A study has the largest share of its slices; one with a tie and no positive is unknown.
    studies = pd.read_parquet(table.folder / "studies.parquet").set_index("study_id")
    assert studies["any"].tolist() == [1, 0.5, 0.75, 1]
    assert metrics["study"]["num_positive"]["any"] == 3
    lines = [
        json.loads(line) for line in (folder / "fold_0/metrics.jsonl").read_text().splitlines()
    ]
    own = json.loads((folder / "fold_0" / "metrics.json").read_text())
    assert lines[-1]["valid_log_loss.any"] == pytest.approx(own["log_loss"]["any"], rel=1e-6)
