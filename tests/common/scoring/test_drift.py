"""A test with a known rate of false alarms: what is kept, what is found, what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.scoring.drift import Reference, compare_with
from common.statistics.permutation import permutation_test

OPTIONS = {"rate": 0.05, "num_permutations": 199, "seed": 3}


def rows(number: int, seed: int, shift: float = 0.0, kernels=("soft", "soft", "sharp")):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "hu_q50": rng.normal(32, 1.5, number) + shift,
            "thickness": rng.choice([5.0, 3.0, np.nan], number),
            "kernel": pd.Series(rng.choice(kernels, number), dtype=object),
        }
    )


def reference(number: int = 60, seed: int = 0) -> Reference:
    return Reference.of("studies", number, rows(number, seed))


def test_a_reference_comes_back_from_json_and_has_no_order():
    given = rows(40, 0).assign(nothing=np.nan)
    kept = Reference.of("studies", 90, given)
    back = Reference.from_json(json.loads(json.dumps(kept.to_json())))
    pd.testing.assert_frame_equal(back.rows, kept.rows)
    assert (back.source, back.num_patients) == ("studies", 90)
    assert "nothing" not in back.rows
    assert sorted(back.rows["hu_q50"]) == [float(f"{v:.4g}") for v in sorted(given["hu_q50"])]
    assert list(back.rows["hu_q50"]) != [float(f"{v:.4g}") for v in given["hu_q50"]]


def test_what_is_wholly_unknown_on_one_side_is_found():
    known = rows(60, 0).assign(kvp=120.0, model=pd.Series(["A"] * 60, dtype=object))
    lost = rows(60, 1).assign(kvp=np.nan, model=pd.Series([None] * 60, dtype=object))
    for one, other, new in ((known, lost, 1.0), (lost, known, 0.0)):
        kept = Reference.of("studies", 60, one)
        kept = Reference.from_json(json.loads(json.dumps(kept.to_json())))
        found = compare_with(kept, other, **OPTIONS)
        columns = found.columns.set_index("column")
        assert found.p_value <= 0.05
        for name in ("kvp: unknown", "model: unknown"):
            assert columns.loc[name, "alarm"] and columns.loc[name, "new"] == new
    both = compare_with(Reference.of("studies", 60, lost), lost, **OPTIONS)
    assert not both.columns["column"].str.contains("kvp|model").any()
    older = Reference.of("studies", 60, known.drop(columns="kvp")).to_json()
    del older["unknown"]
    found = compare_with(Reference.from_json(older), known, **OPTIONS)
    assert not found.columns["column"].str.contains("kvp").any()


def test_the_p_values_are_those_of_the_columns_as_numbers():
    kept, new = reference(), rows(20, 1)
    found = compare_with(kept, new, **OPTIONS)

    def numbers(frame):
        thickness = frame["thickness"]
        return np.column_stack(
            [
                [float(f"{value:.4g}") for value in frame["hu_q50"]],
                thickness,
                thickness.isna(),
                frame["kernel"] == "soft",
                frame["kernel"] == "sharp",
            ]
        )

    expected = permutation_test(
        numbers(kept.rows), numbers(new), num_permutations=199, seed=OPTIONS["seed"]
    )
    names = ["hu_q50", "thickness", "thickness: unknown", "kernel: soft", "kernel: sharp"]
    own = found.columns.set_index("column")["p_value"].reindex(names)
    assert own.to_numpy() == pytest.approx(expected.p_values)
    assert found.p_value == expected.p_value
    shown = found.columns.set_index("column")
    assert shown.loc["kernel: soft", "reference"] == (kept.rows["kernel"] == "soft").mean()
    assert shown.loc["hu_q50", "new"] == pytest.approx(new["hu_q50"].median(), rel=1e-3)


@pytest.mark.parametrize("num", [200, pytest.param(600, marks=pytest.mark.long)])
def test_studies_like_the_reference_alarm_at_the_rate(num):
    alarms = 0
    for seed in range(num):
        kept = reference(seed=2 * seed + 10)
        found = compare_with(kept, rows(12, 2 * seed + 11), **(OPTIONS | {"seed": seed}))
        alarms += found.p_value <= 0.05
        assert (found.p_value <= 0.05) == found.columns["alarm"].any()
    # Four standard errors of the share of 600.
    assert abs(alarms / num - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 600)


@pytest.mark.parametrize(
    ("new", "column"),
    [
        (rows(20, 5, shift=3.0), "hu_q50"),
        (rows(20, 5, kernels=("bone",)), "kernel: bone"),
        (rows(20, 5).assign(kernel=None), "kernel: unknown"),
        (rows(20, 5).assign(thickness=np.nan), "thickness: unknown"),
        (rows(20, 5).assign(thickness=1.25), "thickness"),
    ],
)
def test_a_planted_shift_is_found_and_named(new, column):
    found = compare_with(reference(), new, **OPTIONS)
    assert found.p_value <= 0.05
    assert column in set(found.columns.loc[found.columns["alarm"], "column"])
    assert found.columns["p_value"].dropna().is_monotonic_increasing


def test_rare_words_are_one_and_a_column_that_one_side_lacks_is_left_out():
    new = rows(20, 5).drop(columns="hu_q50")
    new.loc[:1, "kernel"] = ["a", "b"]
    names = set(compare_with(reference(), new, **OPTIONS).columns["column"])
    assert names >= {"kernel: other", "kernel: soft"}
    assert not names & {"kernel: a", "kernel: b", "hu_q50"}


def test_too_few_patients_and_a_damaged_reference_are_refused():
    with pytest.raises(InputError, match="1 new patient and 6 of the reference"):
        compare_with(reference(6), rows(1, 1), **OPTIONS)
    content = reference().to_json()
    for damage in ({"numbers": {"a": "x"}}, {"words": {"a": {"words": [], "codes": "0"}}}):
        with pytest.raises(InputError, match="damaged"):
            Reference.from_json(content | damage)
    with pytest.raises(InputError, match="damaged"):
        Reference.from_json({})
