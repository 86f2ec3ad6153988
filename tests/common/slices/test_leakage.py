"""Planted leaks: each is found, counted and named, and what is sound passes."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.slices.leakage import (
    folds_digest,
    origins_of_weights,
    require_disjoint_patients,
    require_fitted_elsewhere,
    require_same_folds,
    require_unseen_features,
    require_unseen_start,
    warn_of_pseudo_labels,
)

NUM_IMAGES = 24


@pytest.fixture
def folds() -> pd.DataFrame:
    """Patients p0 to p5, four images each, two in each of three folds."""
    patients = [f"p{index // 4}" for index in range(NUM_IMAGES)]
    return pd.DataFrame(
        {
            "image_id": [f"ID_{index}" for index in range(NUM_IMAGES)],
            "patient_id": patients,
            "fold": [int(patient[1:]) % 3 for patient in patients],
        }
    )


def check(folds: pd.DataFrame, rows: pd.DataFrame, made_with: str | None = None) -> None:
    digest = made_with or folds_digest(folds)
    require_unseen_features("features of 0003", rows["image_id"], rows["fold"], digest, folds)


def test_a_patient_on_both_sides_is_found():
    trained = pd.Series(["a", "b", None, "c", "b"])
    require_disjoint_patients(trained, pd.Series(["d", None, "e"]), "fold 0")
    with pytest.raises(InputError, match="2 patients on both sides of fold 0"):
        require_disjoint_patients(trained, pd.Series(["c", "c", "b", "x"]), "fold 0")


def test_out_of_fold_rows_pass_in_any_order(folds):
    check(folds, folds.sample(frac=1, random_state=0))
    check(folds, folds.iloc[:0])
    rows = folds.assign(fold=folds["fold"].astype("Int64"))
    check(folds, rows)


def test_rows_of_a_model_that_saw_the_patient_are_found(folds):
    rows = folds.copy()
    rows.loc[[0, 1, 9], "fold"] = [1, 2, 0]  # of the patients p0 and p2
    with pytest.raises(InputError, match="features of 0003: 3 rows of 2 patients") as raised:
        check(folds, rows)
    assert not any(patient in str(raised.value) for patient in ("p0", "p2"))
    averaged = folds.assign(fold=pd.array([None] * NUM_IMAGES, dtype="Int64"))
    with pytest.raises(InputError, match="24 rows of 6 patients"):
        check(folds, averaged)


def test_patients_that_are_always_trained_on_have_no_unseen_rows(folds):
    folds.loc[folds["patient_id"] == "p5", "fold"] = -1
    check(folds, folds[folds["fold"] >= 0])
    with pytest.raises(InputError, match="4 rows of 1 patient "):
        check(folds, folds)


def test_rows_made_with_other_folds_are_found(folds):
    shifted = folds.assign(fold=(folds["fold"] + 1) % 3)
    # Rows and table agree, but the models were trained on other folds.
    with pytest.raises(InputError, match="were made with other folds"):
        check(shifted, shifted, made_with=folds_digest(folds))
    with pytest.raises(InputError, match="unknown folds"):
        require_same_folds("features of 0003", None, folds)


def test_a_patient_in_two_folds_is_found_by_the_features_too(folds):
    folds.loc[0, "fold"] = 1
    with pytest.raises(InputError, match="1 patient in several folds"):
        check(folds, folds)


def test_images_in_no_fold_are_refused(folds):
    rows = pd.DataFrame({"image_id": ["ID_0", "ID_x"], "fold": [0, 0]})
    with pytest.raises(InputError, match="1 of 2 images are in no fold"):
        check(folds, rows)


def test_the_digest_is_of_the_folds_and_not_of_their_order(folds):
    digest = folds_digest(folds)
    assert folds_digest(folds.sample(frac=1, random_state=1)) == digest
    other = folds.copy()
    other.loc[3, "fold"] = 2
    assert folds_digest(other) != digest
    # More rows that are always trained on change nothing; one that a fold validated does.
    more = pd.DataFrame({"image_id": ["ID_more"], "patient_id": ["more"], "fold": [-1]})
    assert folds_digest(pd.concat([folds, more])) == digest
    other.loc[3, "fold"] = -1
    assert folds_digest(other) != digest
    given = pd.DataFrame({"image_id": ["a", "b"], "sample_type": ["train", "valid"]})
    assert folds_digest(given) != folds_digest(given.assign(sample_type=["valid", "train"]))


@pytest.mark.parametrize("num_rows", [1, 9_999, 10_000, 10_001, 20_003])
def test_the_digest_is_that_of_all_sorted_lines(num_rows):
    rows = pd.DataFrame({"image_id": [f"i{n}" for n in range(num_rows)], "fold": range(num_rows)})
    digest = hashlib.sha256()
    for line in sorted(f"i{number},{number}\n" for number in range(num_rows)):
        digest.update(line.encode())
    assert folds_digest(rows) == digest.hexdigest()


def test_a_calibrator_fitted_on_scored_rows_is_found():
    require_fitted_elsewhere(["p0", "p1"], np.array(["p2"], dtype=object))
    with pytest.raises(InputError, match="the weights would be scored on 1 patient "):
        require_fitted_elsewhere(["p0", "p1", "p1"], ["p1", "p1", "p2"], "the weights")


def leave_predictor(folder: Path, **training) -> None:
    folder.mkdir(parents=True)
    (folder / "predictor.json").write_text(json.dumps({"training": training}))


def test_the_origins_of_weights_is_that_of_the_nearest_predictor(tmp_path):
    experiment = tmp_path / "results" / "0001"
    for fold in range(2):
        leave_predictor(experiment / f"fold_{fold}" / "predictor", fold=fold, dataset="own")
        leave_predictor(experiment / "predictor" / f"fold_{fold}", fold=fold, dataset="own")
    leave_predictor(tmp_path / "results" / "0002" / "predictor", fold=4, dataset="own")
    for place, fold in (
        ("0001/fold_1/predictor/model.pt", 1),
        ("0001/fold_0/checkpoints/best.pt", 0),
        ("0001/predictor/fold_1/model.pt", 1),
        ("0002/checkpoints/last.pt", 4),
        ("0002/copy.pt", 4),
    ):
        found = origins_of_weights(tmp_path / "results" / place)
        assert found == [{"fold": fold, "dataset": "own"}], place
    assert origins_of_weights(tmp_path / "weights.pt") == []


def test_the_origins_of_weights_of_a_training_that_goes_on_is_in_its_flags(tmp_path):
    folder = tmp_path / "results" / "0003"
    folder.mkdir(parents=True)
    flags = "data_dataset: own\ndata_fold: 2\n"
    (folder / "config.yaml").write_text(flags)
    found = origins_of_weights(folder / "checkpoints" / "last.pt")
    assert found == [{"dataset": "own", "fold": 2}]
    # And of what it started from, and of what that did.
    older = {"fold": 1, "dataset": "older"}
    start = tmp_path / "results" / "0001"
    leave_predictor(start / "predictor", fold=0, dataset="old", started_from=[older])
    (folder / "config.yaml").write_text(f"{flags}net_weight_file: {start}/checkpoints/best.pt\n")
    found = origins_of_weights(folder / "checkpoints" / "last.pt")
    assert [origin["dataset"] for origin in found] == ["own", "old", "older"]
    (folder / "config.yaml").write_text(f"{flags}net_weight_file: {folder}/a/b/best.pt\n")
    assert len(origins_of_weights(folder / "checkpoints" / "last.pt")) == 1
    (folder / "config.yaml").write_text("no flags")
    assert origins_of_weights(folder / "checkpoints" / "last.pt") == []


@pytest.mark.parametrize(
    ("origin", "outcome"),
    [
        ({"dataset": "own", "fold": 1, "folds_sha256": "abc"}, "passes"),
        ({"dataset": "own", "fold": 0, "folds_sha256": "abc"}, "refused"),
        # A dataset with pseudo-labels has the folds of the one it was made of.
        ({"dataset": "base", "fold": 0, "folds_sha256": "abc"}, "refused"),
        ({"dataset": "base", "fold": 1, "folds_sha256": "abc"}, "passes"),
        ({"dataset": "own", "fold": 1, "folds_sha256": "older"}, "warned"),
        ({"dataset": "other", "fold": 0, "folds_sha256": "others"}, "passes"),
        ({"dataset": "own", "fold": 0}, "refused"),
        ({"dataset": "own", "fold": 1}, "passes"),
        ({"dataset": "other", "fold": 0}, "passes"),
    ],
)
@pytest.mark.parametrize("is_before", [False, True])
def test_weights_that_saw_what_is_validated_are_no_start(origin, outcome, is_before, caplog):
    """Whether those of the file did, or those that they were started from."""
    origins = [{"dataset": "another", "fold": 0, "folds_sha256": "another"}] * is_before + [origin]
    how = "started from weights that were trained" if is_before else "trained"

    def start():
        with caplog.at_level(logging.WARNING):
            require_unseen_start("w.pt", origins, "own", "abc", 1)

    if outcome == "refused":
        with pytest.raises(InputError, match=rf"w\.pt: {how} with --data_fold 0 .* fold 1 valid"):
            start()
    else:
        start()
    assert (f"{how} on the same dataset with other folds" in caplog.text) == (outcome == "warned")


@pytest.mark.parametrize(("trained", "validated"), [(0, 1), (1, 0), (-1, 0), (2, 4)])
def test_weights_of_a_lower_and_of_a_higher_fold_are_no_start(trained, validated):
    origins = [{"dataset": "own", "fold": trained, "folds_sha256": "abc"}]
    with pytest.raises(InputError, match=f"fold {validated} validates"):
        require_unseen_start("w.pt", origins, "own", "abc", validated)
    require_unseen_start("w.pt", [origins[0] | {"fold": validated}], "own", "abc", validated)


def test_weights_of_which_nothing_is_recorded_may_be_started_from():
    require_unseen_start("w.pt", [], "own", "abc", 1)


def test_labels_by_networks_of_other_folds_are_told(caplog):
    sources = pd.Series(["slices", None, "pseudo:0001", "pseudo:0001", "pseudo:0002/fold_3"])
    warn_of_pseudo_labels(sources, "pseudo:", 3)
    assert "2 training slices with labels by experiment 0001:" in caplog.text
    caplog.clear()
    warn_of_pseudo_labels(sources.iloc[[0, 1, 4]], "pseudo:", 3)
    assert not caplog.text
    warn_of_pseudo_labels(sources, "pseudo:", 2)
    assert "3 training slices with labels by experiment 0001, 0002/fold_3:" in caplog.text
