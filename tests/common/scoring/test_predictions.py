import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from common.errors import InputError
from common.scoring.predictions import (
    Calibration,
    build_predictions,
    check_predictions,
    mean_logits,
    prior_logits,
    probabilities_of,
    read_predictions,
    write_predictions,
)

NAMES = ("bleed", "any")


def frame_rows(num_rows: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in range(num_rows)],
            "patient_id": "p",
            "study_id": "s",
            "series_id": "r",
            "rank": range(num_rows),
        }
    )


def table(**changes) -> pd.DataFrame:
    logits = np.linspace(-40, 40, 8, dtype=np.float32).reshape(4, 2)
    return build_predictions(frame_rows(), logits, NAMES, 0, "0001").assign(**changes)


def test_probabilities_are_the_float64_sigmoid_of_the_logits():
    frame = table()
    logits = frame["logit_any"].to_numpy(dtype=np.float64)
    np.testing.assert_allclose(frame["any"], 1 / (1 + np.exp(-logits)), rtol=1e-14)
    assert frame["any"].dtype == np.float64
    assert frame["logit_any"].dtype == np.float32
    assert set(frame["view"]) == {"mean"}


def test_calibration_moves_probabilities_and_leaves_logits():
    calibration = Calibration(temperature=(2.0, 1.0), bias=(0.0, 1.0))
    logits = np.array([[2.0, 2.0]] * 4)
    frame = build_predictions(frame_rows(), logits, NAMES, None, "0001", calibration=calibration)
    np.testing.assert_allclose(frame["bleed"], 1 / (1 + np.exp(-1)))
    np.testing.assert_allclose(frame["any"], 1 / (1 + np.exp(-3)))
    np.testing.assert_array_equal(frame["logit_any"], 2)
    assert frame["fold"].isna().all()


@pytest.mark.parametrize("calibration", [None, Calibration((2.0, 0.5), (0.3, -1.0))])
def test_prior_logits_give_the_prior_whatever_the_calibration(calibration):
    prior = np.array([0.01, 0.4])
    logits = prior_logits(prior, calibration)
    np.testing.assert_allclose(probabilities_of(logits[None], calibration)[0], prior, rtol=1e-5)


def test_a_written_table_reads_back_the_same(tmp_path):
    frame = table()
    path = tmp_path / "predictions" / "valid.parquet"
    write_predictions(path, frame, NAMES)
    pd.testing.assert_frame_equal(read_predictions(path, NAMES), frame, check_dtype=False)
    assert [item.name for item in path.parent.iterdir()] == ["valid.parquet"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": ["i0", "i0", "i2", "i3"]}, "1 row with a repeated"),
        ({"any": [0.1, np.nan, 0.2, 1.5]}, "2 rows with a probability outside"),
        ({"logit_any": [0, np.inf, 0, 0]}, "logit is not finite"),
    ],
)
def test_bad_tables_are_refused_with_the_rule(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        write_predictions(tmp_path / "x.parquet", table(**changes), NAMES)
    assert not list(tmp_path.iterdir())


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="logit_any"):
        check_predictions(table().drop(columns="logit_any"), NAMES, "here")


def test_missing_and_broken_files_are_the_users_to_put_right(tmp_path):
    with pytest.raises(InputError, match="no such prediction table"):
        read_predictions(tmp_path / "none.parquet", NAMES)
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match="not a readable parquet"):
        read_predictions(tmp_path / "broken.parquet", NAMES)


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_each_of_three_predictions_counts_alike(mean):
    logits = np.array([[-1.0], [0.5], [2.0]])
    expected = logits.mean() if mean == "logits" else logit(expit(logits).mean())
    assert mean_logits(logits[:, None], mean) == pytest.approx(expected)
