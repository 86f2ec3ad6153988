"""Volumes from header tables: every way in which UIDs, positions and kernels mislead."""

import numpy as np
import pandas as pd
import pytest

from common.dicom.grouping import HEADER_COLUMNS, Grouping, find_volumes

AXIAL = "1.0\\0.0\\0.0\\0.0\\1.0\\0.0"


def table(*rows: dict, count: int = 8, **common) -> pd.DataFrame:
    """A table of slices 5 mm apart; `rows` override values of one after the other."""
    rows = rows or ({},) * count
    records = []
    for number, row in enumerate(rows):
        record = dict.fromkeys(HEADER_COLUMNS, np.nan) | {
            "image_id": f"i{number:03}",
            "frame": -1,
            "patient_id": "p",
            "study_id": "s",
            "series_id": "a",
            "frame_of_reference": "f",
            "orientation": AXIAL,
            "position_x": 0.0,
            "position_y": 0.0,
            "position_z": 5.0 * number,
            "rows": 64,
            "columns": 64,
            "spacing_row": 0.5,
            "spacing_column": 0.5,
            "kernel": "H30s",
            "image_type": "ORIGINAL",
            "instance_number": float(number + 1),
        }
        records.append(record | common | row)
    return pd.DataFrame(records)


def ids(grouping: Grouping, headers: pd.DataFrame) -> list[list[str]]:
    """The image ids of each volume, in order; volumes sorted."""
    return sorted(headers["image_id"].iloc[volume.rows].tolist() for volume in grouping.volumes)


def both(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Two tables as one, the second with ids of its own."""
    other = other.assign(image_id="j" + other["image_id"].str[1:])
    return pd.concat([one, other], ignore_index=True)


def names(letter: str, numbers: range) -> list[str]:
    return [f"{letter}{number:03}" for number in numbers]


def test_a_plain_series_is_one_volume_from_foot_to_head() -> None:
    headers = table().iloc[::-1].reset_index(drop=True)
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8))]
    assert found.volumes[0].note == "" and set(found.volumes[0].order_from) == {"position"}


def test_rounding_of_the_orientation_splits_nothing() -> None:
    texts = [f"1.0\\0.0\\0.0\\0.0\\{0.945 + k:.6f}\\-0.327070" for k in (-1e-6, 1e-6)]
    headers = table(*({"orientation": texts[number % 2]} for number in range(8)))
    assert len(find_volumes(headers).volumes) == 1


def test_other_tilts_are_other_volumes() -> None:
    tilted = "1.0\\0.0\\0.0\\0.0\\0.9483237\\-0.3173047"
    headers = both(table(), table(orientation=tilted))
    assert len(find_volumes(headers).volumes) == 2


@pytest.mark.parametrize(
    "column, one, other, words",
    [
        ("kernel", "H30s", "H60s", "kernel"),
        ("image_type", "ORIGINAL\\A", "ORIGINAL\\B", "image type"),
        ("acquisition_number", 1.0, 2.0, "acquisition number"),
        ("temporal_position", 1.0, 2.0, "temporal position"),
        ("acquisition_time", 43200.0, 43210.0, "acquisition time"),
        ("content_time", 43200.0, 43210.0, "content time"),
    ],
)
def test_what_tells_two_passes_apart(column: str, one, other, words: str) -> None:
    headers = both(table(**{column: one}), table(**{column: other}))
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8)), names("j", range(8))]
    assert {volume.note for volume in found.volumes} == {f"split by {words}"}


def test_instance_numbers_tell_runs_apart_but_not_what_alternates() -> None:
    one, other = table(), table()
    other["instance_number"] += 8
    headers = both(one, other)
    assert ids(find_volumes(headers), headers) == [names("i", range(8)), names("j", range(8))]
    one["instance_number"] = 2 * one["instance_number"]
    other["instance_number"] = one["instance_number"] + 1
    found = find_volumes(both(one, other))
    assert found.volumes == [] and len(found.refused) == 16


def test_acquisitions_of_one_slice_each_split_nothing() -> None:
    headers = table(*({"acquisition_number": float(k), "acquisition_time": k} for k in range(8)))
    found = find_volumes(headers)
    assert len(found.volumes) == 1 and found.volumes[0].note == ""


def test_two_kernels_of_a_step_and_shoot_scan() -> None:
    steps = [{"acquisition_number": float(number)} for number in range(8)]
    headers = both(table(*steps), table(*steps, kernel="H60s"))
    assert ids(find_volumes(headers), headers) == [names("i", range(8)), names("j", range(8))]


def test_two_kernels_at_three_times() -> None:
    parts = [
        table(kernel=kernel, acquisition_number=float(number))
        for kernel in ("H30s", "H60s")
        for number in range(3)
    ]
    headers = pd.concat(parts, ignore_index=True)
    headers["image_id"] = names("i", range(48))
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(k, k + 8)) for k in range(0, 48, 8)]
    assert found.volumes[0].note == "split by kernel and acquisition number"


def test_a_scan_begun_again_is_two_volumes() -> None:
    aborted = table(*({"acquisition_number": 1.0},) * 3)
    headers = both(aborted, table(acquisition_number=2.0))
    assert ids(find_volumes(headers), headers) == [names("i", range(3)), names("j", range(8))]


@pytest.mark.parametrize(
    "column, one, other, words",
    [("kernel", "H30s", "H60s", "kernel"), ("slice_thickness", 4.0, 1.0, "slice thickness")],
)
def test_reconstructions_between_each_other_are_apart(column, one, other, words) -> None:
    """Slices of 4 mm, averages of four, lie half way between slices of 1 mm."""
    thick = table(*({"position_z": 4.0 * k} for k in range(8)), **{column: one})
    thin = table(*({"position_z": k - 1.5} for k in range(32)), **{column: other})
    headers = both(thick, thin)
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8)), names("j", range(32))]
    assert {volume.note for volume in found.volumes} == {f"split by {words}"}


@pytest.mark.parametrize(
    "column, values",
    [
        ("kernel", ["H31s"] * 3 + ["H30s"] * 5),  # of the skull base, of the brain
        ("slice_thickness", [2.5] * 3 + [5.0] * 5),
        ("slice_thickness", [5.0, 4.9] * 4),
        ("slice_thickness", [5.0, np.nan] * 4),
        ("kernel", ["H30s", None] * 4),
    ],
)
def test_kernels_and_thicknesses_along_one_scan_split_nothing(column: str, values: list) -> None:
    headers = table(*({column: value} for value in values))
    assert ids(find_volumes(headers), headers) == [names("i", range(8))]


@pytest.mark.parametrize(
    "column, one, other, words",
    [("kernel", "H30s", "H60s", "kernel"), ("acquisition_number", 1.0, 2.0, "acquisition number")],
)
def test_numbers_that_go_on_are_no_places_where_locations_come_again(
    column, one, other, words
) -> None:
    numbers = range(1, 17)
    rows = [
        {"position_z": np.nan, "instance_number": float(number), "slice_location": number % 8 * 5.0}
        for number in numbers
    ]
    headers = both(table(*rows[:8], **{column: one}), table(*rows[8:], **{column: other}))
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8)), names("j", range(8))]
    assert {volume.note for volume in found.volumes} == {f"split by {words}"}
    # Coarse or constant locations of one scan split nothing.
    for locations in ([0, 0, 1, 1, 2, 2, 3, 3], [7] * 8):
        rows = [{"position_z": np.nan, "slice_location": float(place)} for place in locations]
        headers = table(*rows)
        assert ids(find_volumes(headers), headers) == [names("i", range(8))]


def test_a_page_among_the_slices_is_none_of_them() -> None:
    """A page with doses has neither position nor orientation, and is of another type."""
    headers = table(count=9)
    headers.loc[8, ["position_x", "position_y", "position_z", "orientation"]] = np.nan
    assert len(find_volumes(headers).volumes) == 1
    headers.loc[8, "image_type"] = "DERIVED\\SECONDARY\\OTHER"
    assert ids(find_volumes(headers), headers) == [names("i", range(8)), ["i008"]]


def test_a_frame_of_reference_of_each_slice_is_left_out_of_account() -> None:
    """Some anonymizers give each file a new one."""
    headers = table(*({"frame_of_reference": f"f{number}"} for number in range(8)))
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8))]
    assert "FrameOfReferenceUID of its own" in found.volumes[0].note
    two = table(*({"frame_of_reference": f"f{number // 4}"} for number in range(8)))
    assert len(find_volumes(two).volumes) == 2


def test_two_patients_are_never_one_volume() -> None:
    one = table(*({},) * 4, patient_id="p")
    other = table(*({"position_z": 20.0 + 5 * k} for k in range(4)), patient_id="q")
    assert len(find_volumes(both(one, other)).volumes) == 2


def test_a_series_of_one_slice_each_is_one_volume() -> None:
    headers = table(*({"series_id": f"a{k}"} for k in range(8)))
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8))]
    assert found.volumes[0].note == "joined from 8 series of one slice"


def test_two_kernels_with_a_series_for_each_slice() -> None:
    headers = both(
        table(*({"series_id": f"a{k}"} for k in range(8))),
        table(*({"series_id": f"b{k}", "kernel": "H60s"} for k in range(8))),
    )
    assert ids(find_volumes(headers), headers) == [names("i", range(8)), names("j", range(8))]


def test_base_and_vertex_are_joined() -> None:
    base = table(*({"position_z": 2.5 * k} for k in range(8)), series_id="a")
    vertex = table(*({"position_z": 22.5 + 5 * k} for k in range(8)), series_id="b")
    headers = both(base, vertex)
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8)) + names("j", range(8))]
    assert found.volumes[0].note == "joined from 2 series"


def test_halves_a_small_step_apart_are_joined() -> None:
    """As at the change of spacing in a real head: steps of 4 mm, one of 1.08, then of 7."""
    base = table(*({"position_z": 4.0 * k} for k in range(8)), series_id="a")
    vertex = table(*({"position_z": 29.08 + 7 * k} for k in range(8)), series_id="b")
    assert len(find_volumes(both(base, vertex)).volumes) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"position_z": 2.5, "step": 5.0},  # between the slices of the first
        {"position_z": 90.0, "step": 5.0},  # far above it
        {"position_z": 40.0, "step": 5.0, "kernel": "H60s"},
        {"position_z": 40.0, "step": 5.0, "frame_of_reference": "g"},
        {"position_z": 40.0, "step": 5.0, "spacing_row": 0.6},
    ],
)
def test_series_that_do_not_continue_each_other_stay_apart(other: dict) -> None:
    start, step = other.pop("position_z"), other.pop("step")
    rows = ({"position_z": start + step * k} for k in range(8))
    headers = both(table(), table(*rows, series_id="b", **other))
    assert ids(find_volumes(headers), headers) == [names("i", range(8)), names("j", range(8))]


def test_a_thin_and_a_halved_thick_series() -> None:
    """The two halves of a head belong together, the thin series over all of it stays apart."""
    thin = table(*({"position_z": 0.3 + 1.25 * k} for k in range(32)), series_id="a")
    halves = table(*({"series_id": "b" if k < 4 else "c"} for k in range(8)))
    found = find_volumes(headers := both(thin, halves))
    assert ids(found, headers) == [names("i", range(32)), names("j", range(8))]


def test_two_spacings_are_two_volumes() -> None:
    headers = table(*({"spacing_row": 0.5 if k < 4 else 0.25} for k in range(8)))
    assert ids(find_volumes(headers), headers) == [names("i", range(4)), names("i", range(4, 8))]


def test_an_unknown_spacing_is_that_of_its_series() -> None:
    headers = table(*({"spacing_row": np.nan if k == 3 else 0.5} for k in range(8)))
    assert len(find_volumes(headers).volumes) == 1


@pytest.mark.parametrize("rising", [1, -1])
def test_a_slice_without_a_position_is_placed_by_its_number(rising: int) -> None:
    headers = table(*({"instance_number": float(100 + rising * k)} for k in range(8)))
    for row in (0, 3, 7):
        missing = headers.copy()
        missing.loc[row, ["position_x", "position_y", "position_z"]] = np.nan
        volume = find_volumes(missing).volumes[0]
        assert volume.rows.tolist() == list(range(8))
        assert volume.places[row] == pytest.approx(5.0 * row)
        assert volume.order_from.tolist() == [
            "instance_number" if k == row else "position" for k in range(8)
        ]


def test_slice_location_places_what_numbers_do_not() -> None:
    headers = table(*({"slice_location": -5.0 * k, "instance_number": np.nan} for k in range(8)))
    headers.loc[2, "position_z"] = np.nan
    volume = find_volumes(headers).volumes[0]
    assert volume.rows.tolist() == list(range(8)) and volume.order_from[2] == "slice_location"


def test_a_slice_that_nothing_places_is_refused() -> None:
    headers = table()
    headers.loc[2, ["position_z", "instance_number"]] = np.nan
    found = find_volumes(headers)
    assert list(found.refused) == [2] and len(found.volumes[0].rows) == 7


def test_a_slice_that_nothing_places_is_the_one_refused_whatever_the_order() -> None:
    headers = table()
    headers.loc[2, ["position_z", "instance_number"]] = np.nan
    for seed in range(10):
        shuffled = headers.sample(frac=1, random_state=seed).reset_index(drop=True)
        found = find_volumes(shuffled)
        assert [shuffled["image_id"][row] for row in found.refused] == ["i002"]
        assert ids(found, shuffled) == [[name for name in names("i", range(8)) if name != "i002"]]


def test_without_positions_numbers_order() -> None:
    headers = table(position_z=np.nan, instance_number=0.0)
    headers["instance_number"] = np.arange(8.0)[::-1]
    volume = find_volumes(headers).volumes[0]
    assert volume.rows.tolist() == list(range(8))[::-1]
    assert set(volume.order_from) == {"instance_number"} and volume.coordinate != "position"


def test_without_anything_ids_order_and_say_so() -> None:
    headers = table(position_z=np.nan, instance_number=np.nan)
    volume = find_volumes(headers).volumes[0]
    assert volume.rows.tolist() == list(range(8)) and set(volume.order_from) == {"image_id"}


def test_one_doubled_position_costs_its_own_slices_only() -> None:
    headers = table(count=24, instance_number=np.nan)
    twice = headers.iloc[[5]].assign(image_id="twice")
    found = find_volumes(headers := pd.concat([headers, twice], ignore_index=True))
    assert set(found.refused) == {5, 24} and len(found.volumes[0].rows) == 23


def test_what_has_to_be_kept_is_ordered_by_ids() -> None:
    headers = both(table(instance_number=np.nan), table(instance_number=np.nan))
    found = find_volumes(headers, keep_ambiguous=True)
    expected = [name for k in range(8) for name in (f"i{k:03}", f"j{k:03}")]
    assert ids(found, headers) == [expected] and "nothing separates" in found.volumes[0].note


def test_frames_of_a_file_without_positions_follow_their_numbers() -> None:
    headers = table(
        *({"frame": k, "image_id": f"i_{k}"} for k in (10, 2, 1, 0)),
        position_z=np.nan,
        instance_number=1.0,
    )
    assert find_volumes(headers).volumes[0].rows.tolist() == [3, 2, 1, 0]


def test_the_order_of_the_table_changes_nothing() -> None:
    parts = [
        table(acquisition_number=1.0),
        table(kernel="H60s"),
        table(*({"series_id": f"c{k}"} for k in range(8)), study_id="t"),
        table(series_id="d", patient_id="q"),
    ]
    headers = pd.concat(parts, ignore_index=True)
    headers["image_id"] = names("i", range(len(headers)))
    expected = ids(find_volumes(headers), headers)
    rng = np.random.default_rng(0)
    for _ in range(20):
        shuffled = headers.sample(frac=1, random_state=rng).reset_index(drop=True)
        assert ids(find_volumes(shuffled), shuffled) == expected


def test_parts_that_differ_in_all_of_their_geometry_are_apart() -> None:
    other = {"frame_of_reference": "g", "orientation": "1\\0\\0\\0\\1\\0.1", "spacing_row": 0.25}
    headers = table(*({} if k < 4 else other for k in range(8)))
    assert ids(find_volumes(headers), headers) == [names("i", range(4)), names("i", range(4, 8))]


def test_one_slice_of_another_series_is_a_volume_or_continues_one() -> None:
    headers = table(*({"series_id": "a" if k < 7 else "b", "kernel": "k"} for k in range(8)))
    assert ids(find_volumes(headers), headers) == [names("i", range(8))]
    headers.loc[7, "kernel"] = "other"
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(7)), ["i007"]]
    assert not found.refused and {volume.note for volume in found.volumes} == {""}


def test_slices_that_have_to_be_kept_follow_file_and_frame() -> None:
    files = [("a_b", 10), ("a_a", 2), ("a_b", 2), ("a_a", 10), ("a_a", 0), ("a_b", 0)]
    rows = ({"image_id": f"{file}_{frame}", "frame": frame} for file, frame in files)
    headers = table(*rows, position_z=5.0, instance_number=1.0)
    expected = ["a_a_0", "a_a_2", "a_a_10", "a_b_0", "a_b_2", "a_b_10"]
    assert ids(find_volumes(headers, keep_ambiguous=True), headers) == [expected]
    # Ids that only look like those of frames: plain text.
    headers = headers.assign(frame=-1)
    found = find_volumes(headers, keep_ambiguous=True)
    assert ids(found, headers) == [sorted(headers["image_id"])]


def test_frames_of_two_files_follow_the_numbers_of_the_files() -> None:
    frames = [("x", 2.0, 0), ("x", 2.0, 300), ("y", 1.0, 1), ("y", 1.0, 299), ("z", 3.0, 0)]
    rows = (
        {"image_id": f"{file}_{frame}", "frame": frame, "instance_number": number}
        for file, number, frame in frames
    )
    headers = table(*rows, position_z=np.nan)
    expected = ["y_1", "y_299", "x_0", "x_300", "z_0"]
    assert ids(find_volumes(headers), headers) == [expected]


@pytest.mark.parametrize(
    ("orientation", "normal"),
    [
        (AXIAL, (0, 0, 1)),
        ("", (0, 0, 1)),  # unknown: that of an axial series
        ("0\\1\\0\\0\\0\\-1", (1, 0, 0)),
        ("1\\0\\0\\0\\0.8\\-0.6", (0, 0.6, 0.8)),
    ],
)
def test_places_are_distances_along_the_normal(orientation: str, normal: tuple) -> None:
    rng = np.random.default_rng(0)
    positions = rng.uniform(-90, 90, (8, 3))
    places = [sum(a * b for a, b in zip(xyz, normal)) for xyz in positions.tolist()]
    columns = ("position_x", "position_y", "position_z")
    headers = table(*(dict(zip(columns, xyz)) for xyz in positions), orientation=orientation)
    volume = find_volumes(headers).volumes[0]
    assert volume.rows.tolist() == sorted(range(8), key=lambda k: places[k])
    assert volume.places.tolist() == pytest.approx(sorted(places))


def test_all_slices_lie_along_the_normal_of_most_of_them() -> None:
    # Within the tolerance of one orientation; the slices lie far to the back.
    most, few = "1\\0\\0\\0\\1\\0", "1\\0\\0\\0\\1\\-0.009"
    rows = ({"orientation": few if k in (0, 1, 5) else most} for k in range(8))
    headers = table(*rows, position_y=-1000.0)
    headers.loc[2, "orientation"] = ""
    assert find_volumes(headers).volumes[0].places.tolist() == [5.0 * k for k in range(8)]


@pytest.mark.parametrize(
    ("column", "one", "other", "is_one"),
    [
        ("spacing_row", 0.5, 0.5004, True),
        ("spacing_row", 0.5, 0.4996, True),
        ("spacing_row", 0.5, 0.5006, False),
        ("spacing_column", 0.5, 0.5004, True),
        ("spacing_column", 0.5, 0.4994, False),
        ("spacing_row", 0.5, np.nan, True),
        ("orientation", AXIAL, "1\\0\\0\\0\\1\\0.009", True),
        ("orientation", AXIAL, "1\\0\\-0.009\\0\\1\\0", True),
        ("orientation", AXIAL, "1\\0\\0\\0\\1\\0.011", False),
        ("orientation", AXIAL, "1\\-0.011\\0\\0\\1\\0", False),
        ("orientation", AXIAL, "", True),
        ("frame_of_reference", "f", "g", False),
        ("frame_of_reference", "f", None, True),
        ("rows", 64, 65, False),
        ("columns", 64, 63, False),
    ],
)
def test_the_tolerances_within_a_volume(column: str, one, other, is_one: bool) -> None:
    headers = table(*({column: other if k == 3 else one} for k in range(8)))
    assert len(find_volumes(headers).volumes) == (1 if is_one else 2)


@pytest.mark.parametrize("column", ["frame_of_reference", "orientation"])
def test_what_is_unknown_in_a_series_of_two_kinds_is_of_neither(column: str) -> None:
    kinds = {"frame_of_reference": ("f", "g"), "orientation": (AXIAL, "1\\0\\0\\0\\1\\0.1")}[column]
    headers = table(*({column: None if k > 5 else kinds[k % 2]} for k in range(8)))
    sizes = sorted(len(volume.rows) for volume in find_volumes(headers).volumes)
    assert sizes == [2, 3, 3]
    # Each series has its own: what is unknown in the second is that of its other slices.
    headers["series_id"] = ["a", "b"] * 4
    sizes = [len(volume.rows) for volume in find_volumes(headers).volumes]
    assert sizes == [4, 4]


def test_an_orientation_near_two_others_is_that_of_the_more_common_one() -> None:
    texts = [f"1\\0\\0\\0\\1\\{number}" for number in (0.0, 0.008, 0.016)]
    for common in (0, 2):
        order = [common] * 5 + [1, 1] + [2 - common] * 3
        headers = table(*({"orientation": texts[k]} for k in order))
        sizes = sorted(len(volume.rows) for volume in find_volumes(headers).volumes)
        assert sizes == [3, 7]


@pytest.mark.parametrize(("patients", "num"), [(["p"], 1), (["p", "q"], 3)])
def test_an_unknown_patient_is_that_of_the_study_where_it_has_one(patients: list, num: int) -> None:
    known = [table(patient_id=patient, count=4) for patient in patients]
    unknown = table(*({"position_z": 20.0 + 5 * k} for k in range(4)), patient_id=None)
    headers = pd.concat([*known, unknown], ignore_index=True)
    headers["image_id"] = names("i", range(len(headers)))
    assert len(find_volumes(headers).volumes) == num


@pytest.mark.parametrize(
    ("num_positions", "num_doubled", "is_all"),
    [(10, 1, False), (9, 1, True), (20, 2, False), (19, 2, True), (40, 0, False)],
)
def test_up_to_a_tenth_of_the_positions_are_refused_alone(
    num_positions: int, num_doubled: int, is_all: bool
) -> None:
    headers = table(count=num_positions, instance_number=np.nan)
    doubled = headers.iloc[3 : 3 + num_doubled]
    found = find_volumes(headers := both(headers, doubled) if num_doubled else headers)
    of_both = [*range(3, 3 + num_doubled), *range(num_positions, num_positions + num_doubled)]
    assert sorted(found.refused) == (list(range(len(headers))) if is_all else of_both)
    assert len(found.volumes) == (not is_all)
    shared = "1 position holds" if num_doubled == 1 else f"{num_doubled} positions hold"
    for reason in found.refused.values():
        assert reason.startswith(f"{shared} several slices of its series that neither")


@pytest.mark.parametrize("known", [120.0, 0.0])
def test_an_unknown_tube_voltage_is_a_kind_of_its_own(known: float) -> None:
    headers = both(table(kvp=np.nan), table(kvp=known))
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8)), names("j", range(8))]
    assert {volume.note for volume in found.volumes} == {"split by tube voltage"}


def test_a_kind_that_leaves_slices_together_does_not_split() -> None:
    # Two kernels, but both slices of the first position have the same one.
    one, other = table(kernel="H30s", acquisition_number=1.0), table(acquisition_number=2.0)
    other["kernel"] = ["H30s"] + ["H60s"] * 7
    headers = both(one, other)
    found = find_volumes(headers)
    assert {volume.note for volume in found.volumes} == {"split by acquisition number"}


def test_three_passes_by_time_and_not_more_than_there_are_slices_at_a_position() -> None:
    parts = [table(content_time=100.0 * k) for k in range(3)]
    headers = pd.concat(parts, ignore_index=True)
    headers["image_id"] = names("i", range(24))
    assert ids(find_volumes(headers), headers) == [names("i", range(k, k + 8)) for k in (0, 8, 16)]
    # An unknown time tells nothing.
    headers.loc[20, "content_time"] = np.nan
    headers["instance_number"] = 1.0
    found = find_volumes(headers)
    assert not found.volumes and len(found.refused) == 24


NOWHERE = {"position_x": 0.0, "position_y": 0.0, "position_z": 0.0}


def test_one_position_of_zeros_in_all_slices_is_none() -> None:
    headers = table(**NOWHERE, acquisition_time=1.0).iloc[::-1].reset_index(drop=True)
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8))]
    assert set(found.volumes[0].order_from) == {"instance_number"}
    assert "ImagePositionPatient" in found.volumes[0].note


def test_one_position_against_the_slice_locations_is_none() -> None:
    rows = [{"slice_location": 5.0 * number, "position_z": 7.0} for number in range(8)]
    headers = table(*rows, instance_number=np.nan)
    (volume,) = find_volumes(headers).volumes
    assert len(volume.rows) == 8 and set(volume.order_from) == {"slice_location"}


def test_one_position_that_nothing_confirms_is_refused() -> None:
    """Each slice as a volume of its own would be a whole head of one slice."""
    rows = [{"position_z": 7.0, "acquisition_time": float(number)} for number in range(8)]
    found = find_volumes(table(*rows))
    assert not found.volumes and len(found.refused) == 8
    assert set(found.refused.values()) == {"all 8 slices of its series claim one position"}
    confirmed = find_volumes(table(*rows, slice_location=7.0))
    assert [len(volume.rows) for volume in confirmed.volumes] == [1] * 8


def test_an_order_of_ids_is_noted_of_the_volume() -> None:
    nothing = dict.fromkeys(("position_x", "position_y", "position_z", "instance_number"), np.nan)
    (volume,) = find_volumes(table(**nothing)).volumes
    assert volume.note == "nothing tells the order of its slices"


def test_lossy_copies_under_other_ids_are_a_volume_of_their_own() -> None:
    headers = both(table(lossy=False), table(lossy=True))
    found = find_volumes(headers)
    assert ids(found, headers) == [names("i", range(8)), names("j", range(8))]
    assert found.volumes[0].note == "split by lossy compression"


@pytest.mark.parametrize("num", [2, 3, 4])
@pytest.mark.parametrize("location", [np.nan, 7.0])
def test_two_slices_at_one_position_are_passes_and_more_are_none(num: int, location: float) -> None:
    rows = ({"acquisition_number": float(k)} for k in range(num))
    headers = table(*rows, position_z=5.0, slice_location=location)
    found = find_volumes(headers)
    if num == 2 or location == 7.0:  # SliceLocation says the same
        assert [volume.rows.tolist() for volume in found.volumes] == [[k] for k in range(num)]
    else:
        reason = f"all {num} slices of its series claim one position"
        assert found.refused == dict.fromkeys(range(num), reason) and not found.volumes
