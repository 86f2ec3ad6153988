"""New studies against the reference of a predictor: kept, compared, refused; no ids."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluate_script import make_experiment
from predictor_factory import make_dataset

from common.cli import status_of
from common.experiment import Experiment
from common.predictors.loading import load_predictor
from common.scoring.drift import Reference
from common.scoring.predictions import build_predictions, read_predictions, write_predictions
from common.slices.store import write_series
from common.slices.table import STORE_FOLDER, SliceTable
from common.tables import write_parquet
from rsna.evaluation.drifting import keep_reference
from rsna_model import build_model
from rsna_task import LABELS
from scripts import drift


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    tmp_path = tmp_path_factory.mktemp("made")
    make_experiment(tmp_path)
    for name in ("before", "same", "brighter"):
        make_dataset(tmp_path / name, num_patients=12)
    store = tmp_path / "brighter" / STORE_FOLDER
    table = SliceTable.load(tmp_path / "same")
    for name, rows in table.frame[table.readable].groupby("store_file").groups.items():
        images = np.stack([table.image_hu(row) for row in rows])
        write_series(store / str(name), np.where(images > -500, images + 4, images))
    return tmp_path


@pytest.fixture
def root(tmp_path, made) -> Path:
    """An experiment and three datasets, to be changed."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "output/results/0001/config.yaml"
    config.write_text(config.read_text().replace(str(made), str(tmp_path)))
    return tmp_path


def run(monkeypatch, root: Path, *arguments: str) -> int:
    common = ["--output_dir", str(root / "output"), "--experiment_id", "0001"]
    monkeypatch.setattr(sys, "argv", ["drift.py", *common, *arguments])
    return status_of(drift.main)


def refused(monkeypatch, capsys, root: Path, *arguments: str) -> str:
    capsys.readouterr()
    assert run(monkeypatch, root, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return next(line for line in reversed(lines) if line.startswith("error: "))


def reference_of(root: Path) -> Reference:
    path = root / "output/results/0001/predictor/predictor.json"
    return Reference.from_json(json.loads(path.read_text())["reference"])


def write_output(root: Path, dataset: Path, experiment_id: str) -> Path:
    """An output of predict.py over DICOM, with probabilities that say nothing."""
    folder = root / f"out_{experiment_id}_{dataset.name}"
    shutil.copytree(dataset, folder / "dataset")
    table = SliceTable.load(dataset)
    rows = table.frame[table.readable]
    logits = np.random.default_rng(2).normal(0, 1, (len(rows), len(LABELS)))
    frame = build_predictions(rows, logits, LABELS, None, experiment_id)
    write_predictions(folder / "predictions.parquet", frame, LABELS)
    frame.groupby("study_id")[list(LABELS)].max().reset_index().to_csv(
        folder / "studies.csv", index=False
    )
    return folder


@pytest.mark.drawn
def test_a_reference_is_fitted_and_a_shift_of_hu_found(monkeypatch, capsys, root):
    given = "--dr_input", str(root / "before")
    assert "keeps no reference" in refused(monkeypatch, capsys, root, *given)
    assert run(monkeypatch, root, *given, "--dr_fit", "1") == 0
    assert len(reference_of(root).rows) == 12
    predictor = root / "output/results/0001/predictor"
    load_predictor(predictor, build_model)
    card = json.loads((predictor / "model_card.json").read_text())
    digest = hashlib.sha256((predictor / "predictor.json").read_bytes()).hexdigest()
    assert card["hashes"]["predictor"]["predictor.json"] == digest
    capsys.readouterr()
    assert run(monkeypatch, root, "--dr_input", str(root / "brighter")) == 0
    shown = capsys.readouterr().out
    assert "ALARM: these studies differ" in shown and "probabilities are not among" in shown
    compared, listed, further, left = (
        int(re.search(words, shown)[1])
        for words in (
            r"in (\d+) columns\n",
            r"differ in (\d+) column",
            r"\n(\d+) further columns? without an alarm",
            r", (\d+) not compared",
        )
    )
    assert max(listed, 10) + further == compared
    place = root / "output" / "drift" / "0001_brighter"
    found = pd.read_csv(place / "drift.csv").set_index("column")
    assert compared + left == len(found)
    assert found.loc["hu_q50", "alarm"]
    assert found.loc["hu_q50", "new"] - found.loc["hu_q50", "reference"] == pytest.approx(
        4, abs=0.1
    )
    assert not found.loc["spacing", "alarm"]
    page = (place / "report.html").read_text()
    for text in (shown, page, json.dumps(reference_of(root).to_json())):
        assert not any(name in text for name in ("secret-patient", "study1", "p1r0"))


def test_the_same_studies_give_no_alarm(monkeypatch, capsys, root):
    assert run(monkeypatch, root, "--dr_input", str(root / "before"), "--dr_fit", "1") == 0
    assert run(monkeypatch, root, "--dr_input", str(root / "same")) == 0
    assert "no alarm: p 1.0000" in capsys.readouterr().out


def test_a_training_keeps_one_study_of_each_patient_with_its_probabilities(root):
    experiment = Experiment(root / "output/results/0001")
    table = SliceTable.load(root / "input/datasets/own")
    keep_reference(experiment, table)
    reference = reference_of(root)
    frame = read_predictions(experiment.predictions_file("valid"), LABELS)
    used = frame[frame["series_id"] != "p1r1"]
    expected = sorted(used.groupby("study_id")["any"].max())
    assert sorted(reference.rows["probability of any"]) == pytest.approx(expected, rel=1e-3)
    assert len(reference.rows) == 6 == reference.num_patients
    assert "not trained on" in reference.source


def test_probabilities_come_from_predict_or_an_evaluation_of_the_same_predictor(
    monkeypatch, capsys, root
):
    path = root / "output/results/0001/predictor/predictor.json"
    content = json.loads(path.read_text())
    content["training"]["experiment_id"] = "0001"
    path.write_text(json.dumps(content))
    before, same = (write_output(root, root / name, "0001") for name in ("before", "same"))
    assert run(monkeypatch, root, "--dr_input", str(before), "--dr_fit", "1") == 0
    assert run(monkeypatch, root, "--dr_input", str(same)) == 0
    assert "no alarm" in capsys.readouterr().out
    studies = pd.read_csv(same / "studies.csv")
    studies[list(LABELS)] = studies[list(LABELS)] / 10
    studies.to_csv(same / "studies.csv", index=False)
    assert run(monkeypatch, root, "--dr_input", str(same)) == 0
    assert "probability of any" in capsys.readouterr().out.split("ALARM")[1]
    shutil.rmtree(same / "dataset")
    error = refused(monkeypatch, capsys, root, "--dr_input", str(same))
    assert "give that as --dr_input, and this folder as --dr_predictions" in error
    both = ("--dr_input", str(root / "same"), "--dr_predictions", str(same))
    assert run(monkeypatch, root, *both) == 0
    assert "ALARM" in capsys.readouterr().out
    other = write_output(root, root / "same", "0007")
    assert "predictions of another one" in refused(
        monkeypatch, capsys, root, "--dr_input", str(other)
    )


def test_what_can_not_be_compared_is_refused(monkeypatch, capsys, root):
    assert "--dr_input is missing" in refused(monkeypatch, capsys, root)
    error = refused(monkeypatch, capsys, root, "--dr_input", str(root / "output"))
    assert "neither an output of predict.py nor a prepared dataset" in error
    wrong = ("--dr_permutations", "99", "--dr_false_alarms", "0.001")
    assert "at least 1000" in refused(monkeypatch, capsys, root, *wrong)
    assert run(monkeypatch, root, "--dr_input", str(root / "before"), "--dr_fit", "1") == 0
    frame = SliceTable.load(root / "same").frame
    write_parquet(root / "same" / "slices.parquet", frame[frame["study_id"] == "study2"])
    error = refused(
        monkeypatch, capsys, root, "--dr_input", str(root / "same"), "--dr_false_alarms", "0.01"
    )
    assert "1 new patient and 12 of the reference can't give an alarm" in error
