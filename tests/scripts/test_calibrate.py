"""A predictor alone, calibrated, evaluated, blended and trained on from; what is refused."""

import json
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from evaluate_script import make_experiment
from predictor_factory import make_dataset

import ensemble
import evaluate
import predict
from common.cli import status_of
from common.predictors.loading import load_predictor
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.folds import read_folds
from common.slices.leakage import folds_digest, id_digests
from common.slices.table import SliceTable
from rsna_model import build_model
from rsna_task import LABELS
from scripts import calibrate, pseudo_label


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root")
    experiment = make_experiment(root)
    make_dataset(root / "input" / "datasets" / "mine", num_patients=24)
    shutil.copytree(experiment / "predictor", root / "net")
    return root


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    for place in ("evaluation", "blend"):
        monkeypatch.setattr(f"common.report.{place}.figure", lambda drawing, name: name)
        monkeypatch.setattr(f"common.report.{place}.figures", Mock())


def run(monkeypatch, root: Path, script, *arguments: str) -> int:
    common = ["--output_dir", str(root / "output"), "--n_jobs", "0"]
    if script is not predict:
        common += ["--data_input_folder", str(root / "input")]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *common, *arguments])
    return status_of(script.main)


def refused(monkeypatch, capsys, root: Path, script, *arguments: str) -> str:
    capsys.readouterr()
    assert run(monkeypatch, root, script, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return next(line for line in reversed(lines) if line.startswith("error: "))


def folder_of(root: Path, name: str, **training) -> Path:
    """A copy of the predictor, with another origin."""
    shutil.copytree(root / "net", root / name, ignore=shutil.ignore_patterns("evaluations"))
    path = root / name / "predictor.json"
    content = json.loads(path.read_text())
    content["training"] = training or content["training"]
    path.write_text(json.dumps(content))
    return root / name


def ids(root: Path, numbers: range) -> str:
    return ",".join(f"secret-patient-{number}" for number in numbers)


def test_a_predictor_is_calibrated_beside_itself_and_scored_on_others_alone(
    monkeypatch, capsys, root
):
    net, mine = str(root / "net"), ("--data_dataset", "mine")
    half = ("--ev_held_out", ids(root, range(12)))
    flags = ("--pr_predictor", net, *mine)
    assert run(monkeypatch, root, calibrate, *flags, *half) == 0
    shown = capsys.readouterr().out
    assert "12 patients, 12 studies of mine" in shown and "slices   calibrated" in shown
    target = root / "net_mine"
    new = json.loads((target / "predictor.json").read_text())
    weights = [
        load_predictor(folder, build_model).network.state_dict() for folder in (Path(net), target)
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    record = new["calibrated_on"]
    assert (record["dataset"], record["num_patients"], record["num_studies"]) == ("mine", 12, 12)
    assert set(record["scores"]) == {"slices", "studies"}
    expected = [*(f"secret-patient-{n}" for n in range(12)), *(f"study{n}" for n in range(12))]
    assert new["fitted_on"] == id_digests(expected, new["fitted_on_salt"])
    assert "secret" not in (target / "predictor.json").read_text()
    assert not list(root.glob(".net_mine*"))
    predictor = load_predictor(target, build_model)
    assert predictor.calibration is not None and predictor.study_calibration is not None

    told = refused(monkeypatch, capsys, root, evaluate, "--pr_predictor", str(target), *mine)
    assert "12 patients that it was fitted on" in told and "--ev_held_out" in told
    others = ("--ev_held_out", ids(root, range(12, 24)))
    assert run(monkeypatch, root, evaluate, "--pr_predictor", str(target), *mine, *others) == 0
    place = target / "evaluations" / "mine"
    frame = pd.read_parquet(place / "predictions.parquet")
    assert frame["study_id"].nunique() == 12
    logits = frame[[f"logit_{name}" for name in LABELS]].to_numpy()
    np.testing.assert_allclose(
        frame[list(LABELS)], 1 / (1 + np.exp(-predictor.calibration.apply(logits)))
    )
    assert "on mine: 12 patients" in (place / "report.html").read_text()

    told = refused(monkeypatch, capsys, root, calibrate, *flags, *half)
    assert "net_mine exists" in told and "--cal_overwrite 1" in told
    again = ("--pr_predictor", str(target), *mine, *others)
    assert run(monkeypatch, root, calibrate, *again) == 0
    twice = json.loads((root / "net_mine_mine" / "predictor.json").read_text())
    assert len(twice["fitted_on"]) == 48
    before = twice["calibrated_on"]["scores"]["slices"]["before"]["weighted_log_loss"]
    scored = json.loads((place / "metrics.json").read_text())
    assert before == pytest.approx(scored["weighted_log_loss"], rel=1e-5)
    assert twice["calibrated_on"]["predictor_sha256"] != record["predictor_sha256"]
    assert twice["calibrated_on"]["on_top_of"] == record
    assert run(monkeypatch, root, calibrate, *flags, *half, "--cal_overwrite", "1") == 0
    assert not (target / "evaluations").exists()
    assert json.loads((target / "predictor.json").read_text())["calibrated_on"] == record


def test_thresholds_and_triage_are_fitted_after_the_calibration(monkeypatch, capsys, caplog, root):
    flags = ("--pr_predictor", str(root / "net"), "--data_dataset", "mine", "--cal_overwrite", "1")
    asked = ("--ev_rule", "sensitivity:0.8", "--ev_error", "0.3")
    assert run(monkeypatch, root, calibrate, *flags, *asked) == 0
    shown = capsys.readouterr().out
    assert (
        "studies at sensitivity:0.8, thresholds chosen on other patients of the same data:" in shown
    )
    new = json.loads((root / "net_mine" / "predictor.json").read_text())
    points = new["operating_points"]
    assert points["rule"] == {"kind": "sensitivity", "value": 0.8, "prevalence": None}
    assert points["fitted_on"]["digests"] == new["fitted_on"]
    assert points["fitted_on"]["salt"] == new["fitted_on_salt"]
    assert points["sensitivity"]["subdural"]["interval"] is not None
    assert new["conformal"] is None or new["conformal"]["guarantee"].startswith("close")
    # What is calibrated anew has other probabilities, for which the old thresholds say nothing.
    shutil.copytree(root / "net", root / "called", dirs_exist_ok=True)
    content = json.loads((root / "called" / "predictor.json").read_text())
    points["fitted_on"] = None
    (root / "called" / "predictor.json").write_text(
        json.dumps(content | {"operating_points": points})
    )
    again = ("--pr_predictor", str(root / "called"), "--data_dataset", "mine")
    assert run(monkeypatch, root, calibrate, *again) == 0
    assert "is of other probabilities, and dropped" in caplog.text
    kept = json.loads((root / "called_mine" / "predictor.json").read_text())
    assert kept["operating_points"] is None


def test_labels_of_studies_calibrate_studies(monkeypatch, root):
    dataset = root / "input" / "datasets" / "by_study"
    frame = make_dataset(dataset, num_patients=20).frame
    studies = frame.groupby("study_id", as_index=False)[["patient_id", *LABELS]].max()
    studies.to_parquet(dataset / "studies.parquet")
    frame.assign(**dict.fromkeys(LABELS, np.nan)).to_parquet(dataset / "slices.parquet")
    flags = ("--pr_predictor", str(root / "net"), "--data_dataset", "by_study")
    assert run(monkeypatch, root, calibrate, *flags) == 0
    content = json.loads((root / "net_by_study" / "predictor.json").read_text())
    assert content["calibration"] is None and content["study_calibration"] is not None
    assert content["calibrated_on"]["num_slices"] == 0
    assert list(content["calibrated_on"]["scores"]) == ["studies"]


def test_labels_that_are_all_negative_make_no_calibrated_predictor(monkeypatch, capsys, root):
    dataset = root / "input" / "datasets" / "negative"
    frame = make_dataset(dataset, num_patients=6).frame
    flags = ("--pr_predictor", str(root / "net"), "--data_dataset", "negative")
    for num, positive in ((0, frame["study_id"].isna()), (1, frame["study_id"].eq("study3"))):
        labels = dict.fromkeys(LABELS, positive.astype(float))
        frame.assign(**labels).to_parquet(dataset / "slices.parquet")
        told = refused(monkeypatch, capsys, root, calibrate, *flags)
        assert f"{num} of 6 patients with a positive label" in told
    assert not (root / "net_negative").exists()


def test_shares_of_raters_count_by_majority_and_labels_by_a_model_not_at_all(monkeypatch, root):
    dataset = root / "input" / "datasets" / "soft"
    frame = make_dataset(dataset, num_patients=20).frame
    flags = ("--pr_predictor", str(root / "net"), "--data_dataset", "soft", "--cal_overwrite", "1")
    records = []
    for change in ("none", "shares", "model"):
        changed = frame.copy()
        if change == "shares":
            changed[list(LABELS)] = frame[list(LABELS)] * 0.4 + 0.3
        if change == "model":  # they are given studies, whose slices a model has labelled
            by_model = changed["study_id"].eq("study5")
            changed.loc[by_model, "label_source"] = "pseudo:0003"
            changed.loc[by_model, list(LABELS)] = 1 - frame.loc[by_model, list(LABELS)]
            studies = frame.groupby("study_id", as_index=False)[["patient_id", *LABELS]].max()
            studies.assign(label_source="study").to_parquet(dataset / "studies.parquet")
        changed.to_parquet(dataset / "slices.parquet")
        assert run(monkeypatch, root, calibrate, *flags) == 0
        content = json.loads((root / "net_soft" / "predictor.json").read_text())
        records.append(content["calibrated_on"])
    assert records[0]["scores"] == records[1]["scores"]
    num_of_one = int((frame["study_id"].eq("study5") & frame["status"].eq("ok")).sum())
    assert records[2]["num_slices"] == records[0]["num_slices"] - num_of_one


def test_patients_are_known_again_by_their_pixels(monkeypatch, capsys, root):
    """Sent anew under other ids; of other patients, or blank, pixels are no reason to refuse."""
    dataset = root / "input" / "datasets" / "measured"
    frame = make_dataset(dataset, num_patients=12).frame
    table = SliceTable.load(dataset)
    for row in np.flatnonzero(table.readable):
        values = table.image_hu(row)
        frame.loc[row, ["hu_min", "hu_max"]] = values.min(), values.max()
        frame.loc[row, ["hu_mean", "brain_fraction"]] = values.mean(), (values > 0).mean()
    frame.to_parquet(dataset / "slices.parquet")
    flags = ("--pr_predictor", str(root / "net"), "--data_dataset", "measured")
    half = ("--ev_held_out", ids(root, range(6)))
    assert run(monkeypatch, root, calibrate, *flags, *half) == 0
    again = shutil.copytree(dataset, dataset.with_name("again"))
    for name in ("patient_id", "study_id", "image_id", "series_id"):
        frame[name] = "new-" + frame[name]
    frame.to_parquet(again / "slices.parquet")
    flags = ("--pr_predictor", str(root / "net_measured"), "--data_dataset", "again")
    told = refused(monkeypatch, capsys, root, evaluate, *flags)
    assert "6 studies that it was fitted on" in told and "known by pixels" in told
    others = ",".join(f"new-secret-patient-{number}" for number in range(6, 12))
    assert run(monkeypatch, root, evaluate, *flags, "--ev_held_out", others) == 0


def test_an_experiment_is_calibrated_in_its_folder_and_a_path_to_it_is_it(monkeypatch, root):
    experiment = root / "output" / "results" / "0001"
    assert (
        run(monkeypatch, root, calibrate, "--experiment_id", "0001", "--data_dataset", "mine") == 0
    )
    assert (experiment / "predictor_mine" / "predictor.json").is_file()
    for place in (experiment, experiment / "predictor"):
        shutil.rmtree(experiment / "evaluations", ignore_errors=True)
        flags = ("--pr_predictor", str(place), "--data_dataset", "other")
        assert run(monkeypatch, root, evaluate, *flags) == 0
        assert (experiment / "evaluations" / "other" / "metrics.json").is_file()


def test_a_predictor_predicts_as_its_experiment_does(monkeypatch, root, tmp_path):
    tables = []
    dataset = str(root / "input" / "datasets" / "other")
    for number, which in enumerate(
        (("--experiment_id", "0001"), ("--pr_predictor", str(root / "net")))
    ):
        output = tmp_path / str(number)
        flags = ("--pr_input", dataset, "--pr_output", str(output))
        assert run(monkeypatch, root, predict, *which, *flags) == 0
        tables.append(pd.read_parquet(output / "predictions.parquet"))
    pd.testing.assert_frame_equal(*tables)


def test_what_was_trained_on_is_known_of_a_folder(monkeypatch, capsys, root):
    """By the folds of its training, by the source of imported weights, and before either."""
    dataset = root / "input" / "datasets" / "seen"
    frame = make_dataset(dataset, num_patients=6).frame
    folds = frame[["image_id", "patient_id"]].assign(
        fold=frame["patient_id"].str.removeprefix("secret-patient-").astype(int) % 2
    )
    folds.to_csv(dataset / "folds.csv", index=False)
    (dataset / "manifest.json").write_text(json.dumps({"source": "rsna", "parameters": {}}))
    digest = folds_digest(read_folds(dataset / "folds.csv"))
    own = {"dataset": "elsewhere", "fold": 1, "folds_sha256": digest}
    trained = folder_of(root, "trained", **own)
    later = folder_of(root, "later", dataset="later", fold=0, started_from=[own])
    for folder in (trained, later):
        for script in (evaluate, calibrate):
            flags = ("--pr_predictor", str(folder), "--data_dataset", "seen")
            told = refused(monkeypatch, capsys, root, script, *flags)
            assert "trained on 3 patients of it" in told, told
    # Those that its fold validated are no secret to it.
    others = ("--ev_held_out", "secret-patient-1,secret-patient-3")
    flags = ("--pr_predictor", str(trained), "--data_dataset", "seen", *others)
    assert run(monkeypatch, root, evaluate, *flags) == 0
    imported = folder_of(
        root, "imported", dataset="x", fold=0, started_from=[{"trained_on": "rsna"}]
    )
    for script in (evaluate, calibrate):
        flags = ("--pr_predictor", str(imported), "--data_dataset", "seen")
        told = refused(monkeypatch, capsys, root, script, *flags)
        assert "trained on the data that it was made from" in told


def test_other_folds_than_those_of_the_training_are_marked(monkeypatch, caplog, root):
    dataset = root / "input" / "datasets" / "refolded"
    frame = make_dataset(dataset, num_patients=6).frame
    trained = folder_of(root, "on_refolded", dataset="refolded", fold=0, folds_sha256="0" * 64)
    flags = ("--pr_predictor", str(trained), "--data_dataset", "refolded")
    for has_folds in (False, True):  # lost, or made again
        if has_folds:
            folds = frame[["image_id", "patient_id"]].assign(fold=0)
            folds.to_csv(dataset / "folds.csv", index=False)
        caplog.clear()
        assert run(monkeypatch, root, evaluate, *flags) == 0
        assert "with other folds than it has now" in caplog.text
        page = (trained / "evaluations" / "refolded" / "report.html").read_text()
        assert "with other folds than it has now" in page


def test_a_dataset_that_was_merged_has_the_sources_of_its_parts(monkeypatch, capsys, root):
    base, merged = (root / "input" / "datasets" / name for name in ("base", "merged"))
    for folder in (base, merged):
        make_dataset(folder, num_patients=4)
    (base / "manifest.json").write_text(json.dumps({"source": "rsna", "parameters": {}}))
    imported = folder_of(root, "published", trained_on="rsna")
    flags = ("--pr_predictor", str(imported), "--data_dataset", "merged")
    for more in ({"sources": ["demo", "rsna"]}, {"folder": str(base)}):
        manifest = {"source": "merged", "parameters": {}, **more}
        (merged / "manifest.json").write_text(json.dumps(manifest))
        told = refused(monkeypatch, capsys, root, evaluate, *flags)
        assert "trained on the data that it was made from" in told


def test_an_experiment_that_started_from_weights_that_saw_the_source_is_marked(
    monkeypatch, caplog, root, tmp_path
):
    dataset = root / "input" / "datasets" / "own"
    (dataset / "manifest.json").write_text(json.dumps({"source": "rsna", "parameters": {}}))
    later = root / "output" / "results" / "0002"
    shutil.copytree(root / "output" / "results" / "0001", later)
    path = later / "predictor" / "predictor.json"
    for started_from, is_marked in (([], False), ([{"trained_on": "rsna"}], True)):
        content = json.loads(path.read_text())
        content["training"]["started_from"] = started_from
        path.write_text(json.dumps(content))
        assert run(monkeypatch, root, evaluate, "--experiment_id", "0002") == 0
        assert ("saw the source of these rows" in (later / "report.html").read_text()) == is_marked
    assert "saw the source" in caplog.text


def test_a_predictor_is_a_member_by_its_evaluation(monkeypatch, capsys, root):
    dataset = root / "input" / "datasets" / "mine"
    table = SliceTable.load(dataset)
    numbers = table.frame["patient_id"].str.removeprefix("secret-patient-").astype(int) % 3
    folds = table.frame[["image_id", "patient_id"]].assign(fold=numbers)
    folds[table.readable].to_csv(dataset / "folds.csv", index=False)
    net, given = str(root / "net"), ("--data_dataset", "mine")
    rows = np.flatnonzero(table.readable)
    frame = build_predictions(
        table.frame.iloc[rows],
        np.random.default_rng(0).normal(-1, 1, (len(rows), 6)),
        LABELS,
        0,
        "t",
    ).assign(fold=numbers.iloc[rows].to_numpy())
    write_predictions(root / "oof.parquet", frame, LABELS)
    members = ("--ens_experiments", f"{net},{root / 'oof.parquet'}")
    shutil.rmtree(root / "net" / "evaluations", ignore_errors=True)
    told = refused(monkeypatch, capsys, root, ensemble, *members, *given)
    assert "neither predictions/oof.parquet" in told and "first evaluate.py --pr_predictor" in told
    assert run(monkeypatch, root, evaluate, "--pr_predictor", net, *given) == 0
    assert "give --data_dataset" in refused(monkeypatch, capsys, root, ensemble, *members)
    assert run(monkeypatch, root, ensemble, *members, *given, "--experiment_id", "blend") == 0
    predictions = root / "output" / "results" / "blend" / "predictions"
    oof = pd.read_parquet(predictions / "oof.parquet").set_index("image_id")
    assert oof["fold"].tolist() == folds.set_index("image_id").loc[oof.index, "fold"].tolist()
    evaluated = pd.read_parquet(root / "net" / "evaluations" / "mine" / "predictions.parquet")
    parts = [each.set_index("image_id").loc[oof.index, list(LABELS)] for each in (evaluated, frame)]
    np.testing.assert_allclose(oof[list(LABELS)], (parts[0] + parts[1]) / 2, rtol=1e-9)
    # Fitted on these patients, it is no member.
    calibrated = folder_of(root, "fitted")
    content = json.loads((calibrated / "predictor.json").read_text())
    content |= {"fitted_on_salt": "00ff", "fitted_on": id_digests(["study3"], "00ff")}
    (calibrated / "predictor.json").write_text(json.dumps(content))
    shutil.copytree(root / "net" / "evaluations", calibrated / "evaluations")
    members = ("--ens_experiments", f"{calibrated},{root / 'oof.parquet'}")
    assert "that it was fitted on" in refused(monkeypatch, capsys, root, ensemble, *members, *given)


def test_what_cant_be_used_is_one_line(monkeypatch, capsys, root, tmp_path):
    def told(script, *flags: str) -> str:
        return refused(monkeypatch, capsys, root, script, *flags)

    mine, net = ("--data_dataset", "mine"), ("--pr_predictor", str(root / "net"))
    assert "give one of the two" in told(evaluate, *net, "--experiment_id", "0001", *mine)
    for script in (evaluate, calibrate, predict, pseudo_label):
        flags = ("--pr_input", str(root)) if script is predict else mine
        flags = (*flags, "--pl_name", "x") if script is pseudo_label else flags
        assert "--experiment_id is missing" in told(script, *flags), script
        none = ("--pr_predictor", str(tmp_path / "none"))
        assert "no such folder" in told(script, *flags, *none), script
    assert "no predictor.json" in told(evaluate, "--pr_predictor", str(tmp_path), *mine)
    unfinished = tmp_path / "results" / "0003"
    unfinished.mkdir(parents=True)
    (unfinished / "config.yaml").write_text("{}")
    assert "not trained to its end" in told(evaluate, "--pr_predictor", str(unfinished), *mine)
    assert "--data_dataset is missing" in told(evaluate, *net)
    assert "--data_dataset is missing" in told(calibrate, *net)
    one = ("--ev_held_out", "secret-patient-3", "--cal_overwrite", "1")
    assert "of one patient" in told(calibrate, *net, *mine, *one)
    other = root / "net_other"
    (other / "of the user").mkdir(parents=True)
    overwrite = ("--data_dataset", "other", "--cal_overwrite", "1")
    assert "exists and is no predictor" in told(calibrate, *net, *overwrite)
    assert (other / "of the user").is_dir()
    source = ("--pl_name", "x", "--pl_source", "mine", "--data_dataset", "own")
    shutil.rmtree(root / "net" / "evaluations", ignore_errors=True)
    assert "has not predicted it" in told(pseudo_label, *net, *source)
