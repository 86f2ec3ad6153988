"""Rows of studies: against plain numpy over the pixels, one study of each patient, no ids."""

import numpy as np
import pytest
from predictor_factory import make_dataset

from common.slices.summaries import HU_BINS, HU_RANGE, NUM_SLICES, WORDS, study_summaries
from common.slices.table import SliceTable


@pytest.fixture
def table(tmp_path) -> SliceTable:
    table = make_dataset(tmp_path, num_patients=5, num_slices=12)
    frame = table.frame
    frame["slice_thickness"], frame["kvp"], frame["tilt_deg"] = 5.0, 120.0, -7.5
    frame["kernel"] = np.where(frame["study_id"] == "study3", "bone", "soft")
    frame.loc[frame["study_id"] == "study2", "kernel"] = None
    return SliceTable(frame, table.folder)


def test_histogram_and_quantiles_are_those_of_the_pixels(table, monkeypatch):
    image_hu = SliceTable.image_hu
    monkeypatch.setattr(  # with bone
        SliceTable,
        "image_hu",
        lambda self, row: np.where(image_hu(self, row) > 70, 1000, image_hu(self, row)),
    )
    found = study_summaries(table).loc["study2"]
    rows = table.group_rows(int(np.flatnonzero(table.frame["study_id"] == "study2")[0]))
    chosen = rows[np.linspace(0, len(rows) - 1, NUM_SLICES).round().astype(int)]
    values = np.concatenate([table.image_hu(row)[::2, ::2].ravel() for row in chosen])
    inside = values[(values >= HU_RANGE[0]) & (values < HU_RANGE[1])]
    assert values.min() < HU_RANGE[0] and values.max() >= HU_RANGE[1]
    counts, _ = np.histogram(inside, np.arange(HU_RANGE[0], HU_RANGE[1] + 1, 10))
    assert found[HU_BINS].to_numpy(float) == pytest.approx(counts / len(inside))
    for q in (10, 25, 50, 75, 90):
        # Whole numbers: the quantile lies within half a HU of the sample's.
        assert abs(found[f"hu_q{q}"] - np.percentile(inside, q)) <= 0.5 + 1e-9


def test_headers_are_those_of_the_used_volume(table):
    found = study_summaries(table)
    assert found.loc["study3", "kernel"] == "bone" and found.loc["study2", "kernel"] is None
    assert (found["slice_thickness"] == 5).all() and (found["tilt_deg"] == 7.5).all()
    assert (found["spacing"] == 5).all()
    assert found.loc["study1", "num_slices"] == 12  # not its shorter series
    assert found.loc["study0", "num_slices"] == 11  # one can't be read
    numbers = found.drop(columns=list(WORDS))
    assert (numbers.dtypes == np.float64).all()
    assert not set(found) & {"patient_id", "series_id", "image_id", "institution_hash"}


def test_one_study_of_each_patient_and_a_bound(table):
    frame = table.frame
    frame.loc[frame["study_id"] == "study4", "patient_id"] = "secret-patient-3"
    table = SliceTable(frame, table.folder)
    assert list(study_summaries(table).index) == ["study0", "study1", "study2", "study3"]
    assert list(study_summaries(table, ["study2", "study4"]).index) == ["study2", "study4"]
    assert list(study_summaries(table, most=2).index) == ["study0", "study3"]
    assert study_summaries(table, ["none"]).empty


def test_pixels_that_are_damaged_are_passed_over(table):
    path = table.store.folder / "p2r0.b2nd"
    whole = study_summaries(table)
    path.write_bytes(b"nothing")
    found = study_summaries(SliceTable(table.frame, table.folder))
    assert found.loc["study2", ["hu_q50", *HU_BINS]].isna().all()
    assert found.loc["study3"].equals(whole.loc["study3"])
