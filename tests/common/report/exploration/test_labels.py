import numpy as np
import pandas as pd
import pytest
from slice_frames import slice_frame

from common.report.exploration import labels

NAMES = ("a", "b", "any")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    values = (rng.random((300, 2)) < (0.3, 0.1)).astype(float)
    frame = pd.DataFrame(values, columns=["a", "b"])
    frame["any"] = frame.max(axis=1)
    frame.loc[::10] = np.nan
    return frame


def rows_of(frame: pd.DataFrame) -> list[dict[str, float]]:
    return [row for row in frame.to_dict("records") if row["a"] == row["a"]]


def test_counts_are_those_of_a_plain_loop(frame):
    rows = rows_of(frame)
    counts = labels.label_counts(frame, NAMES)
    together = labels.co_occurrence(frame, NAMES)
    shares = labels.shares_of_rows(together)
    for name in NAMES:
        positive = sum(row[name] == 1 for row in rows)
        assert counts.loc[name, "known"] == len(rows)
        assert counts.loc[name, "positive"] == positive
        assert counts.loc[name, "share"] == pytest.approx(positive / len(rows))
        for other in NAMES:
            both = sum(row[name] == 1 and row[other] == 1 for row in rows)
            assert together.loc[name, other] == both
            assert shares.loc[name, other] == pytest.approx(both / positive)


def test_numbers_and_combinations_are_those_of_a_plain_loop(frame):
    rows = rows_of(frame)
    numbers = labels.num_labels(frame, ("a", "b"))
    assert [sum(row["a"] + row["b"] == n for row in rows) for n in range(3)] == numbers.tolist()
    expected = {
        "none of them": sum(row["a"] + row["b"] == 0 for row in rows),
        "a": sum(row["a"] > row["b"] for row in rows),
        "b": sum(row["b"] > row["a"] for row in rows),
        "a + b": sum(row["a"] + row["b"] == 2 for row in rows),
    }
    found = labels.combinations(frame, ("a", "b"))
    assert dict(found) == expected
    assert [count for _, count in found] == sorted(expected.values(), reverse=True)


def test_a_label_that_contradicts_the_others_is_counted(frame):
    assert labels.contradictions(frame, ("a", "b"), "any") == 0
    wrong = frame.copy()
    wrong.loc[[1, 2], "any"] = 1 - wrong.loc[[1, 2], "any"]
    assert labels.contradictions(wrong, ("a", "b"), "any") == 2


def test_unknown_labels_have_no_share():
    frame = pd.DataFrame({"a": [np.nan, np.nan]})
    counts = labels.label_counts(frame, ("a",))
    assert counts.loc["a", "known"] == 0
    assert np.isnan(counts.loc["a", "share"])
    assert not labels.has_labels(frame, ("a",))
    assert labels.shares_of_rows(labels.co_occurrence(frame, ("a",))).isna().all().all()


def test_the_place_is_that_in_the_series():
    frame = slice_frame(rank=[0, 1, 2, 3, 4, 0], num_slices=[5, 5, 5, 5, 5, 1]).assign(
        a=[0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    )
    shares = labels.share_by_place(frame, ("a",), num_bins=5)
    assert shares["a"].tolist() == [0.0, 1.0, 1.0, 0.0, 1.0]
    assert shares.index.tolist() == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    shares = labels.share_by_place(frame, ("a",), num_bins=2)
    assert shares["a"].tolist() == pytest.approx([1 / 2, 2 / 3])


def test_copies_are_counted():
    frame = slice_frame(
        status=["ok", "ok", "ok", "duplicate", "ok"],
        store_file=["s", "s", "s", None, "s"],
        rows=[4, 4, 4, 4, 4],
        columns=[4, 4, 4, 4, 4],
        hu_min=[0, 0, 0, None, 7],
        hu_max=[9, 9, 9, None, 7],
        hu_mean=[1.5, 1.5, 2.5, None, 7.0],
        brain_fraction=[0.5, 0.5, 0.5, None, 0.0],
        num_padding=[0, 0, 0, None, 0],
    )
    assert list(labels.duplicates(frame).values()) == [1, 2, 1]
