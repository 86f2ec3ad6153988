"""Experiments on the same patients: scores as evaluate.py has them, planted gaps, refusals."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blend_factory import make_members
from predictor_factory import make_dataset

from common.cli import status_of
from common.scoring.predictions import read_predictions, write_predictions
from common.slices.table import SliceTable
from common.statistics.scores import compare as compare_scores
from rsna.evaluation.evaluation import evaluate_experiment
from rsna_task import LABELS
from scripts import compare

PATIENTS = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root")
    results = make_members(root, 2, num_patients=PATIENTS, num_test=2)
    # A third one knows nothing of `any`.
    shutil.copytree(results / "0002", results / "0003")
    path = results / "0003" / "predictions" / "oof.parquet"
    frame = read_predictions(path, LABELS)
    frame["any"] = np.random.default_rng(1).uniform(0.05, 0.95, len(frame))
    write_predictions(path, frame, LABELS)
    return root


def run(monkeypatch, root: Path, names: str, *arguments: str) -> int:
    common = ["--output_dir", str(root / "output"), "--ev_experiments", names]
    monkeypatch.setattr(sys, "argv", ["compare.py", *common, *arguments])
    return status_of(compare.main)


def refused(monkeypatch, capsys, root: Path, names: str, *arguments: str) -> str:
    capsys.readouterr()
    assert run(monkeypatch, root, names, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return next(line for line in reversed(lines) if line.startswith("error: "))


def result(root: Path, name: str) -> pd.DataFrame:
    path = root / "output" / "comparisons" / name / "comparison.csv"
    return pd.read_csv(path, dtype={"experiment": "str"}).fillna({"label": "all"})


def test_scores_are_those_of_evaluate_and_differences_those_of_the_statistics(
    monkeypatch, capsys, root
):
    assert run(monkeypatch, root, "0001,0002,0003") == 0
    table = SliceTable.load(root / "input" / "datasets" / "own")
    found = result(root, "0001_0002_0003").set_index(["unit", "score", "label", "experiment"])
    metrics = {}
    for name in ("0001", "0002"):
        metrics = evaluate_experiment(root / "output" / "results" / name, table).metrics
        for unit, part in (("slices", metrics), ("studies", metrics["study"])):
            own = found.loc[(unit, "weighted_log_loss", "all", name)]
            assert own["value"] == pytest.approx(part["weighted_log_loss"], abs=1e-12)
            for label in LABELS:
                own = found.loc[(unit, "auc", label, name)]
                expected = np.nan if part["auc"][label] is None else part["auc"][label]
                assert own["value"] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    frames = [
        read_predictions(root / f"output/results/{name}/predictions/oof.parquet", LABELS)
        for name in ("0001", "0002", "0003")
    ]
    frames = [frame.sort_values("image_id") for frame in frames]
    labels = table.labels(table.rows_of(frames[0]["image_id"]), ("any",))[:, 0]
    probabilities = {str(k): frame["any"].to_numpy() for k, frame in enumerate(frames)}
    expected = compare_scores("auc", labels, probabilities, frames[0]["patient_id"].to_numpy())
    for number, name in (("1", "0002"), ("2", "0003")):
        own = found.loc[("slices", "auc", "any", name)]
        assert own["difference"] == pytest.approx(expected[number].value, abs=1e-12)
        assert own["p_value_holm"] == pytest.approx(expected[number].adjusted_p_value, abs=1e-12)
    assert pd.isna(found.loc[("slices", "auc", "any", "0001")]["difference"])
    page = (root / "output/comparisons/0001_0002_0003/report.html").read_text()
    shown = capsys.readouterr().out + page
    assert not any(name in shown for name in ("secret-patient", "study1", "ID_p"))


@pytest.mark.drawn
def test_a_planted_gap_is_found_and_a_margin_is_claimed_only_where_it_holds(
    monkeypatch, capsys, root
):
    assert run(monkeypatch, root, "0001,0002,0003", "--ev_margin", "0.2") == 0
    shown = capsys.readouterr().out
    found = result(root, "0001_0002_0003").set_index(["unit", "score", "label", "experiment"])
    worse, alike = (found.loc[("slices", "auc", "any", name)] for name in ("0003", "0002"))
    assert worse["p_value_holm"] < 0.01 and worse["difference_high"] < -0.2
    assert not worse["non_inferior"] and alike["non_inferior"]
    assert "AUC of any, slices: 0002 is worse than 0001 by less than 0.2" in shown
    assert "AUC of any, slices: not shown that 0003 is worse" in shown


def test_what_was_selected_or_has_no_origin_is_marked_and_not_claimed(monkeypatch, capsys, root):
    oof = root / "output/results/0002/predictions/oof.parquet"
    alone, best = root / "alone.parquet", oof.with_name("oof_best.parquet")
    shutil.copy(oof, alone)
    shutil.copy(oof, best)
    assert run(monkeypatch, root, f"0001,{alone},{best}", "--ev_margin", "0.9") == 0
    shown = capsys.readouterr().out
    assert "alone: unknown what it was trained on" in shown
    assert "0002, oof_best: checkpoint selected on these rows" in shown
    assert shown.count("no claim of") == 4
    best.unlink()


def test_only_what_all_have_scored_counts(monkeypatch, capsys, root):
    oof = root / "output/results/0002/predictions/oof.parquet"
    frame = read_predictions(oof, LABELS)
    for number, keep in ((0, frame["fold"] == 0), (1, frame["fold"] == 1)):
        write_predictions(root / f"part_{number}.parquet", frame[keep], LABELS)
    assert run(monkeypatch, root, f"0001,{root / 'part_0.parquet'}") == 0
    num, all_of_them = int((frame["fold"] == 0).sum()), len(frame)
    shown = capsys.readouterr().out
    assert f"slices of 0001 {all_of_them - num}" in shown
    assert (result(root, "0001_part_0").query("unit == 'slices'")["num"] == num).all()
    parts = f"{root / 'part_0.parquet'},{root / 'part_1.parquet'}"
    error = refused(monkeypatch, capsys, root, parts)
    assert "say which one by --data_dataset" in error
    data = ("--data_dataset", "own", "--data_input_folder", str(root / "input"))
    assert "no slice is scored by all" in refused(monkeypatch, capsys, root, parts, *data)


def test_other_labels_datasets_and_numbers_of_experiments_are_refused(monkeypatch, capsys, root):
    for names in ("0001", "0001,0001"):
        assert "two or more different" in refused(monkeypatch, capsys, root, names)
    assert "no experiment at" in refused(monkeypatch, capsys, root, "0001,0009")
    results = root / "output" / "results"
    shutil.copytree(results / "0002", results / "0004")
    path = results / "0004" / "predictor" / "predictor.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"label_names": ["any"]}))
    assert "different labels" in refused(monkeypatch, capsys, root, "0001,0004")
    path.write_text(json.dumps(content))
    config = results / "0004" / "config.yaml"
    config.write_text(config.read_text().replace("data_dataset: own", "data_dataset: other"))
    assert "of several datasets" in refused(monkeypatch, capsys, root, "0001,0004")
    make_dataset(root / "input" / "datasets" / "third")
    error = refused(monkeypatch, capsys, root, "0001,0004", "--data_dataset", "third")
    assert "no predictions of third: first evaluate.py --experiment_id 0001" in error
