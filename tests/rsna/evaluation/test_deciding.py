"""Operating points and triage from planted probabilities to the page, against plain loops."""

import itertools
import json
import math
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from blend_factory import DATASET, make_members

import ensemble
import evaluate
import predict
from common.cli import status_of
from common.scoring.predictions import read_predictions, write_predictions
from common.slices.leakage import id_digests
from common.statistics.decisions import ScoredStudies, Studies, cross_fit_calls
from common.statistics.operating_points import Rule, choose_threshold
from common.statistics.subgroups import Grouping, compare_groups
from flags.evaluation import EvaluationConfig
from rsna.evaluation.deciding import Deciding, call_studies, decided_metrics, with_decisions
from rsna_task import LABELS

NUM_PATIENTS = 60
RULE, ERROR, PREVALENCE = "sensitivity:0.9", 0.2, 0.1
ASKED = ("--ev_rule", RULE, "--ev_error", str(ERROR), "--ev_prevalence", str(PREVALENCE))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    for place in ("evaluation", "blend"):
        monkeypatch.setattr(f"common.report.{place}.figure", lambda drawing, name: name)
        monkeypatch.setattr(f"common.report.{place}.figures", Mock())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Two experiments of three folds, with planted labels and out-of-fold probabilities."""
    root = tmp_path_factory.mktemp("root")
    results = make_members(root, 2, num_patients=NUM_PATIENTS + 2, num_slices=4)
    folder = root / "input" / "datasets" / DATASET
    rng = np.random.default_rng(3)
    frame = pd.read_parquet(folder / "slices.parquet")
    studies = frame["study_id"].unique()
    positive = dict(zip(studies, rng.random(len(studies)) < 0.4))
    is_positive = frame["study_id"].map(positive).to_numpy(dtype=float)
    known = frame["split"].eq("train")
    frame.loc[known, list(LABELS)] = 0.0
    for name in ("subdural", "any"):
        frame.loc[known, name] = is_positive[known]
    first = frame["study_id"].eq(studies[0]) & known
    frame.loc[first, "epidural"] = 1.0
    frame.to_parquet(folder / "slices.parquet")
    for experiment in ("0001", "0002"):
        path = results / experiment / "predictions" / "oof.parquet"
        table = read_predictions(path, LABELS)
        center = table["study_id"].map(positive).to_numpy(dtype=float) * 3 - 1.5
        noise = dict(zip(studies, rng.normal(0, 1.2, len(studies))))
        logits = center + table["study_id"].map(noise) - table["image_id"].str[-1].astype(int)
        for name in LABELS:
            table[f"logit_{name}"] = logits.astype(np.float32)
            table[name] = 1 / (1 + np.exp(-logits))
        write_predictions(path, table, LABELS)
    return root


def run(monkeypatch, root: Path, script, *arguments: str) -> int:
    common = ["--output_dir", str(root / "output")]
    if script is not ensemble:
        common += ["--n_jobs", "0"]
    if script is not predict:
        common += ["--data_input_folder", str(root / "input")]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *common, *arguments])
    return status_of(script.main)


def studies_of(root: Path) -> list[tuple[float, float, int, str]]:
    """Label, probability, fold and patient of each study, of the label any."""
    slices = pd.read_parquet(root / "input" / "datasets" / DATASET / "slices.parquet")
    labels = slices.set_index("image_id")["any"]
    table = pd.read_parquet(root / "output/results/0001/predictions/oof.parquet")
    rows = {}
    for image, study, patient, fold, p in zip(
        *(table[name] for name in ("image_id", "study_id", "patient_id", "fold", "any"))
    ):
        series_two = image.startswith("ID_p1r1")  # shorter, and not used
        if not series_two:
            y, largest, *_ = rows.get(study, (0.0, 0.0))
            rows[study] = (max(y, labels[image]), max(largest, p), int(fold), patient)
    return list(rows.values())


def plain_threshold(rows) -> float:
    """The middle between the last value that is needed and the next one below."""
    values = sorted({p for _, p, *_ in rows}, reverse=True)
    positives = [p for y, p, *_ in rows if y == 1]
    for number, value in enumerate(values):
        if sum(p >= value for p in positives) / len(positives) >= 0.9:
            return (value + values[number + 1]) / 2
    raise AssertionError


def plain_wilson(found: int, number: int) -> list[float]:
    z, share = 1.959963984540054, found / number
    center = (share + z * z / 2 / number) / (1 + z * z / number)
    half = math.sqrt(share * (1 - share) / number + (z / 2 / number) ** 2) / (1 + z * z / number)
    return [center - z * half, center + z * half]


def plain_decision(rows, p: float) -> str:
    positives = sorted(q for y, q, *_ in rows if y == 1)
    negatives = sorted((q for y, q, *_ in rows if y == 0), reverse=True)
    low, high = (v[math.floor(ERROR * (len(v) + 1)) - 1] for v in (positives, negatives))
    out, into = p < low, p > high
    return "read" if out == into else ("rule_out" if out else "rule_in")


def test_rates_of_a_planted_cohort_are_those_of_plain_loops(monkeypatch, capsys, cohort):
    assert run(monkeypatch, cohort, evaluate, "--experiment_id", "0001", *ASKED) == 0
    shown = capsys.readouterr().out
    folder = cohort / "output" / "results" / "0001"
    study = json.loads((folder / "metrics.json").read_text())["study"]
    rows = studies_of(cohort)
    assert len(rows) == NUM_PATIENTS
    counts = dict.fromkeys([(y, c) for y in (0, 1) for c in (False, True)], 0)
    decided = dict.fromkeys([(y, d) for y in (0, 1) for d in ("rule_out", "rule_in", "read")], 0)
    thresholds = {}
    for fold in range(3):
        others = [row for row in rows if row[2] != fold]
        thresholds[str(fold)] = plain_threshold(others)
        for y, p, own, _ in rows:
            if own == fold:
                counts[int(y), p >= thresholds[str(fold)]] += 1
                decided[int(y), plain_decision(others, p)] += 1
    point = study["operating_points"]["any"]
    assert point["thresholds"] == pytest.approx(thresholds, abs=1e-12)
    assert (point["rule"], point["chosen_on"]) == (RULE, "other folds")
    positives, negatives = counts[1, True] + counts[1, False], counts[0, True] + counts[0, False]
    expected = {
        "sensitivity": (counts[1, True], positives),
        "specificity": (counts[0, False], negatives),
        "ppv": (counts[1, True], counts[1, True] + counts[0, True]),
        "npv": (counts[0, False], counts[0, False] + counts[1, False]),
    }
    for name, (found, number) in expected.items():
        rate = point[name]
        assert (rate["num_found"], rate["num_studies"]) == (found, number)
        assert rate["value"] == pytest.approx(found / number, abs=1e-12)
        assert rate["interval"] == pytest.approx(plain_wilson(found, number), abs=1e-8)
    alarms = counts[1, True] + counts[0, True]
    assert point["alarms_per_100"]["value"] == pytest.approx(100 * alarms / NUM_PATIENTS)
    sensitivity, false_rate = counts[1, True] / positives, counts[0, True] / negatives
    called = PREVALENCE * sensitivity + (1 - PREVALENCE) * false_rate
    there = point["at_prevalence"]
    assert there["ppv"]["value"] == pytest.approx(PREVALENCE * sensitivity / called)
    assert there["alarms_per_100"]["value"] == pytest.approx(100 * called)
    assert f"{counts[1, True]} of {positives} found" in point["statement"]["sensitivity"]
    assert point["statement"]["sensitivity"] in shown
    triage = study["triage"]
    assert triage["missed"]["num_found"] == decided[1, "rule_out"]
    assert triage["false_alarms"]["num_found"] == decided[0, "rule_in"]
    num_read = decided[1, "read"] + decided[0, "read"]
    assert triage["decided"]["num_found"] == NUM_PATIENTS - num_read
    assert study["operating_points"]["epidural"]["reason"].startswith("fold ")
    page = (folder / "report.html").read_text()
    assert "Studies at the operating point" in page and "Triage of any" in page
    assert "secret" not in page

    kept = json.loads((folder / "predictor" / "predictor.json").read_text())
    record = kept["operating_points"]
    assert record["thresholds"]["any"] == pytest.approx(plain_threshold(rows), abs=1e-12)
    assert record["thresholds"]["epidural"] is None
    fitted = record["fitted_on"]
    slices = pd.read_parquet(folder / "predictions" / "oof.parquet")
    ids = [*slices["patient_id"], *slices["study_id"]]
    assert fitted["digests"] == id_digests(ids, fitted["salt"])
    assert (fitted["dataset"], fitted["num_patients"]) == (DATASET, NUM_PATIENTS)
    assert "secret" not in json.dumps(kept)
    positives_p = sorted(p for y, p, *_ in rows if y == 1)
    bound = positives_p[math.floor(ERROR * (len(positives_p) + 1)) - 1]
    assert kept["conformal"]["rule_out"]["value"] == pytest.approx(bound, abs=1e-12)
    assert kept["conformal"]["guarantee"].startswith("close, not exact")


def dataset_like(root: Path, name: str, **changes: str) -> Path:
    """A copy of the dataset without folds, ids of patients and studies replaced."""
    old, folder = (root / "input" / "datasets" / each for each in (DATASET, name))
    shutil.copytree(old, folder, ignore=shutil.ignore_patterns("folds.csv"))
    frame = pd.read_parquet(folder / "slices.parquet")
    for column, prefix in changes.items():
        frame[column] = prefix + frame[column]
    frame.to_parquet(folder / "slices.parquet")
    return folder


def test_kept_thresholds_are_scored_on_others_alone(monkeypatch, caplog, cohort):
    flags = ("--experiment_id", "0001", "--data_dataset")
    assert run(monkeypatch, cohort, evaluate, "--experiment_id", "0001", *ASKED) == 0
    folder = cohort / "output" / "results" / "0001"
    before = (folder / "predictor" / "predictor.json").read_bytes()
    kept = json.loads(before)
    dataset_like(cohort, "same")
    assert run(monkeypatch, cohort, evaluate, *flags, "same") == 0
    study = json.loads((folder / "evaluations/same/metrics.json").read_text())["study"]
    told = f"{NUM_PATIENTS} patients of these were used to choose it"
    for reason in (study["operating_points"]["any"]["reason"], study["triage"]["reason"]):
        assert reason.startswith(told)
    assert told in caplog.text and study["scores"]["auc"]["any"]["value"] is not None

    dataset_like(cohort, "others", patient_id="other-", study_id="other-")
    assert run(monkeypatch, cohort, evaluate, *flags, "others") == 0
    place = folder / "evaluations" / "others"
    point = json.loads((place / "metrics.json").read_text())["study"]["operating_points"]["any"]
    assert point["threshold"] == kept["operating_points"]["thresholds"]["any"]
    assert point["chosen_on"] == f"{DATASET}: {NUM_PATIENTS} patients"
    table = pd.read_parquet(place / "predictions.parquet")
    table = table[table["image_id"].str.startswith("ID_p1r1").eq(False)]
    called = table.groupby("study_id")["any"].max() >= point["threshold"]
    assert point["alarms_per_100"]["num_found"] == int(called.sum())

    asked = ("--ev_rule", "specificity:0.5", "--ev_error", "0.3")
    assert run(monkeypatch, cohort, evaluate, *flags, "others", *asked) == 0
    study = json.loads((place / "metrics.json").read_text())["study"]
    assert study["operating_points"]["any"]["chosen_on"] == "other patients of the same data"
    assert len(study["operating_points"]["any"]["thresholds"]) == 5
    assert (folder / "predictor" / "predictor.json").read_bytes() == before

    dataset = dataset_like(cohort, "by_study", patient_id="third-", study_id="third-")
    frame = pd.read_parquet(dataset / "slices.parquet")
    labels = frame.groupby("study_id", as_index=False)[["patient_id", *LABELS]].max()
    labels.dropna().assign(label_source="study").to_parquet(dataset / "studies.parquet")
    frame.assign(**dict.fromkeys(LABELS, np.nan)).to_parquet(dataset / "slices.parquet")
    assert run(monkeypatch, cohort, evaluate, *flags, "by_study") == 0
    metrics = json.loads((folder / "evaluations/by_study/metrics.json").read_text())
    assert metrics["num_slices"] == 0
    assert metrics["study"]["operating_points"]["any"]["sensitivity"]["num_studies"] > 0


def test_a_blend_keeps_its_own(monkeypatch, cohort):
    members = ("--ens_experiments", "0001,0002", "--experiment_id", "0009")
    assert run(monkeypatch, cohort, ensemble, *members) == 0
    assert run(monkeypatch, cohort, evaluate, "--experiment_id", "0009", *ASKED) == 0
    folder = cohort / "output" / "results" / "0009"
    study = json.loads((folder / "metrics.json").read_text())["study"]
    assert study["operating_points"]["any"]["chosen_on"] == "other folds"
    kept = json.loads((folder / "predictor" / "predictor.json").read_text())
    assert kept["operating_points"]["thresholds"]["any"] is not None
    assert kept["conformal"]["label"] == "any" and kept["kind"] == "blend"
    card = json.loads((folder / "predictor" / "model_card.json").read_text())
    points = card["thresholds"]["operating_points"]
    assert points["thresholds"] == kept["operating_points"]["thresholds"]
    whom = {"dataset": DATASET, "num_patients": NUM_PATIENTS, "num_studies": NUM_PATIENTS}
    assert points["fitted_on"] == whom
    assert not run(monkeypatch, cohort, evaluate, "--experiment_id", "0009", *ASKED[:2])
    assert json.loads((folder / "metrics.json").read_text())["study"]["triage"] is None
    again = json.loads((folder / "predictor" / "predictor.json").read_text())
    assert again["conformal"] == kept["conformal"]


def test_predict_writes_calls_and_decisions(monkeypatch, cohort, tmp_path):
    assert run(monkeypatch, cohort, evaluate, "--experiment_id", "0001", *ASKED) == 0
    source = cohort / "input" / "datasets" / DATASET
    flags = ("--pr_input", str(source), "--pr_output", str(tmp_path / "out"), "--pr_pages", "2")
    assert run(monkeypatch, cohort, predict, "--experiment_id", "0001", *flags) == 0
    studies = pd.read_csv(tmp_path / "out" / "studies.csv")
    content = cohort / "output" / "results" / "0001" / "predictor" / "predictor.json"
    kept = json.loads(content.read_text())
    whole = studies[studies["status"] == "ok"]
    threshold = kept["operating_points"]["thresholds"]["any"]
    assert (whole["call"] == (whole["any"] >= threshold)).all()
    partial = studies[studies["status"] == "partial"]
    assert len(partial) and (partial["decision"] == "read").all()
    columns = studies.columns.to_list()
    assert columns[columns.index("number") + 1] == "call" and columns[-1] == "decision"
    assert "call_subdural" in columns and "call_epidural" not in columns
    index = (tmp_path / "out" / "index.html").read_text()
    assert "<th>call</th>" in index and "<th>decision</th>" in index
    page = next((tmp_path / "out").glob("study_*.html")).read_text()
    assert "At the thresholds of the predictor: call " in page


def test_studies_that_were_not_seen_whole_are_left_to_a_person():
    status = ["ok", "ok", "partial", "partial", "prior", "no_ct"]
    any_of = [0.9, 0.1, 0.9, 0.1, 0.9, np.nan]
    studies = pd.DataFrame({"status": status, "subdural": any_of, "any": any_of})
    bound = {"error_rate": 0.1, "error_at_most": 0.2, "num_patients": 20}
    points = {"thresholds": {"subdural": None, "any": 0.5}}
    sides = {"rule_out": bound | {"value": 0.3}, "rule_in": bound | {"value": 0.7}}
    found = with_decisions(studies, ("subdural", "any"), points, {"label": "any", **sides})
    assert list(found) == [*studies, "call", "decision"]
    assert found["call"].astype(object).where(found["call"].notna(), None).tolist() == [
        *(1, 0, 1),
        *(None, None, None),
    ]
    assert found["decision"].tolist() == ["rule_in", "rule_out", *["read"] * 4]
    old = with_decisions(studies, ("subdural", "any"), None, None)
    pd.testing.assert_frame_equal(old, studies)


def test_patients_are_dealt_whole_and_alike_in_any_order():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 40, 90).astype(str).astype(object)
    y, p = (rng.random(90) < 0.3).astype(float), rng.random(90)
    studies, order = Studies(y, p, patients), rng.permutation(90)
    groups = studies.groups()
    assert (pd.Series(groups).groupby(patients).nunique() == 1).all() and set(groups) == set(
        range(5)
    )
    shuffled = studies.of(order)
    np.testing.assert_array_equal(shuffled.groups(), groups[order])
    rule = Rule("sensitivity", 0.8)
    calls = cross_fit_calls(shuffled, rule).calls
    np.testing.assert_array_equal(calls, cross_fit_calls(studies, rule).calls[order])
    split = Studies(y, p, patients, folds=np.arange(90) % 2)  # a patient in two folds
    assert not split.has_folds and set(split.groups()) == set(range(5))
    few = Studies(np.array([1.0, 0, 0]), np.array([0.9, 0.1, 0.2]), np.array(["a", "b", "c"]))
    assert (
        cross_fit_calls(few, rule).reason
        == "1 positive patient: at least 2 needed, to choose on others"
    )
    assert cross_fit_calls(few, Rule("fixed", 0.15)).calls.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("ev_rule", "sens:0.9", "--ev_rule sens:0.9: rule sens: not one of"),
        ("ev_rule", "sensitivity:1.2", "--ev_rule sensitivity:1.2: rule"),
        ("ev_rule", "0.9", "--ev_rule 0.9: rule '0.9': write kind:value"),
        ("ev_prevalence", 1.0, "--ev_prevalence 1.0: must be between 0 and 1"),
        ("ev_error", 0.5, "--ev_error 0.5: must be at least 0 and below 0.5"),
    ],
)
def test_flags_name_what_is_wrong(flag, value, told):
    with pytest.raises(ValueError, match=r".") as error:
        EvaluationConfig(**{flag: value})
    assert str(error.value).startswith(told)


def test_studies_seen_in_part_are_counted_apart():
    """In rates, curve, groups and failures as a plain loop over studies has them."""
    rng = np.random.default_rng(5)
    y, p = (rng.random(400) < 0.4).astype(float), rng.random(400).round(3)
    status = rng.choice(["ok", "partial", "prior"], 400, p=[0.6, 0.3, 0.1]).astype(object)
    patients = np.arange(400).astype(str).astype(object)
    scored = ScoredStudies(y[:, None], p[:, None], patients, patients, statuses=status)
    how = Deciding(Rule("fixed", 0.5))
    scored = call_studies(scored, ["any"], how)
    counts = dict.fromkeys(itertools.product((0, 1), ("called", "passed")), 0)
    apart = dict.fromkeys(("num_studies", "num_positive", "num_called", "num_positive_called"), 0)
    expected = []
    for label, value, seen in zip(y.astype(int).tolist(), p.tolist(), status.tolist()):
        is_called = value >= 0.5 and seen != "prior"
        expected.append(1.0 if is_called else (0.0 if seen == "ok" else None))
        if seen == "ok":
            counts[label, "called" if is_called else "passed"] += 1
        elif seen == "partial":
            apart["num_studies"] += 1
            apart["num_positive"] += label
            apart["num_called"] += is_called
            apart["num_positive_called"] += label and is_called
    calls = scored.columns(["any"])["any"].calls
    assert [None if np.isnan(call) else call for call in calls] == expected
    metrics = decided_metrics(scored, ["any"], how)
    point = metrics["operating_points"]["any"]
    assert point["partial"] == apart and apart["num_called"] < apart["num_studies"]
    assert point["num_without_call"] == (status == "prior").sum()
    sensitivity = counts[1, "called"] / (counts[1, "called"] + counts[1, "passed"])
    specificity = counts[0, "passed"] / (counts[0, "called"] + counts[0, "passed"])
    assert point["sensitivity"]["value"] == pytest.approx(sensitivity)
    assert point["specificity"]["value"] == pytest.approx(specificity)
    num_called = counts[0, "called"] + counts[1, "called"] + apart["num_called"]
    assert point["alarms_per_100"]["num_found"] == point["ppv"]["num_studies"] == num_called
    assert point["alarms_per_100"]["num_studies"] == (status != "prior").sum()
    curve = metrics["decision_curve"]["any"]
    share = (counts[1, "called"] + counts[1, "passed"]) / sum(counts.values())
    benefit = share * sensitivity - (1 - share) * (1 - specificity)  # at 0.5 both cost as much
    assert curve["net_benefit"]["value"][curve["threshold"].index(0.5)] == pytest.approx(benefit)
    of_group = Grouping({"all": np.ones(400)})
    group = compare_groups(scored.columns(["any"])["any"], {"x": of_group})["x"]["all"]
    assert group.estimates["sensitivity"].value == pytest.approx(sensitivity)
    assert group.estimates["specificity"].value == pytest.approx(specificity)


def test_thresholds_are_chosen_on_studies_seen_whole():
    rng = np.random.default_rng(6)
    y, p = (rng.random(200) < 0.5).astype(float), rng.random(200)
    patients = np.arange(200).astype(str).astype(object)
    status = np.where(rng.random(200) < 0.3, "partial", "ok").astype(object)
    studies = Studies(y, p, patients, np.arange(200) % 4, status)
    found = cross_fit_calls(studies, Rule("sensitivity", 0.9))
    for fold in range(4):
        others = (np.arange(200) % 4 != fold) & (status == "ok")
        assert found.thresholds[fold] == choose_threshold(
            y[others], p[others], Rule("sensitivity", 0.9)
        )
    alone = studies.of(status == "ok")
    assert found.threshold == cross_fit_calls(alone, Rule("sensitivity", 0.9)).threshold
