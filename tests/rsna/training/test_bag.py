"""Slice networks that learn from labels of studies: pooling, terms, results, resume, processes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_dataset import make_tiny_dataset
from torch.nn.functional import binary_cross_entropy_with_logits

import train
from common.checkpoint import load_checkpoint
from common.datasets.loading import make_loader
from common.errors import InputError
from common.experiment import Experiment
from common.predictors.loading import load_predictor
from common.scoring.predictions import SERIES_LOGIT, read_predictions, series_probabilities
from common.slices.folds import FOLDS_FILE
from common.slices.study_labels import LABELS_OF_STUDY
from common.slices.table import SliceTable
from config import parse_config
from rsna.evaluation.evaluation import evaluate_experiment, evaluate_on_dataset
from rsna.evaluation.prediction import predict_options
from rsna.predictor import Predictor
from rsna.training.folds import make_training
from rsna.training.kinds import build_parts
from rsna_model import build_model
from rsna_network import study_metrics
from rsna_task import CHALLENGE, LABEL_WEIGHTS, LABELS, SUBTYPES

ROOT = Path(__file__).resolve().parents[3]
FLAGS = {
    "net_model": "bag-test_convnext",
    "data_img_size": 32,
    "data_bag_slices": 3,
    "net_pretrained": 0,
    "net_drop_rate": 0,
    "tr_batch_size": 4,
    "tr_iteration_num": 4,
    "tr_iteration_valid": 2,
    "tr_iteration_checkpoint": 1,
    "mlflow_enabled": 0,
    "n_jobs": 0,
}


def label_studies(folder: Path, patients: list[int], soft: bool = False) -> None:
    """Take the labels of patients' slices away and give their studies the largest."""
    slices = pd.read_parquet(folder / "slices.parquet")
    names = list(LABELS)
    studies = slices.groupby("study_id")[["patient_id", *names]].max().reset_index()
    chosen = [f"patient{number}" for number in patients]
    given = studies["patient_id"].isin(chosen)
    if soft:  # two of three raters
        studies.loc[given, names] = studies.loc[given, names].clip(1 / 3, 2 / 3)
    studies["label_source"] = given.map({True: LABELS_OF_STUDY, False: "slices"})
    slices.loc[slices["patient_id"].isin(chosen), names] = np.nan
    slices.to_parquet(folder / "slices.parquet")
    studies.to_parquet(folder / "studies.parquet")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("bags")
    datasets = place / "input" / "datasets"
    for name, chosen in (("mixed", [0, 1, 4, 5]), ("studies", list(range(8)))):
        folder = make_tiny_dataset(datasets / name, num_patients=8, num_slices=5)
        label_studies(folder, chosen, soft=name == "mixed")
    make_tiny_dataset(datasets / "slices", num_patients=8, num_slices=5)
    return place


def arguments(place: Path, name: str, **changes) -> list[str]:
    flags = {"data_dataset": "mixed", **FLAGS, "experiment_id": name, **changes}
    flags |= {"output_dir": place / "output", "data_input_folder": place / "input"}
    return [f"--{flag}={value}" for flag, value in flags.items()]


def config_of(place: Path, name: str, **changes):
    return parse_config("", train.GROUPS, arguments(place, name, **changes))


def run(place: Path, name: str, **changes) -> Path:
    return make_training(config_of(place, name, **changes)).run().folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoints" / "last.pt")["model"]


@pytest.mark.parametrize("pooling", ["max", "lse", "attention"])
def test_each_known_label_is_one_term_whatever_the_batches(place, pooling):
    parts = build_parts(config_of(place, "terms", net_bag_pooling=pooling, data_bag_slices=0))
    with torch.no_grad():
        for parameter in parts.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network, train_data = parts.make_network([]), parts.data.train
    network.model.eval()
    steps = {}
    for size in (1, 4):
        with torch.no_grad():
            found = [network.training_step(batch) for batch in make_loader(train_data, size, 0)]
        steps[size] = [float(sum(getattr(s, n) for s in found)) for n in ("loss_sum", "num_terms")]
    assert steps[1] == pytest.approx(steps[4], rel=1e-5)
    outputs = network.predict(make_loader(train_data, 4, 0))
    loss, terms = 0.0, 0.0
    weights = torch.tensor(LABEL_WEIGHTS)
    pairs = [(outputs["logits"], train_data.labels)]
    pairs.append((outputs["series_logits"][::5], train_data.series_labels))
    for logits, labels in pairs:
        known = ~np.isnan(labels).any(axis=1)
        z, y = torch.from_numpy(logits[known]).float(), torch.from_numpy(labels[known])
        loss += float((binary_cross_entropy_with_logits(z, y, reduction="none") @ weights).sum())
        terms += int(known.sum())
    assert steps[4] == pytest.approx([loss / 7, terms], rel=1e-5)
    # Two of four training studies have labelled slices; all four have a label of their own.
    assert terms == 2 * 5 + 4


def test_labels_of_studies_are_smoothed_in_training(place):
    parts = build_parts(config_of(place, "x", data_dataset="studies", tr_label_smoothing=0.2))
    network = parts.make_network([])
    network.model.eval()
    batch = next(iter(make_loader(parts.data.train, 4, 0)))
    with torch.no_grad():
        step, z = network.training_step(batch), network._forward(batch)["series_logits"]
    y, weights = 0.8 * batch["series_labels"] + 0.1, torch.tensor(LABEL_WEIGHTS)
    wanted = (binary_cross_entropy_with_logits(z, y, reduction="none") @ weights).sum() / 7
    assert (float(step.loss_sum), step.num_terms) == (pytest.approx(float(wanted), rel=1e-5), 4)


def test_studies_are_validated_by_their_majority_each_once():
    shares, samples = np.array([2 / 3, 1 / 3, 1 / 2]), np.array([0, 0, 0, 1, 2])
    of_series = np.repeat(np.array([2.0, 1.0, 9.0])[:, None], len(LABELS), axis=1)
    labels = np.repeat(shares[:, None], len(LABELS), axis=1)
    outputs = {"sample": samples, "series_logits": of_series[samples]}
    found = study_metrics({**outputs, "series_labels": labels[samples]}, CHALLENGE)
    assert found["study_auc.any"] == 1
    wanted = (np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 2
    assert found["study_weighted_log_loss"] == pytest.approx(wanted)


def test_training_sees_at_most_so_many_slices_and_validation_all(place):
    data = build_parts(config_of(place, "spread")).data
    seen = [data.train[(epoch, 0)]["index"] for epoch in range(40)]
    assert {len(index) for index in seen} == {3}
    assert all(bool((index.diff() > 0).all()) for index in seen)
    # Each slice is as likely as any other.
    shares = torch.bincount(torch.cat(seen), minlength=5)[:5] / len(seen)
    assert shares.tolist() == pytest.approx([0.6] * 5, abs=0.25)
    assert {len(data.valid[i]["index"]) for i in range(len(data.valid))} == {5}


@pytest.fixture(scope="module")
def trained(place) -> Path:
    return run(place, "trained", data_fold="all", net_bag_pooling="attention")


def test_studies_are_scored_as_they_were_trained_wherever_they_are_scored(place, trained):
    """One rule: the experiment's own evaluation, evaluate.py elsewhere, and predict.py."""
    config = config_of(place, "x")
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["study"]["rule"] == "attention over the slices of the used series, as trained"
    oof = read_predictions(trained / "predictions" / "oof.parquet", LABELS)
    p = pd.DataFrame(series_probabilities(oof, LABELS)).groupby(oof["study_id"]).agg(["min", "max"])
    assert (p.xs("min", axis=1, level=1) == p.xs("max", axis=1, level=1)).all(axis=None)
    studies = pd.read_parquet(config.dataset_folder / "studies.parquet").set_index("study_id")
    y = studies["subdural"].reindex(p.index) > 0.5
    assert metrics["study"]["auc"]["subdural"] == pytest.approx(roc_auc_score(y, p[4]["max"]))
    # Slices of study-labelled patients are predicted, and scored by nobody.
    assert len(oof) == 40 and metrics["num_slices"] == 20 and metrics["num_studies"] == 8
    predictor = load_predictor(trained / "predictor", build_model)
    # Without the folds that show which patients were trained on.
    datasets = place / "input" / "datasets"
    no_folds = shutil.ignore_patterns(FOLDS_FILE)
    shutil.copytree(datasets / "slices", datasets / "elsewhere", ignore=no_folds)
    table = SliceTable.load(datasets / "elsewhere")
    predicted = Predictor(predictor, predict_options(config)).predict_table(table)
    evaluate_on_dataset(Experiment(trained), table, "elsewhere", predict_options(config))
    found = json.loads((trained / "evaluations" / "elsewhere" / "metrics.json").read_text())
    y = table.frame.groupby("study_id")["subdural"].max().reindex(predicted.studies["study_id"])
    assert found["study"]["rule"] == metrics["study"]["rule"]
    assert found["study"]["auc"]["subdural"] == pytest.approx(
        roc_auc_score(y, predicted.studies["subdural"]), abs=1e-12
    )


def test_slice_scores_are_of_the_instance_classifier(trained):
    predictor = load_predictor(trained / "predictor" / "fold_0", build_model)
    network = predictor.network.eval()
    images = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        found = network({"images": images, "lengths": torch.tensor([4])})
        torch.testing.assert_close(found["logits"][0], network.encoder(images[0]))


def test_studies_alone_are_enough(place):
    folder = run(place, "alone", data_dataset="studies", data_fold=0, net_bag_pooling="max")
    metrics = evaluate_experiment(folder, SliceTable.load(place / "input/datasets/studies")).metrics
    assert metrics["weighted_log_loss"] is None and metrics["num_slices"] == 0
    assert metrics["study"]["weighted_log_loss"] > 0 and metrics["num_studies"] == 4
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "valid_study_weighted_log_loss" in line][-1]
    assert last["valid_study_weighted_log_loss"] == pytest.approx(
        metrics["study"]["weighted_log_loss"], rel=1e-6
    )
    # The predictor gives what validation gave.
    table = SliceTable.load(place / "input/datasets/studies")
    valid = read_predictions(folder / "predictions" / "valid.parquet", LABELS)
    predictor = load_predictor(folder / "predictor", build_model)
    found = predictor.predict_rows(table, table.rows_of(valid["image_id"])).series_logits
    wanted = valid[[f"{SERIES_LOGIT}{name}" for name in LABELS]]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    # Where no slice has a label, the prior is the share of studies.
    info = json.loads((folder / "predictor" / "predictor.json").read_text())
    assert info["prior"] == info["study_prior"]
    card = json.loads((folder / "predictor" / "model_card.json").read_text())
    studies = pd.read_parquet(place / "input/datasets/studies/studies.parquet")
    assert card["data"]["positive_studies"] == studies[list(LABELS)].sum().astype(int).to_dict()
    assert card["data"]["label_source"] == [LABELS_OF_STUDY]


@pytest.mark.parametrize("num_classes", [1, 6])
def test_labels_that_are_known_in_part_are_terms_too(place, num_classes):
    """Slices and studies of which `any` alone is known."""
    folder = make_tiny_dataset(place / "input/datasets/any", num_patients=8, num_slices=5)
    label_studies(folder, [0, 1, 4, 5])
    for name in ("slices", "studies"):
        frame = pd.read_parquet(folder / f"{name}.parquet")
        frame.loc[frame["label_source"] != LABELS_OF_STUDY, "label_source"] = None
        frame.assign(**dict.fromkeys(SUBTYPES, np.nan)).to_parquet(folder / f"{name}.parquet")
    train_data = build_parts(
        config_of(place, "any", data_dataset="any", net_num_classes=num_classes)
    ).data.train
    assert (~np.isnan(train_data.labels[:, -1])).sum() == 2 * 5
    assert (~np.isnan(train_data.series_labels[:, -1])).sum() == len(train_data) == 4


def test_a_subset_to_validate_has_the_positive_study_of_a_label(place):
    folder = make_tiny_dataset(place / "input/datasets/rare", num_patients=16, num_slices=2)
    label_studies(folder, list(range(16)))
    studies = pd.read_parquet(folder / "studies.parquet").assign(**dict.fromkeys(LABELS, 0.0))
    for rare in (4, 8, 12):
        positive = studies["patient_id"].isin([f"patient{rare}", "patient1"])
        studies.assign(any=positive.astype(float)).to_parquet(folder / "studies.parquet")
        config = config_of(place, "x", data_dataset="rare", data_fold=0, tr_valid_subset=2)
        subset = build_parts(config)._subset()
        assert len(subset) == 2 and subset.series_labels[:, -1].sum() == 1


def test_slice_networks_say_how_studies_are_learned_from(place):
    with pytest.raises(InputError, match="give --net_model bag-<slice network>"):
        run(place, "no", data_dataset="studies", net_model="test_convnext")
    with pytest.raises(InputError, match="--pre_train_studies 1"):
        run(place, "no", data_dataset="slices")


def test_resumed_run_has_the_same_bits(place, trained):
    whole = run(place, "whole", net_drop_rate=0.2, optim_ema_decay=0.9)
    config = config_of(place, "parts", net_drop_rate=0.2, optim_ema_decay=0.9)
    training = make_training(config)
    network_of = training.parts.make_network

    def stopping(callbacks):
        network = network_of(callbacks)
        end = network._train_iteration

        def iterate(batches):
            done = end(batches)
            if network.state.iteration == 2:
                network.ask_to_stop()
            return done

        network._train_iteration = iterate
        return network

    training.parts.make_network = stopping
    with pytest.raises(BaseException, match=r"--tr_resume 1|15"):
        training.run()
    resumed = run(place, "parts", net_drop_rate=0.2, optim_ema_decay=0.9, tr_resume=1)
    first, second = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    a, b = (read_predictions(f / "predictions" / "valid.parquet", LABELS) for f in (whole, resumed))
    pd.testing.assert_frame_equal(a.drop(columns="experiment_id"), b.drop(columns="experiment_id"))


@pytest.mark.long
def test_two_processes_are_one_with_the_doubled_batch(place):
    alone = run(place, "one", net_bag_pooling="attention")
    flags = arguments(place, "two", net_bag_pooling="attention", tr_batch_size=2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*torchrun, "train.py", *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = weights_of(alone), weights_of(place / "output" / "results" / "two")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=2e-5, msg=name)


def test_mixed_precision_and_accumulation_train(place):
    folder = run(place, "bf16", tr_use_amp=1, tr_accumulation_step=2, tr_batch_size=2)
    assert all(v.isfinite().all() for v in weights_of(folder).values() if v.is_floating_point())
