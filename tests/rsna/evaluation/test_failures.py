"""Groups and failures of scored studies, from a small dataset with headers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from predictor_factory import make_dataset

from common.experiment import Evaluated
from common.report.subgroups import subgroup_section
from common.scoring.predictions import build_predictions
from common.slices.table import SliceTable
from common.statistics.decisions import Called
from rsna.evaluation.failures import MOST_PAGES, analyse_studies
from rsna.evaluation.flow import write_flow
from rsna.evaluation.scoring import score_predictions
from rsna.evaluation.study_pages import _study_labels
from rsna.evaluation.subgroups import words
from rsna_task import CHALLENGE, LABELS

NUM_PATIENTS = 30


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "own"
    table = make_dataset(folder, num_patients=NUM_PATIENTS, num_slices=4)
    frame = table.frame
    number = frame["study_id"].str.removeprefix("study").astype(int)
    # Half of the studies have no bleed.
    frame.loc[number % 2 == 0, list(LABELS)] = 0.0
    frame["kernel"] = np.where(number < 14, "H30s", "H70h")
    frame["kernel"] = frame["kernel"].where(number != 3)
    frame["kvp"] = np.where(number < 12, 120.0, np.where(number < 24, 140.0, 100.0))
    frame["age_decade"] = pd.array(number % 3 * 10 + 80, dtype="Int32")
    frame["age_decade"] = frame["age_decade"].where(frame["age_decade"] < 100, 90)
    frame["contrast"] = pd.array(number % 2 == 0, dtype="boolean")
    frame["tilt_deg"] = np.where(number < 15, 0.0, -12.0)
    frame["institution_hash"] = np.where(number < 12, "secret1", "secret2")
    frame.to_parquet(folder / "slices.parquet", index=False)
    return folder


def scored_of(table: SliceTable, flip: set[str] = frozenset()):
    """Return predictions that are right but for the studies to flip, and what they scored."""
    rows = np.flatnonzero(table.readable)
    frame = table.frame.iloc[rows]
    labels = table.labels(rows, LABELS).astype(float)
    logits = np.where(labels == 1, 2.0, -2.0) + np.linspace(0, 0.5, len(rows))[:, None]
    is_flipped = frame["study_id"].isin(flip).to_numpy()
    any_of = labels[:, -1:].copy()
    by_study = frame["study_id"].map(
        pd.Series(any_of[:, 0], frame["study_id"].to_numpy()).groupby(level=0).max()
    )
    wrong = np.where(by_study.to_numpy()[:, None] == 1, -3.0, 3.0)
    logits = np.where(is_flipped[:, None], wrong, logits)
    predictions = build_predictions(frame, logits.astype(np.float32), LABELS, 0, "0001")
    return predictions, score_predictions("x", predictions, table, np.full(6, 0.3))


def analyse(table: SliceTable, folder: Path, flip: set[str] = frozenset(), calls=None):
    predictions, scored = scored_of(table, flip)
    place = Evaluated(folder)
    called = {} if calls is None else {"any": Called(calls, 0.5)}
    scored = replace(scored, studies=replace(scored.studies, called=called))
    metrics, html = analyse_studies(scored, predictions, table, place, LABELS)
    json.dumps(metrics, allow_nan=False)
    studies = pd.read_csv(place.studies_file)
    return metrics["subgroups"], str(html), studies


def test_groups_are_those_of_the_headers(dataset, tmp_path):
    table = SliceTable.load(dataset)
    found, _, studies = analyse(table, tmp_path)
    groups = {
        title: {name: group["num_studies"] for name, group in each.items()}
        for title, each in found["groups"].items()
    }
    assert groups["kernel"] == {"H70h": 16, "H30s": 13, "unknown": 1}
    assert groups["kvp"] == {"120 kV": 12, "140 kV": 12, "others": 6}
    assert groups["age_decade"] == {"80 to 89": 10, "90 and older": 20}
    assert groups["tilt"] == {"not tilted": 15, "tilted": 15}
    assert groups["source"] == {"source 1": 18, "source 2": 12}
    assert groups["contrast"] == {"given": 15, "none": 15}
    assert found["left_out"]["sex"] == "unknown for all studies"
    assert found["left_out"]["spacing"] == "3.5 to 6 mm for all studies"
    assert found["prepare_again_for"] == []
    truth = table.frame[table.readable].groupby("study_id")["any"].sum()
    assert studies.set_index("study_id")["num_positive_slices"].to_dict() == {
        name: value for name, value in truth.items() if name != "study1"
    } | {"study1": studies.set_index("study_id").loc["study1", "num_positive_slices"]}
    positive = studies[studies["label_any"] == 1]
    assert (positive["positive_mm"] == 5.0 * positive["num_positive_slices"]).all()


def test_each_failure_has_a_page_and_no_id_is_in_it(dataset, tmp_path):
    table = SliceTable.load(dataset)
    wrong = {"study4", "study5", "study7"}
    _, html, studies = analyse(table, tmp_path, wrong)
    failed = studies[studies["failure"].notna()].set_index("study_id")
    assert failed["failure"].to_dict() == {
        "study4": "false alarm",
        "study5": "miss",
        "study7": "miss",
    }
    pages = {path.name for path in (tmp_path / "failures").iterdir()}
    assert pages == {f"study_{number}.html" for number in failed["number"]}
    for name in pages:
        assert f'href="failures/{name}"' in html
    texts = [html, *((tmp_path / "failures" / name).read_text() for name in pages)]
    for text in texts:
        for secret in ("secret", "ID_p", "study4<", str(tmp_path)):
            assert secret not in text
    assert "3 of 30 studies have a wrong call at a probability of 0.5" in html


def test_pages_of_before_are_gone_and_they_are_bounded(dataset, tmp_path):
    table = SliceTable.load(dataset)
    everything = {f"study{number}" for number in range(NUM_PATIENTS)}
    _, html, _ = analyse(table, tmp_path, everything)
    assert len(list((tmp_path / "failures").iterdir())) == MOST_PAGES
    assert f"{NUM_PATIENTS} of 30 studies" in html
    left = tmp_path / ".failures.12345678.tmp"
    left.mkdir()
    analyse(table, tmp_path, set())
    assert not list((tmp_path / "failures").iterdir())
    assert not left.exists()


def test_calls_in_place_of_the_threshold(dataset, tmp_path):
    table = SliceTable.load(dataset)
    none = np.zeros(NUM_PATIENTS, dtype=bool)
    found, html, studies = analyse(table, tmp_path, set(), none)
    assert set(studies["failure"].dropna()) == {"miss"}
    assert "15 of 30 studies have a wrong call at the operating point" in html
    group = found["groups"]["kernel"]["H70h"]
    assert group["sensitivity"]["value"] == 0.0
    assert group["specificity"]["value"] == 1.0
    of_bleed = next(iter(found["groups"].get("label", {}).values()))
    assert set(of_bleed) >= {"auc", "sensitivity"} and "specificity" not in of_bleed


def test_a_study_without_a_call_is_no_failure(dataset, tmp_path):
    """Such as one that has the prior: rates of groups count it as little as those of all do."""
    table = SliceTable.load(dataset)
    calls = np.where(np.arange(NUM_PATIENTS) < 10, np.nan, 0.0)
    found, _, studies = analyse(table, tmp_path, set(), calls)
    assert studies["called"].isna().sum() == 10
    missed = studies[studies["failure"] == "miss"]
    positive = studies["label_any"] == 1
    assert len(missed) == (positive & studies["called"].notna()).sum() < positive.sum()
    rates = [group["specificity"]["value"] for group in found["groups"]["kernel"].values()]
    assert 1.0 in rates and set(rates) <= {1.0, None}


def test_headers_are_escaped_and_tables_without_rows_are_hidden(dataset, tmp_path):
    table = SliceTable.load(dataset)
    table.frame["kernel"] = table.frame["kernel"].replace("H30s", "<b>$x$|`&")
    found, html, _ = analyse(table, tmp_path)
    assert "<b>" not in html and "&lt;b&gt;$x$|`&amp;" in html
    assert "Loss and calibration" in html
    of_bleeds = found | {"groups": {"label": found["groups"]["label"]}}
    assert "Loss and calibration" not in str(subgroup_section(of_bleeds, words))


def test_without_pixels_nothing_fails(dataset, tmp_path, caplog):
    folder = tmp_path / "copy"
    shutil.copytree(dataset, folder)
    shutil.rmtree(folder / "store")
    _, html, _ = analyse(SliceTable.load(folder), tmp_path / "out", {"study5"})
    assert "dataset copy has no pixels of them at hand" in html
    assert "href" not in html
    assert "no pixels" in caplog.text


def test_a_dataset_of_before_names_what_it_lacks(dataset, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(dataset, folder)
    frame = pd.read_parquet(folder / "slices.parquet")
    frame.drop(columns=["kvp", "age_decade"]).to_parquet(folder / "slices.parquet", index=False)
    found, html, _ = analyse(SliceTable.load(folder), tmp_path / "out")
    assert found["prepare_again_for"] == ["kvp", "age_decade"]
    assert "prepare it again, which decodes no pixels, for kvp, age_decade" in html
    assert found["left_out"]["kvp"] == "unknown for all studies"


def test_labels_of_studies_alone_leave_the_size_unknown(dataset, tmp_path):
    folder = tmp_path / "studies"
    shutil.copytree(dataset, folder)
    table = SliceTable.load(folder)
    of_studies = table.frame.groupby("study_id")[list(LABELS)].max().reset_index()
    of_studies.assign(label_source="study").to_parquet(folder / "studies.parquet", index=False)
    frame = table.frame.assign(**dict.fromkeys(LABELS, np.nan))
    predictions, _ = scored_of(table)
    unlabelled = SliceTable(frame, folder)
    scored = score_predictions("x", predictions, unlabelled, np.full(6, 0.3))
    place = Evaluated(tmp_path / "out")
    metrics, _ = analyse_studies(scored, predictions, unlabelled, place, LABELS)
    assert metrics["subgroups"]["left_out"]["bleed_mm"] == "unknown for all positive studies"
    assert metrics["subgroups"]["groups"]["kernel"]["H70h"]["num_studies"] == 16


def test_soft_and_model_made_labels_of_studies(dataset, tmp_path):
    folder = tmp_path / "soft"
    shutil.copytree(dataset, folder)
    studies = pd.DataFrame({"study_id": [f"study{n}" for n in range(4)]}).assign(
        **dict.fromkeys(LABELS, 0.3), label_source=["study", "slices", "study", "pseudo:1"]
    )
    studies.loc[1, "any"], studies.loc[2, list(LABELS)] = 0.7, 0.5
    studies.to_parquet(folder / "studies.parquet", index=False)
    table = SliceTable.load(folder)
    table.frame[list(LABELS)] = np.nan
    labels = _study_labels(table, LABELS)
    assert labels["study0"].tolist() == [0.0] * 6
    assert labels["study1"].tolist() == [0.0] * 5 + [1.0]
    assert np.isnan(labels["study2"]).all() and "study3" not in labels
    scored = scored_of(table)[1]
    stages, _ = write_flow(Evaluated(tmp_path), scored, table, CHALLENGE, "elsewhere")
    assert stages[-1]["excluded"] == {"no label": NUM_PATIENTS - 2, "elsewhere": 1}


def test_a_negative_study_with_a_slice_of_which_nothing_is_known_is_not_scored(dataset, tmp_path):
    table = SliceTable.load(dataset)
    predictions, _ = scored_of(table)
    for study in ("study0", "study1"):  # without and with bleeds
        row = np.flatnonzero(table.frame["study_id"] == study)[0]
        table.frame.loc[row, list(LABELS)] = np.nan
        predictions = predictions[predictions["image_id"] != table.frame.loc[row, "image_id"]]
    scored = score_predictions("x", predictions, table, np.full(6, 0.3))
    assert scored.metrics["num_studies"] == NUM_PATIENTS - 1
    known = dict(zip(scored.studies.study_ids, scored.studies.labels[:, -1]))
    assert np.isnan(known["study0"]) and known["study1"] == 1.0
    stages, _ = write_flow(Evaluated(tmp_path), scored, table, CHALLENGE, "elsewhere")
    assert stages[-1]["excluded"] == {"no label": 1}
