import pytest

from benchmarks.ensemble import NUM_FOLDS, made_up_slices, make_tables, measure
from rsna_task import LABELS, SUBTYPES


@pytest.mark.long
def test_both_steps_run_on_few_rows(tmp_path):
    make_tables(tmp_path, 40 * 35 * NUM_FOLDS, 3, seed=1)
    sent = measure("submission", tmp_path, 3)
    assert sent["submission_rows"] == 6 * sent["submission_images"] == 6 * 7000
    fitted = measure("weights", tmp_path, 3)
    assert fitted["weights_score"] < fitted["weights_best_member"]
    assert abs(sum(fitted["weights_of_any"]) - 1) < 0.01


def test_the_made_up_rows_are_like_those_of_the_challenge() -> None:
    frame = made_up_slices(60_000)
    assert len(frame) == 60_000 and frame["image_id"].is_unique
    assert (frame.groupby("series_id")["patient_id"].nunique() == 1).all()
    assert frame.groupby("series_id").size().mean() == pytest.approx(34.6, abs=1)
    expected = dict(zip(SUBTYPES, (0.0042, 0.048, 0.035, 0.047, 0.063)))
    for name, share in expected.items():
        assert frame[name].mean() == pytest.approx(share, rel=0.6), name
    assert (frame["any"] == frame[list(SUBTYPES)].max(axis=1)).all()
    assert set(LABELS) <= set(frame.columns) and frame[list(LABELS)].notna().all(axis=None)
