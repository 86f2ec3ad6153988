"""The card beside a predictor: facts of files, nothing of patients or machines."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from evaluate_script import make_experiment, run_evaluate
from metric_keys import check_keys

from common.experiment import Experiment
from common.slices.table import SliceTable
from rsna.evaluation.model_card import (
    TRIPOD_FILE,
    _scores,
    card_page,
    has_value,
    public,
    write_card,
)
from rsna_task import LABELS


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """An experiment scored on its own rows and on another dataset."""
    with pytest.MonkeyPatch.context() as patch:
        experiment = make_experiment(tmp_path_factory.mktemp("root"))
        dataset = experiment.parents[2] / "input" / "datasets" / "own"
        parameters = {"fold_by": "patient", "num_folds": 5, "labels": "/home/x/labels.csv"}
        manifest = {"source": "dicom", "folder": "/home/x/scans", "parameters": parameters}
        manifest["sha256"] = {"slices.parquet": "abc"}
        (dataset / "manifest.json").write_text(json.dumps(manifest))
        assert run_evaluate(patch, experiment) == 0
        assert run_evaluate(patch, experiment, "--data_dataset", "other") == 0
    return experiment


def card_of(experiment: Path) -> dict:
    return json.loads((experiment / "predictor" / "model_card.json").read_text())


def test_facts_are_those_of_the_files(evaluated):
    card, root = card_of(evaluated), evaluated.parents[2]
    table = SliceTable.load(root / "input" / "datasets" / "own")
    frame = table.frame[table.readable]
    assert card["data"]["num_patients"] == frame["patient_id"].nunique() == 6
    assert card["data"]["num_slices"] == len(frame)
    positive = frame.groupby("study_id")[list(LABELS)].max().sum()
    assert card["data"]["positive_studies"] == positive.astype(int).to_dict()
    assert card["data"]["positive_slices"] == frame[list(LABELS)].sum().astype(int).to_dict()
    for name, value in card["hashes"]["predictor"].items():
        content = (evaluated / "predictor" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == value
    assert set(card["hashes"]["predictor"]) == {"model.pt", "predictor.json"}
    assert (card["data"]["source"], card["data"]["folds"]["by"]) == ("dicom", "patient")
    own, best, other = card["scores"]
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert own["study"] == metrics["study"] and own["interval"] == metrics["interval"]
    assert (own["selected"], best["selected"]) == (False, True)
    assert best["weighted_log_loss"] == metrics["best"]["weighted_log_loss"]
    found = json.loads((evaluated / "evaluations" / "other" / "metrics.json").read_text())
    assert (other["dataset"], other["auc"]) == ("other", found["auc"])
    assert any("chosen on the rows" in limit for limit in card["limits"])
    assert not any("on the data of its training alone" in limit for limit in card["limits"])


def test_every_key_of_metrics_json_is_in_the_reference(evaluated):
    places = (evaluated, evaluated / "evaluations" / "other")
    check_keys(*(json.loads((place / "metrics.json").read_text()) for place in places))


def test_the_page_is_made_of_the_json(evaluated):
    page = (evaluated / "predictor" / "model_card.md").read_text()
    card = card_of(evaluated)
    assert page == card_page(card)
    for needed in ("(selected on these rows)", "not a medical device", "## Open", "&" not in page):
        assert needed is True or needed in page
    assert f"{card['scores'][0]['weighted_log_loss']:.4f}" in page


def test_nothing_of_patients_or_machines(evaluated):
    table = SliceTable.load(evaluated.parents[2] / "input" / "datasets" / "own")
    columns = ["image_id", "patient_id", "study_id", "source_file"]
    ids = {str(value) for name in columns for value in table.frame[name]}
    for name in ("model_card.json", "model_card.md"):
        text = (evaluated / "predictor" / name).read_text()
        assert not [value for value in ids if value in text]
        assert str(evaluated.parents[2]) not in text and "/tmp" not in text and "home" not in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/x/weights.pt", "weights.pt"),
        ("../x/weights.pt", "weights.pt"),
        ("C:\\x\\weights.pt", "weights.pt"),
        ("0001/fold_2", "0001/fold_2"),
        ("https://a.b/c", "https://a.b/c"),
        ({"fitted_on": ["a"], "x": ["~/y"]}, {"x": ["y"]}),
        ({"fitted_on": {"num": 3, "salt": "s", "digests": ["a"]}}, {"fitted_on": {"num": 3}}),
    ],
)
def test_folders_and_digests_stay_out(value, shown):
    assert public(value) == shown


def test_scores_of_other_weights_are_left_out(evaluated, tmp_path):
    folder = tmp_path / "0001"
    shutil.copytree(evaluated, folder)
    write_card(Experiment(folder))
    assert len(card_of(folder)["scores"]) == 3
    assert card_of(folder)["data"] == card_of(evaluated)["data"]
    (folder / "predictor" / "model.pt").write_bytes(b"other")
    write_card(Experiment(folder))
    assert (
        card_of(folder)["scores"] == [] and "It has not been scored." in card_of(folder)["limits"]
    )
    # Of earlier versions, whose scores name no weights, they stay: but for a predictor just made.
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["weights_sha256"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_card(Experiment(folder))
    assert len(card_of(folder)["scores"]) == 2
    write_card(Experiment(folder), new=True)
    assert card_of(folder)["scores"] == []


def test_later_keys_are_shown_where_they_are(evaluated, tmp_path):
    folder = tmp_path / "0001"
    shutil.copytree(evaluated, folder)
    path = folder / "predictor" / "predictor.json"
    info = json.loads(path.read_text()) | {
        "operating_points": {"any": {"threshold": 0.25, "fitted_on": ["digest"]}},
        "conformal": {"alpha": 0.125},
        "calibrated_on": {"dataset": "local", "num_patients": 40},
    }
    info["training"] |= {"source": "https://a.b/c", "licence": "MIT", "trained_on": "rsna"}
    path.write_text(json.dumps(info))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["subgroups"] = {"sex": {"F": 0.75}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_card(Experiment(folder))
    page = (folder / "predictor" / "model_card.md").read_text()
    for value in ("0.25", "0.125", "local", "https://a.b/c", "MIT", "0.75"):
        assert value in page
    assert "digest" not in page
    assert not any("subgroup" in line or "threshold" in line for line in card_of(folder)["limits"])


def test_every_item_of_tripod_has_evidence_or_is_open(evaluated):
    items = yaml.safe_load(TRIPOD_FILE.read_text())
    names = [item["item"] for item in items]
    assert len(names) == len(set(names)) == 52
    assert {int(name.rstrip("abcdefg")) for name in names} == set(range(1, 28))
    assert all(item.get("evidence") or item.get("person") for item in items)
    card = card_of(evaluated)
    later = {"subgroups", "protocols"}  # not of this small experiment
    for item, found in zip(items, card["tripod"], strict=True):
        lacking = set(item.get("evidence", [])) - set(found["evidence"])
        assert lacking <= later, f"{item['item']}: {lacking}: no such key in the card"
        assert all(has_value(card, key) for key in found["evidence"])
        assert found["evidence"] or found["open"]
        assert item.get("person", "") in found["open"]
    assert np.sum([bool(item["open"]) for item in card["tripod"]]) > 20


def test_scores_of_an_engine_are_marked():
    scores = {"mine": {"engine": "openvino bf16", "num_slices": 3}, "other": {"num_slices": 4}}
    found = _scores(scores, {"training": {}})
    assert [one["weights"] for one in found] == ["last weights, openvino bf16", "last weights"]
