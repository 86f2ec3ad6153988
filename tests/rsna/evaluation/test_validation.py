"""Several datasets by one protocol: frozen, kept to, refused where anything differs."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from evaluate_script import make_experiment
from predictor_factory import make_dataset

from common.cli import status_of
from rsna_task import LABELS
from scripts import validate


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """An experiment with two other datasets, one of which labels studies alone."""
    folder = make_experiment(tmp_path)
    dataset = tmp_path / "input" / "datasets" / "by_study"
    frame = make_dataset(dataset, num_patients=16).frame
    studies = frame.groupby("study_id", as_index=False)[["patient_id", *LABELS]].max()
    studies.to_parquet(dataset / "studies.parquet")
    frame.assign(**dict.fromkeys(LABELS, np.nan)).to_parquet(dataset / "slices.parquet")
    return folder


def run(monkeypatch, experiment: Path, *more: str) -> int:
    output = experiment.parent.parent
    arguments = ["--experiment_id", experiment.name, "--output_dir", str(output), *more]
    monkeypatch.setattr(sys, "argv", ["validate.py", "--n_jobs", "0", *arguments])
    return status_of(validate.main)


def test_one_table_over_datasets(monkeypatch, capsys, experiment):
    assert run(monkeypatch, experiment, "--ev_datasets", "other,by_study") == 0
    place = experiment / "evaluations"
    table = pd.read_csv(place / "validation.csv").set_index("dataset")
    assert list(table.index) == ["other", "by_study"]
    digest = yaml.safe_load((place / "protocol.yaml").read_text())["sha256"]
    for name, row in table.iterrows():
        metrics = json.loads((place / str(name) / "metrics.json").read_text())
        assert metrics["protocol"] == row["protocol"] == digest
        assert digest in (place / str(name) / "report.html").read_text()
        study = metrics["study"]
        assert row["prevalence"] == study["num_positive"]["any"] / metrics["num_studies"]
        assert row["study_weighted_log_loss"] == pytest.approx(study["weighted_log_loss"])
        for column, value in (
            ("weighted_log_loss", metrics["weighted_log_loss"]),
            ("study_auc_any", study["auc"]["any"]),
            ("study_auc_any_low", (study["interval"]["auc"]["any"] or [None])[0]),
        ):
            assert (
                row[column] == pytest.approx(value) if value is not None else pd.isna(row[column])
            )
    page = (place / "validation.html").read_text()
    assert digest in page and "by_study" in page and "secret-patient" not in page
    assert digest in capsys.readouterr().out
    card = json.loads((experiment / "predictor" / "model_card.json").read_text())
    assert card["protocols"] == [digest]


def test_rates_at_the_operating_point_are_in_the_table(monkeypatch, capsys, experiment):
    flags = ("--ev_datasets", "other,by_study", "--ev_rule", "fixed:0.5")
    assert run(monkeypatch, experiment, *flags) == 0
    place = experiment / "evaluations"
    table = pd.read_csv(place / "validation.csv").set_index("dataset")
    for name, row in table.iterrows():
        study = json.loads((place / str(name) / "metrics.json").read_text())["study"]
        for label in LABELS:
            point = study["operating_points"][label]
            assert row[f"{label}_threshold"] == 0.5
            assert row[f"{label}_num_partial"] == point["partial"]["num_studies"]
            for rate in ("sensitivity", "specificity"):
                of, column = point[rate], f"{label}_{rate}"
                values = [of["value"], *(of["interval"] or [None] * 2)]
                columns = [column, f"{column}_low", f"{column}_high"]
                expected = [np.nan if value is None else value for value in values]
                assert row[columns].astype(float).tolist() == pytest.approx(expected, nan_ok=True)
                for num in ("num_found", "num_studies"):
                    assert row[f"{column}_{num}"] == of[num]
    assert table.loc["by_study", "any_sensitivity_num_studies"] > 0
    row = table.loc["by_study"]
    counts = f"{row['any_sensitivity_num_found']:.0f} of {row['any_sensitivity_num_studies']:.0f}"
    value = row["any_sensitivity"]
    low, high = row["any_sensitivity_low"], row["any_sensitivity_high"]
    cell = f"{value:.3g} ({low:.3g} to {high:.3g}), {counts}"
    for shown in ((place / "validation.html").read_text(), capsys.readouterr().out):
        assert cell in shown and "any_sensitivity_low" not in shown.split("Protocol<")[0]
    protocol = yaml.safe_load((place / "protocol.yaml").read_text())
    assert {"any_sensitivity", "subdural_specificity_high"} <= set(protocol["endpoints"])


def test_a_protocol_is_frozen_before_and_kept_to(monkeypatch, capsys, experiment):
    protocol = experiment.parent / "protocol.yaml"
    flags = ("--ev_protocol", str(protocol))
    first = ("--ev_datasets", "other", "--ev_held_out", "secret-patient-1,secret-patient-2")
    assert run(monkeypatch, experiment, *first, *flags) == 0
    assert "nothing was scored" in capsys.readouterr().out
    assert not (experiment / "evaluations").exists()
    assert "secret" not in protocol.read_text()
    # Who is held out is no part of the file: it has to be said again.
    assert run(monkeypatch, experiment, *flags) == 2
    assert "num_held_out_ids is None, there 2" in capsys.readouterr().err
    assert run(monkeypatch, experiment, *flags, *first[2:]) == 0
    metrics = json.loads((experiment / "evaluations/other/metrics.json").read_text())
    assert metrics["num_studies"] == 2
    assert metrics["flow"][-1]["excluded"] == {"not named by --ev_held_out": 2}
    others = ("--ev_held_out", "secret-patient-1,secret-patient-3")
    assert run(monkeypatch, experiment, *flags, *others) == 2
    assert "datasets.other.labels_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("flag", "flags.pr_tta is 2, there 0"),
        ("label", "datasets.other.labels_sha256"),
        ("pixels", "datasets.other.slices_sha256"),
        ("kernel", "datasets.other.slices_sha256"),
        ("predictor", "threshold is 0.25, there 0.5"),
        ("datasets", "datasets.by_study.num_studies is 16, there None"),
        ("edited", "was changed after it was written"),
        ("nonsense", "is no protocol"),
    ],
)
def test_what_differs_is_refused_and_named(monkeypatch, capsys, experiment, what, message):
    protocol = experiment.parent / "protocol.yaml"
    flags = ("--ev_protocol", str(protocol), "--ev_datasets", "other")
    assert run(monkeypatch, experiment, *flags) == 0
    slices = experiment.parents[2] / "input" / "datasets" / "other" / "slices.parquet"
    frame, more = pd.read_parquet(slices), ()
    info = experiment / "predictor" / "predictor.json"
    if what == "flag":
        more = ("--pr_tta", "2")
    elif what == "label":
        frame.loc[3, "any"] = 1 - frame.loc[3, "any"]
        frame.to_parquet(slices)
    elif what == "pixels":
        frame.assign(hu_max=2000).to_parquet(slices)
    elif what == "kernel":
        frame.assign(kernel="H70h").to_parquet(slices)
    elif what == "predictor":
        info.write_text(json.dumps(json.loads(info.read_text()) | {"threshold": 0.25}))
    elif what == "datasets":
        flags = (*flags[:3], "other,by_study")
    elif what == "edited":
        protocol.write_text(protocol.read_text().replace("threshold: 0.5", "threshold: 0.75"))
    else:
        protocol.write_text("[1, 2")
    capsys.readouterr()
    assert run(monkeypatch, experiment, *flags, *more) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (experiment / "evaluations").exists()


def test_the_order_of_rows_is_no_difference(monkeypatch, experiment):
    flags = ("--ev_protocol", str(experiment.parent / "protocol.yaml"), "--ev_datasets", "other")
    assert run(monkeypatch, experiment, *flags) == 0
    slices = experiment.parents[2] / "input" / "datasets" / "other" / "slices.parquet"
    pd.read_parquet(slices).sample(frac=1, random_state=0).to_parquet(slices)
    assert run(monkeypatch, experiment, *flags) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--ev_datasets is missing"),
        (("--ev_datasets", "own"), "--ev_datasets own: the experiment was trained on it"),
        (("--ev_datasets", "other,"), "--ev_datasets other,: must be names of datasets"),
        (("--ev_datasets", "other,other"), "each dataset once"),
        (("--ev_datasets", "other,absent"), "no dataset at"),
    ],
)
def test_flags_that_can_not_be_used(monkeypatch, capsys, experiment, flags, message):
    assert run(monkeypatch, experiment, *flags) == 2
    assert message in capsys.readouterr().err
    assert not (experiment / "evaluations").exists()
