import numpy as np
import pandas as pd
from slice_frames import slice_frame

from common.report.exploration import headers


def stored_frame(**columns: object) -> pd.DataFrame:
    size = len(next(iter(columns.values())))
    given = {"status": ["ok"] * size, "store_index": range(size), "split": ["train"] * size}
    return slice_frame(**(given | columns))


def test_gaps_are_between_neighbours_of_one_series():
    frame = stored_frame(
        store_file=["x", "y", "x", "y", "x", "x"],
        rank=[2, 1, 0, 0, 1, 3],
        position_mm=[10.0, 100.0, 0.0, 97.5, 5.0, 20.0],
    )
    gaps = headers.slice_gaps(frame)
    assert gaps["gap_mm"].to_dict() == {4: 5.0, 0: 5.0, 5: 10.0, 1: 2.5}
    assert gaps["usual_mm"].to_dict() == {4: 5.0, 0: 5.0, 5: 5.0, 1: 2.5}
    assert list(headers.gap_findings(frame).values()) == [2, 0, 1, 1, 0]


def test_equal_positions_are_counted():
    frame = stored_frame(store_file=["x"] * 3, rank=[0, 1, 2], position_mm=[0.0, 0.0, 5.0])
    assert headers.gap_findings(frame)["slices at the position of the one before"] == 1


def test_slices_without_positions_and_single_slices_have_no_gap():
    frame = stored_frame(
        store_file=["x", "x", "y"], rank=[0, 1, 0], position_mm=[np.nan, np.nan, 3.0]
    )
    assert headers.slice_gaps(frame).empty
    assert headers.gap_findings(frame)["slices without a position"] == 2


def test_what_headers_say_is_counted_by_group():
    frame = stored_frame(
        split=["train", "train", "test", "train"],
        rows=[512, 512, 512, 638],
        columns=[512, 512, 512, 490],
        bits_stored=[12, 12, 16, None],
        pixel_representation=[0, 0, 1, None],
        rescale_slope=[1.0, 1.0, 1.0, np.nan],
        rescale_intercept=[-1024.0, -1024.0, 0.5, np.nan],
        window_center=[40.0, 36.0, 40.0, np.nan],
        window_width=[80.0, 80.0, 80.0, 80.0],
    )
    by = headers.groups_of(frame)
    sizes = headers.top_counts(headers.sizes(frame), by)
    assert sizes.loc["512 x 512"].to_dict() == {"slices": 3, "test": 1, "train": 2}
    assert sizes.loc["638 x 490"].to_dict() == {"slices": 1, "test": 0, "train": 1}
    assert set(headers.bit_families(frame)) == {
        "12 bits, unsigned, slope 1, intercept -1024",
        "16 bits, signed, slope 1, intercept 0.5",
        "unknown",
    }
    assert headers.windows(frame).tolist() == ["40 / 80", "36 / 80", "40 / 80", "none"]


def test_a_long_list_ends_with_the_number_of_what_is_left():
    values = pd.Series(list("aaabbcd"), name="value")
    counts = headers.top_counts(values, pd.Series("all", values.index), most=2)
    assert counts["slices"].to_dict() == {"a": 3, "b": 2, "2 others": 2}


def test_slices_of_other_statuses_are_left_out():
    frame = stored_frame(status=["ok", "truncated"], rows=[4, 8], columns=[4, 8])
    assert headers.sizes(frame).tolist() == ["4 x 4"]
    assert headers.status_counts(frame)["all"].to_dict() == {"ok": 1, "truncated": 1}


def test_reasons_name_no_file_and_nobody():
    frame = slice_frame(
        status=["duplicate", "corrupt", "corrupt", "odd", "odd"],
        reason=[
            "same image as John Doe/1.dcm",
            "of Jane Roe, not read",
            "see C:\\scans\\x.dcm now",
            "in 1.2.840.113619.2.55 twice",
            "study S-1999 is empty",
        ],
        patient_id=["p", "Jane Roe", "q", "r", "s"],
        source_file=["a.dcm", "b.dcm", "c.dcm", "d.dcm", "e.dcm"],
        study_id=["t", "t", "t", "t", "S-1999"],
    )
    told = set(headers.reason_counts(frame)["reason"])
    assert told == {
        "same image as another file",
        "of …, not read",
        "see … now",
        "in … twice",
        "study … is empty",
    }


def test_many_reasons_are_told_without_their_numbers():
    reasons = [f"{n} of 100 bytes" for n in range(20)] + ["no pixels"]
    frame = slice_frame(status=["truncated"] * 20 + ["odd"], reason=reasons)
    counts = headers.reason_counts(frame)
    assert counts.to_dict("records")[0] == {
        "status": "truncated",
        "reason": "# of # bytes",
        "slices": 20,
    }
    short = headers.reason_counts(frame, most=1)
    assert short.iloc[-1].to_dict() == {"status": "", "reason": "1 other reasons", "slices": 1}


def test_an_overview_has_each_group_and_a_comparison_each_dataset():
    frame = stored_frame(
        store_file=["x", "x", "y"],
        rank=[0, 1, 0],
        position_mm=[0.0, 2.5, 0.0],
        rows=[4, 4, 8],
        columns=[4, 4, 8],
        split=["train", "train", "test"],
        tilt_deg=[0.0, 10.0, np.nan],
    )
    table = headers.overview(frame, headers.groups_of(frame))
    assert table.loc["train", "slice gap, median mm"] == 2.5
    assert table.loc["train", "slices with tilt, %"] == 50
    assert table.loc["test", "matrix, most frequent"] == "8 x 8"
    assert np.isnan(table.loc["test", "slices with tilt, %"])
    both = headers.compare({"one": frame, "two": frame.iloc[:2]})
    assert both["slices"].to_dict() == {"one": 3, "two": 2}
