import numpy as np
import pandas as pd

from common.slices.series import list_series, list_studies

NAMES = ("bleed", "any")
PRIOR = np.array([0.1, 0.2])


def series(study: str, name: str, num: int, spacing: float, brain: float = 0.3, **columns):
    return pd.DataFrame(
        {
            "image_id": [f"{name}_{index}" for index in range(num)],
            "patient_id": f"patient of {study}",
            "study_id": study,
            "series_id": name,
            "store_file": f"{name}.b2nd",
            "position_mm": spacing * np.arange(num),
            "rows": 512,
            "columns": 512,
            "brain_fraction": brain,
            "readable": True,
            "status": "ok",
            **columns,
        }
    )


def table(*parts: pd.DataFrame) -> pd.DataFrame:
    frame = pd.concat(parts, ignore_index=True)
    # The order of rows must not matter.
    return frame.sample(frac=1, random_state=0)


def chosen(frame: pd.DataFrame) -> dict[str, str]:
    listed = list_series(frame)
    used = listed[listed["used"] == 1]
    assert used["study_id"].is_unique
    return dict(zip(used["study_id"], used["series_id"]))


def test_most_brain_then_usual_spacing_then_most_slices():
    frame = table(
        series("s1", "few", 4, 5.0),
        series("s1", "whole", 30, 5.0),
        series("s2", "thin", 240, 0.625),
        series("s2", "usual", 30, 5.0),
        series("s3", "neck", 60, 5.0, brain=0.0),
        series("s3", "head", 25, 5.0),
        series("s4", "b", 30, 5.0),
        series("s4", "a", 31, 5.0),
        series("s5", "z", 30, 5.0),
        series("s5", "y", 30, 5.0),
    )
    assert chosen(frame) == {"s1": "whole", "s2": "usual", "s3": "head", "s4": "a", "s5": "y"}
    listed = list_series(frame).set_index("series_id")
    assert listed.loc["few", "reason"] == "covers less brain"
    assert listed.loc["thin", "reason"] == "its spacing is farther from the usual one"
    assert listed.loc["b", "reason"] == "has no more slices than the one used"
    assert listed.loc["usual", "spacing_mm"] == 5.0
    assert listed.loc["whole", "brain_mm"] == 150.0


def test_each_slice_counts_with_its_own_step_and_a_gap_with_none():
    """Thin slices of the skull base, thick ones of the brain: neither step is that of the head."""
    whole = series("s", "whole", 25, 4.0)
    place = np.arange(25)
    whole["position_mm"] = np.where(place < 14, 4.0 * place, 52.0 + 8.0 * (place - 13))
    top = series("s", "top", 24, 5.0)
    top["position_mm"] += 33.0
    frame = table(whole, top)
    assert chosen(frame) == {"s": "whole"}
    listed = list_series(frame).set_index("series_id")
    assert listed.loc["whole", "brain_mm"] == 140 + 2 + 4  # ends reach beyond by half a step
    assert listed["coverage_mm"].tolist() == [152.5, 152.5]
    alone = table(whole)
    lost = alone["position_mm"].isin([20.0, 100.0])
    listed = list_series(alone[~lost]).iloc[0]
    assert (listed["num_gaps"], listed["brain_mm"]) == (2, 146 - 4 - 8)


def test_blank_slices_between_others_make_a_study_partial():
    """As where a file was copied in part: pixels that never came are 0."""
    frame = series("s", "a", 12, 5.0)
    fractions = [0.0, 0.01, 0.3, 0.0, 0.0, 0.3, 0.01, 0.0, 0.3, 0.3, 0.01, 0.0]
    frame["brain_fraction"] = fractions
    (listed,) = list_series(frame).to_dict("records")
    assert listed["num_gaps"] == 2, "those below and above the head are none"
    studies = list_studies(frame, np.full((12, 1), 0.1), list_series(frame), np.ones(1), ["any"])
    assert studies["status"].tolist() == ["partial"]
    assert studies["reason"].tolist() == ["slices seem to be missing or blank in 2 places"]
    frame["brain_fraction"] = np.where(np.equal(fractions, 0), 0.001, fractions)
    assert list_series(frame)["num_gaps"].tolist() == [0], "some brain is seen in all"


def test_positions_that_are_unknown_or_equal_are_no_obstacle():
    frame = table(
        series("s", "unknown", 30, np.nan),
        series("t", "equal", 12, 0.0, brain=np.nan),
    )
    assert chosen(frame) == {"s": "unknown", "t": "equal"}
    assert set(list_series(frame)["reason"]) == {"the only series"}


def test_a_study_says_the_largest_of_its_used_series():
    frame = table(series("s", "whole", 20, 5.0), series("s", "part", 3, 5.0))
    rng = np.random.default_rng(0)
    probabilities = rng.random((len(frame), 2))
    studies = list_studies(frame, probabilities, list_series(frame), PRIOR, NAMES)
    assert len(studies) == 1
    study = studies.iloc[0]
    own = (frame["series_id"] == "whole").to_numpy()
    assert study["bleed"] == probabilities[own, 0].max()
    assert study["any"] == probabilities[own, 1].max()
    assert (
        study["top_image_id"] == frame["image_id"].to_numpy()[own][probabilities[own, 1].argmax()]
    )
    assert (study["series_id"], study["num_slices"], study["status"]) == ("whole", 20, "ok")
    assert study["patient_id"] == "patient of s"


def test_a_network_of_series_speaks_for_the_used_one():
    frame = table(series("s", "whole", 20, 5.0), series("s", "part", 3, 5.0))
    of_series = np.where(frame["series_id"].eq("whole").to_numpy()[:, None], [0.2, 0.7], 0.9)
    values = np.random.default_rng(0).random((len(frame), 2))
    listed = list_series(frame)
    study = list_studies(frame, values, listed, PRIOR, NAMES, of_series=of_series).iloc[0]
    assert (study["bleed"], study["any"]) == (0.2, 0.7)
    frame["readable"] = False
    lost = list_studies(frame, values, list_series(frame), PRIOR, NAMES, of_series=of_series)
    assert lost["any"].tolist() == [PRIOR[-1]]


def test_unreadable_slices_are_counted_and_say_nothing():
    frame = table(series("s", "a", 10, 5.0), series("t", "b", 3, 5.0))
    missing = frame["image_id"].isin(["a_2", "a_3", "b_0", "b_1", "b_2"])
    frame.loc[missing, "readable"] = False
    frame.loc[frame["series_id"] == "b", "status"] = "corrupt"
    frame.loc[frame["image_id"] == "a_3", "store_file"] = None
    probabilities = np.where(missing.to_numpy()[:, None], 0.99, 0.3) * np.ones((1, 2))
    listed = list_series(frame)
    studies = list_studies(frame, probabilities, listed, PRIOR, NAMES).set_index("study_id")
    assert studies.loc["s", "any"] == 0.3
    assert (studies.loc["s", "num_slices"], studies.loc["s", "status"]) == (8, "partial")
    assert list(studies.loc["t", list(NAMES)]) == list(PRIOR)
    assert (studies.loc["t", "num_slices"], studies.loc["t", "status"]) == (0, "prior")
    listed = listed.set_index("series_id")
    assert listed.loc["a", "num_unreadable"] == 2
    assert listed.loc["b", "num_unreadable"] == 3
    assert listed.loc["b", "reason"] == "no slice can be read: corrupt"
    assert listed.loc["b", "used"] == 0


def test_slices_without_study_or_series_are_no_obstacle():
    frame = table(series("s", "a", 3, 5.0), series("t", "b", 1, 5.0), series("u", "c", 1, 5.0))
    lost = frame["series_id"].isin(["b", "c"])
    frame.loc[lost, ["readable", "status", "store_file"]] = [False, "no_id", None]
    frame.loc[frame["series_id"] == "b", "series_id"] = None
    frame.loc[frame["series_id"] == "c", "study_id"] = None
    listed = list_series(frame)
    assert listed["study_id"].tolist() == ["s", "t"]
    assert listed["reason"].tolist() == ["the only series", "no slice can be read: no_id"]
    studies = list_studies(frame, np.full((5, 2), 0.3), listed, PRIOR, NAMES)
    assert studies["status"].tolist() == ["ok", "prior"]
    assert studies["any"].tolist() == [0.3, 0.2]


def test_what_is_not_asked_for_is_listed_and_nothing_is_missing_without_it():
    frame = table(
        series("s", "head", 12, 5.0),
        series("s", "scout", 2, 5.0, readable=False, status="localizer", reason="a scout"),
        series("t", "report", 1, 5.0, readable=False, status="not_ct", reason="a report"),
    )
    # The series of the head holds two sagittal slices as well.
    moved = frame["image_id"].isin(["head_0", "head_11"])
    frame.loc[moved, ["readable", "status", "store_file"]] = [False, "not_axial", None]
    frame.loc[moved, "reason"] = "a sagittal slice"
    listed = list_series(frame)
    rows = listed.set_index(["series_id", "num_slices"])
    assert rows.loc[("head", 10), "reason"] == "the only series with slices that can be used"
    assert rows.loc[("head", 10), "num_unreadable"] == 0
    assert rows.loc[("head", 0), "reason"] == "left out: not_axial: a sagittal slice"
    assert rows.loc[("head", 0), "num_left_out"] == 2
    assert rows.loc[("scout", 0), "reason"] == "left out: localizer: a scout"
    assert rows.loc[("report", 0), "reason"] == "left out: not_ct: a report"
    studies = list_studies(frame, np.full((len(frame), 2), 0.3), listed, PRIOR, NAMES)
    assert studies["status"].tolist() == ["ok", "no_ct"]
    assert studies["any"].isna().tolist() == [False, True]
    alone = frame[frame["study_id"] == "t"]
    assert list_series(alone)["reason"].tolist() == ["left out: not_ct: a report"]


def test_gaps_and_repeated_positions_of_a_series_are_counted():
    frame = series("s", "a", 12, 5.0)
    frame = pd.concat([frame.drop(index=[4, 8, 9]), frame.iloc[[2]].assign(image_id="again")])
    listed = list_series(frame.sample(frac=1, random_state=1))
    assert (listed["num_gaps"].tolist(), listed["num_same_position"].tolist()) == ([2], [1])
