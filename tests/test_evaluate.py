import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluate_script import make_experiment, run_evaluate
from predictor_factory import make_dataset
from sklearn.metrics import log_loss, roc_auc_score
from tracker_stubs import RecordingBackend

from benchmarks.pooled_folds import pool
from common.errors import InputError
from common.scoring.predictions import (
    build_predictions,
    read_predictions,
    write_predictions,
)
from common.slices.table import SliceTable
from common.trackers.public import ARTIFACTS
from rsna.evaluation.scoring import read_experiment, score_predictions
from rsna.training import tracking
from rsna_task import LABEL_WEIGHTS, LABELS


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    return make_experiment(tmp_path_factory.mktemp("root"))


def check_against_sklearn(metrics: dict, predictions: Path, dataset: Path) -> None:
    frame = pd.read_parquet(predictions).merge(
        pd.read_parquet(dataset / "slices.parquet")[["image_id", *LABELS]],
        on="image_id",
        suffixes=("", "_true"),
    )
    losses = [
        log_loss(frame[f"{name}_true"], frame[name].clip(1e-15, 1 - 1e-15), labels=[0, 1])
        for name in LABELS
    ]
    assert metrics["weighted_log_loss"] == pytest.approx(
        np.dot(losses, LABEL_WEIGHTS) / 7, abs=1e-12
    )
    assert metrics["auc"]["any"] == pytest.approx(
        roc_auc_score(frame["any_true"], frame["any"]), abs=1e-12
    )
    study = frame.groupby("study_id")[["any", "any_true"]].max()
    if study["any_true"].nunique() == 2:
        assert metrics["study"]["auc"]["any"] == pytest.approx(
            roc_auc_score(study["any_true"], study["any"]), abs=1e-12
        )
    assert metrics["num_slices"] == len(frame)
    assert metrics["num_studies"] == len(study)


@pytest.mark.drawn
def test_evaluates_the_rows_it_validated_on(monkeypatch, capsys, experiment, tmp_path):
    store = RecordingBackend(tmp_path / "calls")  # MLflow's own takes seconds of a start
    monkeypatch.setattr(tracking, "MLflowBackend", lambda *_: store)
    assert run_evaluate(monkeypatch, experiment, "--mlflow_enabled", "1") == 0
    assert store.calls("file") == list(ARTIFACTS) and store.calls("end") == ["finished"]
    metrics = json.loads((experiment / "metrics.json").read_text())
    dataset = experiment.parents[2] / "input" / "datasets" / "own"
    check_against_sklearn(metrics, experiment / "predictions" / "valid.parquet", dataset)
    best = experiment / "predictions" / "valid_best.parquet"
    check_against_sklearn(metrics["best"], best, dataset)
    assert (metrics["selected"], metrics["best"]["selected"]) == (False, True)
    low, high = metrics["interval"]["weighted_log_loss"]
    assert low < metrics["weighted_log_loss"] < high
    shown = capsys.readouterr().out
    assert f"{metrics['weighted_log_loss']:.4f}" in shown
    assert f"{metrics['prior_weighted_log_loss']:.4f}" in shown
    assert str(experiment / "report.html") in shown


@pytest.mark.long
def test_hints_find_the_experiment_and_flags_in_vain_warn(monkeypatch, capsys, caplog, experiment):
    assert run_evaluate(monkeypatch, experiment, "--data_fold", "3") == 0
    place = f"--experiment_id 0001 --output_dir {experiment.parents[1]} --pr_input"
    assert f"python predict.py {place}" in capsys.readouterr().out
    assert "--data_fold has no effect" in caplog.text
    assert "--data_input_folder" not in caplog.text


def test_evaluates_another_dataset_with_the_predictor(monkeypatch, experiment):
    assert run_evaluate(monkeypatch, experiment, "--data_dataset", "other") == 0
    folder = experiment / "evaluations" / "other"
    names = sorted(item.name for item in folder.iterdir())
    assert names == [
        "failures",
        "flow.svg",
        "metrics.json",
        "predictions.parquet",
        "report.html",
        "studies.csv",
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    dataset = experiment.parents[2] / "input" / "datasets" / "other"
    check_against_sklearn(metrics, folder / "predictions.parquet", dataset)
    page = (folder / "report.html").read_text()
    for heading in ("Calls at", "<h2>Each label</h2>", "<h2>Probabilities of studies</h2>"):
        assert heading in page
    assert page.count("<th>AUC") == 2, "of slices in one table, of studies in another"
    alone = [
        f"{score['value']:.3f} ({score['reason']})"
        for score in metrics["study"]["scores"]["log_loss"].values()
        if score["value"] is not None and score["interval"] is None
    ]
    assert alone and all(told in page for told in alone), "a value without interval says why"


def test_folds_pooled_score_as_one_set_with_the_prior_of_each(experiment, tmp_path):
    table = SliceTable.load(experiment.parents[2] / "input" / "datasets" / "own")
    whole = read_predictions(experiment / "predictions" / "valid.parquet", LABELS)
    parts, folders = [whole.iloc[:10], whole.iloc[10:]], []
    for number, part in enumerate(parts):
        folder = tmp_path / f"000{number}"
        shutil.copytree(experiment / "predictor", folder / "predictor")
        write_predictions(folder / "predictions" / "valid.parquet", part, LABELS)
        folders.append(folder)
    pooled = pool(folders, table, "valid", selected=False).metrics
    prior = read_experiment(experiment, "valid")[1]
    assert pooled == score_predictions("", whole, table, prior).metrics
    with pytest.raises(InputError, match="overlap"):
        pool([experiment, folders[0]], table, "valid", selected=False)


def test_a_dataset_that_labels_studies_gets_study_metrics(monkeypatch, experiment):
    dataset = experiment.parents[2] / "input" / "datasets" / "by_study"
    table = make_dataset(dataset, num_patients=16)
    frame = table.frame
    studies = frame.groupby("study_id", as_index=False)[["patient_id", *LABELS]].max()
    studies.to_parquet(dataset / "studies.parquet")
    frame.assign(**dict.fromkeys(LABELS, np.nan)).to_parquet(dataset / "slices.parquet")
    assert run_evaluate(monkeypatch, experiment, "--data_dataset", "by_study") == 0
    metrics = json.loads((experiment / "evaluations/by_study/metrics.json").read_text())
    assert metrics["weighted_log_loss"] is None
    assert metrics["num_slices"] == 0
    assert metrics["num_studies"] == 16
    study = metrics["study"]
    assert study["rule"] == "largest slice of the used series"
    low, high = study["interval"]["weighted_log_loss"]
    assert low < study["weighted_log_loss"] < high
    predictions = pd.read_parquet(experiment / "evaluations/by_study/predictions.parquet")
    # Study 1 has two series: the longer one is used.
    assert set(predictions["series_id"]) == {f"p{number}r0" for number in range(16)}
    largest = predictions.groupby("study_id")[list(LABELS)].max()
    losses = [
        log_loss(
            studies.set_index("study_id").loc[largest.index, name], largest[name], labels=[0, 1]
        )
        for name in LABELS
    ]
    assert study["weighted_log_loss"] == pytest.approx(np.dot(losses, LABEL_WEIGHTS) / 7, abs=1e-12)
    page = (experiment / "evaluations/by_study/report.html").read_text()
    assert "<h2>Probabilities of studies</h2>" in page
    assert "<h2>ROC and precision-recall</h2>" in page
    assert "Calls at" not in page and "<h2>Each label</h2>" not in page


def test_labels_may_be_partly_unknown(monkeypatch, experiment):
    """A slice counts for the labels that it has, and so does its study."""
    dataset = experiment.parents[2] / "input" / "datasets" / "partly"
    frame = make_dataset(dataset, num_patients=12).frame
    unknown = np.random.default_rng(0).random((len(frame), len(LABELS))) < 0.2
    unknown[:, LABELS.index("any")] = False
    frame[list(LABELS)] = frame[list(LABELS)].mask(unknown)
    frame.to_parquet(dataset / "slices.parquet")
    assert run_evaluate(monkeypatch, experiment, "--data_dataset", "partly") == 0
    place = experiment / "evaluations" / "partly"
    metrics = json.loads((place / "metrics.json").read_text())
    predictions = pd.read_parquet(place / "predictions.parquet").set_index("image_id")
    largest = predictions[predictions["series_id"] != "p1r1"].groupby("study_id")[[*LABELS]].max()
    truth = frame.set_index("image_id")
    for name in LABELS:
        y = truth.loc[predictions.index, name]
        loss = log_loss(y.dropna(), predictions[name][y.notna()], labels=[0, 1])
        assert metrics["log_loss"][name] == pytest.approx(loss)
        of_studies = truth.groupby("study_id")[name].agg(
            lambda y: 1 if (y == 1).any() else np.nan if y.isna().any() else 0
        )
        known = of_studies.dropna()
        loss = log_loss(known, largest.loc[known.index, name], labels=[0, 1])
        assert metrics["study"]["log_loss"][name] == pytest.approx(loss)


def test_studies_are_scored_by_the_used_series(experiment):
    """The second series of study 1 counts for slices, and not for its study."""
    table = SliceTable.load(experiment.parents[2] / "input" / "datasets" / "other")
    frame = build_predictions(
        table.frame[table.readable], np.full((table.readable.sum(), 6), -1.0), LABELS, None, "x"
    )
    other = frame["series_id"].eq("p1r1")
    assert other.any() and frame["series_id"].eq("p1r0").any()
    frame.loc[other, list(LABELS)] = 0.99
    scored = score_predictions("", frame, table, np.full(6, 0.3), prior_of_studies=np.full(6, 0.4))
    np.testing.assert_allclose(scored.studies.probabilities, 1 / (1 + np.e))
    y = scored.studies.labels
    assert len(y) == 4 == scored.metrics["num_studies"]
    expected = -np.mean(y * np.log(0.4) + (1 - y) * np.log(0.6), axis=0) @ LABEL_WEIGHTS / 7
    study = scored.metrics["study"]
    assert study["prior_weighted_log_loss"] == pytest.approx(expected)
    assert study["num_positive"] == dict(zip(LABELS, y.sum(axis=0)))
    # More patients, so that all other intervals are there.
    table = make_dataset(table.folder.with_name("many"), num_patients=16)
    rows = table.frame[table.readable]
    # An empty id is as good as none.
    rows = rows.assign(
        patient_id=rows["patient_id"].mask(rows["series_id"].isin(["p3r0", "p4r0"]), "")
    )
    frame = build_predictions(rows, np.full((len(rows), 6), -1.0), LABELS, None, "x")
    metrics = score_predictions("", frame, table, np.full(6, 0.3)).metrics
    assert metrics["interval"]["num_patients"] == 16
    unknown = metrics["study"]
    assert unknown["prior_weighted_log_loss"] is None
    assert unknown["interval"]["weighted_log_loss"] is not None
    assert unknown["interval"]["weighted_log_loss_to_prior"] is None
    assert "no prior" in unknown["interval"]["reason"]["weighted_log_loss_to_prior"]


def test_labels_by_a_model_are_not_scored(experiment):
    table = SliceTable.load(experiment.parents[2] / "input" / "datasets" / "other")
    frame = build_predictions(
        table.frame[table.readable], np.full((table.readable.sum(), 6), -1.0), LABELS, None, "x"
    )
    table.frame.loc[table.frame["series_id"] == "p2r0", "label_source"] = "pseudo:0001"
    metrics = score_predictions("", frame, table, np.full(6, 0.3)).metrics
    assert metrics["num_slices"] == len(frame) - 6 and metrics["num_studies"] == 3


def test_imported_weights_are_scored_on_what_was_held_out(
    monkeypatch, capsys, caplog, experiment, tmp_path
):
    dataset = experiment.parents[2] / "input" / "datasets" / "challenge"
    frame = make_dataset(dataset, num_patients=4).frame
    (dataset / "manifest.json").write_text(json.dumps({"source": "rsna", "parameters": {}}))
    imported = tmp_path / "results" / "0001"
    shutil.copytree(experiment, imported)
    file = imported / "predictor" / "predictor.json"
    content = json.loads(file.read_text())
    content["training"] = {"source": "somewhere", "trained_on": "rsna"}
    file.write_text(json.dumps(content))
    assert run_evaluate(monkeypatch, imported, "--data_dataset", "challenge") == 2
    assert "trained on the data that it was made from" in capsys.readouterr().err
    ids = tmp_path / "held_out.txt"
    ids.write_bytes(b"\xef\xbb\xbfsecret-patient-2\r\nstudy3\r\n\r\n")  # as Windows saves it
    what = ("--data_dataset", "challenge", "--ev_held_out")
    assert run_evaluate(monkeypatch, imported, *what, str(ids)) == 0
    of_rows = frame["patient_id"].eq("secret-patient-2") | frame["study_id"].eq("study3")
    metrics = json.loads((imported / "evaluations/challenge/metrics.json").read_text())
    assert metrics["num_slices"] == of_rows.sum()
    assert metrics["num_studies"] == 2
    assert "--ev_held_out" not in caplog.text
    assert run_evaluate(monkeypatch, imported, *what, "study3,nobody") == 0
    assert "--ev_held_out: 1 of 2 ids are of no patient or study of challenge" in caplog.text
    assert run_evaluate(monkeypatch, imported, *what, "nobody") == 2
    assert "no slice, of those that --ev_held_out names, that can" in capsys.readouterr().err
    # Data of others need no list.
    assert run_evaluate(monkeypatch, imported, "--data_dataset", "other") == 0


def test_a_dataset_of_another_pixel_size_is_refused(monkeypatch, capsys, experiment):
    dataset = experiment.parents[2] / "input" / "datasets" / "resized"
    make_dataset(dataset, num_patients=4)
    parameters = {"pixels": {"head_crop": False, "spacing_mm": 0.0, "size": 40}}
    (dataset / "manifest.json").write_text(json.dumps({"parameters": parameters}))
    assert run_evaluate(monkeypatch, experiment, "--data_dataset", "resized") == 2
    assert "trained on slices prepared with --pre_head_crop 0" in capsys.readouterr().err


def test_no_patient_nor_path_is_in_a_report(monkeypatch, experiment):
    if not (experiment / "report.html").exists():
        run_evaluate(monkeypatch, experiment)
    html = (experiment / "report.html").read_text()
    assert "secret-patient" not in html
    assert "study1" not in html
    assert str(experiment.parents[2]) not in html
    assert "ID_p1r0_0" in html or "ID_p0r0_0" in html


def test_what_is_missing_is_said_in_one_line(monkeypatch, capsys, experiment, tmp_path):
    assert run_evaluate(monkeypatch, experiment, "--data_dataset", "absent") == 2
    assert "absent" in capsys.readouterr().err
    empty = tmp_path / "output" / "results" / "0009"
    empty.mkdir(parents=True)
    (empty / "config.yaml").write_text((experiment / "config.yaml").read_text())
    assert run_evaluate(monkeypatch, empty) == 2
    assert "no predictor at" in capsys.readouterr().err
    assert run_evaluate(monkeypatch, tmp_path / "output" / "results" / "none") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: --experiment_id none")
    assert len(error.splitlines()) == 1


def test_slices_of_no_study_are_scored_as_slices_alone(monkeypatch, experiment):
    own, other = (
        experiment.parents[2] / "input" / "datasets" / name for name in ("own", "nameless")
    )
    make_dataset(other, num_patients=6)
    frame = pd.read_parquet(other / "slices.parquet")
    is_lost = frame["study_id"].isin(["study2", "study3"])
    frame.loc[is_lost, "study_id"] = None
    frame.loc[frame["patient_id"].eq("secret-patient-3"), "patient_id"] = None
    frame["patient_id"] = "new-" + frame["patient_id"]
    frame.to_parquet(other / "slices.parquet")
    assert run_evaluate(monkeypatch, experiment, "--data_dataset", "nameless") == 0
    metrics = json.loads((experiment / "evaluations/nameless/metrics.json").read_text())
    assert (metrics["num_slices"], metrics["num_studies"]) == (len(frame) - 1, 4)

    slices, saved = own / "slices.parquet", (own / "slices.parquet").read_bytes()
    frame = pd.read_parquet(slices)
    frame.loc[frame["study_id"].eq("study2"), "study_id"] = None
    frame.to_parquet(slices)
    assert run_evaluate(monkeypatch, experiment, "--ev_rule", "fixed:0.5") == 0
    metrics = json.loads((experiment / "metrics.json").read_text())
    assert (metrics["num_slices"], metrics["num_studies"]) == (len(frame) - 1, 5)
    point = metrics["study"]["operating_points"]["any"]
    assert point["alarms_per_100"]["num_studies"] == 5
    slices.write_bytes(saved)
