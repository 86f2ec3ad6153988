from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slice_frames import slice_frame

from common.errors import InputError
from common.preparation.fold_making import fold_report, make_folds, make_source_folds, make_split
from common.slices.folds import (
    fold_numbers,
    folds_path,
    is_in,
    is_pseudo,
    owners,
    read_folds,
    split_rows,
    without_fold,
)
from common.slices.table import SliceTable

LABELS = ("rare", "common")


def patients_frame(num_slices: list[int], seed: int = 0) -> pd.DataFrame:
    """Patient p has num_slices[p] slices; one in six patients has `rare`, half have `common`."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(len(num_slices)), num_slices)
    positive = generator.random((len(num_slices), 2)) < (1 / 6, 1 / 2)
    labels = positive[patient] & (generator.random((len(patient), 2)) < 0.5)
    return slice_frame(
        image_id=[f"i{k}" for k in range(len(patient))],
        patient_id=[f"p{k}" for k in patient],
        split="train",
        status="ok",
        store_file="a",
        store_index=np.arange(len(patient)),
        rank=np.arange(len(patient)),
        keep_for_training=True,
        rare=labels[:, 0].astype("float32"),
        common=labels[:, 1].astype("float32"),
    )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=6, max_size=40),
    st.integers(2, 6),
    st.integers(0, 2**31 - 1),
)
def test_every_slice_gets_one_fold_and_every_patient_is_whole(
    num_slices: list[int], num_folds: int, seed: int
) -> None:
    frame = patients_frame(num_slices)
    folds = make_folds(frame, LABELS, num_folds, seed)
    assert sorted(folds["image_id"]) == sorted(frame["image_id"])
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    assert set(folds["fold"]) <= set(range(num_folds))
    sizes = folds.groupby("patient_id")["fold"].first().value_counts()
    assert sizes.max() - sizes.reindex(range(num_folds), fill_value=0).min() <= 3
    shuffled = make_folds(frame.sample(frac=1, random_state=1), LABELS, num_folds, seed)
    pd.testing.assert_frame_equal(folds, shuffled)


def test_prevalence_is_closer_than_by_a_random_split() -> None:
    frame = patients_frame([20] * 200)
    _, deviation = fold_report(make_folds(frame, LABELS, 5, 4667), frame, LABELS)
    random_deviations = []
    for seed in range(20):
        folds = frame[["image_id", "patient_id"]].copy()
        patient = folds["patient_id"].str[1:].astype(int)
        folds["fold"] = np.random.default_rng(seed).permutation(200)[patient] % 5
        random_deviations.append(fold_report(folds, frame, LABELS)[1])
    assert deviation < min(random_deviations)


def test_report_counts_and_largest_deviation_by_hand() -> None:
    frame = pd.DataFrame(
        {"image_id": list("abcd"), "rare": [1, 0, 0, 0], "common": [1.0, 1, 1, np.nan]}
    )
    folds = pd.DataFrame(
        {"image_id": list("abcd"), "patient_id": list("ppqr"), "fold": [0, 0, 1, 1]}
    )
    report, deviation = fold_report(folds, frame, LABELS)
    assert report.loc["0", ["num_patients", "num_slices", "rare", "common"]].tolist() == [
        1,
        2,
        0.5,
        1,
    ]
    assert report.loc["1", ["num_patients", "num_slices", "rare", "common"]].tolist() == [
        2,
        2,
        0,
        1,
    ]
    assert report.loc["all", ["num_patients", "num_slices", "rare", "common"]].tolist() == [
        3,
        4,
        0.25,
        1,
    ]
    assert deviation == 1.0


def test_only_training_slices_with_a_patient_get_a_fold() -> None:
    frame = patients_frame([3] * 10)
    frame.loc[0, "split"] = "test"
    frame.loc[5, "patient_id"] = None
    folds = make_folds(frame, LABELS, 2, 1)
    assert set(frame["image_id"]) - set(folds["image_id"]) == {"i0", "i5"}
    assert make_folds(frame.assign(split="none"), LABELS, 2, 1).empty


def test_too_few_patients() -> None:
    with pytest.raises(InputError, match="3 patients"):
        make_folds(patients_frame([2, 2, 2]), LABELS, 5, 0)
    with pytest.raises(
        InputError, match=r"1 patient can't be split into 5 folds \(label 2 or more"
    ):
        make_folds(patients_frame([2]), LABELS, 5, 0)


def test_split_takes_readable_labelled_slices_and_filters_only_training(tmp_path: Path) -> None:
    frame = patients_frame([10] * 12)
    folds = make_folds(frame, LABELS, 3, 0)
    valid_ids = folds.loc[folds["fold"] == 1, "image_id"].tolist()
    train_ids = folds.loc[folds["fold"] != 1, "image_id"].tolist()
    frame = frame.set_index("image_id", drop=False)
    frame.loc[[valid_ids[0], train_ids[0]], "store_index"] = None
    frame.loc[[valid_ids[1], train_ids[1]], "rare"] = np.nan
    frame.loc[[valid_ids[2], train_ids[2]], "keep_for_training"] = False
    table = SliceTable(frame, tmp_path)
    train_rows, valid_rows = split_rows(table, folds, 1, LABELS)
    assert set(frame["image_id"].iloc[train_rows]) == set(train_ids[3:])
    assert set(frame["image_id"].iloc[valid_rows]) == set(valid_ids[2:])
    assert train_rows.dtype == valid_rows.dtype == np.int64
    with pytest.raises(InputError, match="--data_fold 3"):
        split_rows(table, folds, 3, LABELS)


KINDS_OF_ROWS = st.fixed_dictionaries(
    {
        "patient": st.integers(0, 8),
        "split": st.sampled_from(["train", "train", "train", "test", "none"]),
        "is_stored": st.sampled_from([True, True, True, False]),
        "keep": st.sampled_from([True, True, False]),
        "source": st.sampled_from([None, "slices", "studies", "pseudo:0001", "pseudo:2/fold_1"]),
        "rare": st.sampled_from([0.0, 1.0, np.nan]),
        "common": st.sampled_from([0.0, 1.0, np.nan]),
        "is_in_folds": st.sampled_from([True, True, True, False]),
    }
)


@settings(max_examples=200)
@given(st.lists(KINDS_OF_ROWS, min_size=1, max_size=30), st.booleans())
def test_the_rows_of_both_sides_equal_a_plain_loop(rows: list[dict], has_many_folds: bool) -> None:
    """Patients 0 to 2 are always trained on, the others are in the folds 0 and 1."""
    fold_of = {p: -1 if p < 3 else (p % 2 if has_many_folds else 0) for p in range(9)}
    frame = slice_frame(
        image_id=[f"i{k}" for k in range(len(rows))],
        patient_id=[f"p{row['patient']}" for row in rows],
        split=[row["split"] for row in rows],
        status="ok",
        store_file="a",
        store_index=[k if row["is_stored"] else None for k, row in enumerate(rows)],
        rank=np.arange(len(rows)),
        keep_for_training=[row["keep"] for row in rows],
        label_source=[row["source"] for row in rows],
        rare=[row["rare"] for row in rows],
        common=[row["common"] for row in rows],
    )
    expected: dict[str, list[int]] = {"train": [], "valid": []}
    listed: list[tuple[str, str, int]] = []
    for k, row in enumerate(rows):
        fold = fold_of[row["patient"]]
        if not row["is_in_folds"]:
            continue
        listed.append((f"i{k}", f"p{row['patient']}", fold))
        is_by_model = str(row["source"]).startswith("pseudo:")
        num_known = sum(not np.isnan(row[name]) for name in LABELS)
        is_labelled = num_known >= 1 if is_by_model else num_known == 2
        if not row["is_stored"] or not is_labelled or (row["split"] != "train" and not is_by_model):
            continue
        if fold == 0 and not is_by_model:
            expected["valid"].append(k)
        elif fold != 0 and row["keep"]:
            expected["train"].append(k)
    folds = pd.DataFrame(listed, columns=["image_id", "patient_id", "fold"])
    table = SliceTable(frame, Path("here"))
    if 0 not in folds["fold"].tolist():
        with pytest.raises(InputError, match="--data_fold 0"):
            split_rows(table, folds, 0, LABELS)
    elif not all(expected.values()):
        side = "training" if not expected["train"] else "validation"
        with pytest.raises(InputError, match=f"fold 0 of here has no {side} slices with labels"):
            split_rows(table, folds, 0, LABELS)
    else:
        train, valid = split_rows(table, folds, 0, LABELS)
        assert {"train": train.tolist(), "valid": valid.tolist()} == expected


def test_slices_without_a_label_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    frame = patients_frame([4] * 6)
    folds = make_folds(frame, LABELS, 2, 0)
    split_rows(SliceTable(frame, Path()), folds, 0, LABELS)
    assert not caplog.text
    frame.loc[[3, 9], "rare"] = np.nan
    split_rows(SliceTable(frame, Path()), folds, 0, LABELS)
    assert "2 slices left out: a label is unknown" in caplog.text
    assert "in no fold" not in caplog.text
    split_rows(SliceTable(frame, Path()), folds.drop(index=[0, 5, 7]), 0, LABELS)
    assert "3 labelled slices left out: in no fold" in caplog.text


def test_a_slice_belongs_to_its_patient_or_else_to_its_study() -> None:
    frame = pd.DataFrame({"patient_id": ["p", None, "", "q"], "study_id": ["s", "t", "u", "v"]})
    assert owners(frame).tolist() == ["p", "t", "u", "q"]


def test_fold_numbers_are_by_image() -> None:
    folds = pd.DataFrame({"image_id": ["b", "a", "c"], "patient_id": "p", "fold": [2, 0, -1]})
    assert fold_numbers(folds).to_dict() == {"b": 2, "a": 0, "c": -1}
    given = pd.DataFrame({"image_id": ["b", "a"], "sample_type": ["valid", "train"]})
    assert fold_numbers(given).to_dict() == {"b": 0, "a": -1}


def test_labels_by_a_model_are_known_by_their_source() -> None:
    sources = ["pseudo:1", None, "slices", "a pseudo:1", "pseudo:2"]
    assert is_pseudo(pd.DataFrame({"label_source": sources})).tolist() == [True, *[False] * 3, True]


def test_a_fold_is_left_out_of_numbered_folds_only() -> None:
    fold = [1, 0, -1, 1, 3]
    folds = pd.DataFrame({"image_id": list("abcde"), "patient_id": "p", "fold": fold})
    assert without_fold(folds, 1)["image_id"].tolist() == ["b", "c", "e"]
    given = pd.DataFrame({"image_id": ["b", "a"], "sample_type": ["valid", "train"]})
    for table, fold in ((folds, 2), (folds, -1), (given, 0), (given, 1), (given, -1)):
        with pytest.raises(InputError, match=f"--data_leave_out_fold {fold}: "):
            without_fold(table, fold)


@pytest.mark.parametrize("id_column", ["image_id", "id", "ID"])
def test_ids_are_read_as_they_are_written(tmp_path: Path, id_column: str) -> None:
    """Also those that a csv reader takes for numbers or for nothing."""
    path = tmp_path / "folds.csv"
    path.write_text(f"{id_column},other,sample_type\n007,1,train\nNA,2,valid\n,3,train\n")
    assert read_folds(path).to_numpy().tolist() == [
        ["007", "train"],
        ["NA", "valid"],
        ["", "train"],
    ]
    path.write_text("fold,patient_id,image_id\n0,001,007\n-1,null,NA\n12,,1e3\n")
    folds = read_folds(path)
    assert folds.to_numpy().tolist() == [["007", "001", 0], ["NA", "null", -1], ["1e3", "", 12]]
    assert list(folds) == ["image_id", "patient_id", "fold"]
    path.write_text(f"{id_column},sample_type\na,train\nb,valid\na,valid\nb,valid\n")
    with pytest.raises(InputError, match="repeats 2 image ids"):
        read_folds(path)


@pytest.mark.parametrize("fold", ["-2", "1.0", "+1", "", "1 2", "--1"])
def test_folds_are_whole_numbers_from_0_or_minus_1(tmp_path: Path, fold: str) -> None:
    path = tmp_path / "folds.csv"
    path.write_text(f"image_id,patient_id,fold\na,p,0\nb,q,{fold}\n")
    with pytest.raises(InputError, match="a fold is a number from 0 on, or -1"):
        read_folds(path)


def test_an_id_of_another_name_has_no_numbered_folds(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    path.write_text("id,patient_id,fold\na,p,0\n")
    with pytest.raises(InputError, match=r"it has id, patient_id, fold$"):
        read_folds(path)


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    frame = patients_frame([4] * 6)
    folds = make_folds(frame, LABELS, 2, 0)
    folds.loc[0, "fold"] = 1 - folds.loc[0, "fold"]
    with pytest.raises(InputError, match="1 patient on both sides"):
        split_rows(SliceTable(frame, tmp_path), folds, 0, LABELS)


def test_an_empty_side_is_refused(tmp_path: Path) -> None:
    frame = patients_frame([4] * 6)
    folds = make_folds(frame, LABELS, 2, 0)
    table = SliceTable(frame.assign(keep_for_training=False), tmp_path)
    with pytest.raises(InputError, match="no training slices"):
        split_rows(table, folds, 0, LABELS)
    with pytest.raises(InputError, match="the dataset has the folds none"):
        split_rows(table, folds.iloc[:0], 0, LABELS)
    of_any = SliceTable(frame.assign(**{LABELS[0]: np.nan}), tmp_path)
    told = f"no training slices with labels: none knows {LABELS[0]}; --net_num_classes 1 trains "
    with pytest.raises(InputError, match=f"{told}{LABELS[-1]} alone"):
        split_rows(of_any, folds, 0, LABELS)


def test_folds_survive_their_file(tmp_path: Path) -> None:
    folds = make_folds(patients_frame([4] * 6), LABELS, 2, 0)
    folds["patient_id"] = "007"
    folds.to_csv(tmp_path / "folds.csv", index=False)
    pd.testing.assert_frame_equal(read_folds(tmp_path / "folds.csv"), folds)


def test_a_given_split_is_read_and_preferred(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    frame = patients_frame([4] * 6)
    sample_type = np.where(frame["patient_id"].isin(["p0", "p1"]), "valid", "train")
    given = pd.DataFrame({"id": frame["image_id"], "any": 0, "sample_type": sample_type})
    given.to_csv(folder / "dataset_c_fold_0.csv", index=False)
    assert folds_path(folder, 0).name == "dataset_c_fold_0.csv"
    assert folds_path(folder, 1).name == "folds.csv"
    train_rows, valid_rows = split_rows(
        SliceTable(frame, folder), read_folds(folds_path(folder, 0)), 0, LABELS
    )
    assert valid_rows.tolist() == list(range(8))
    assert train_rows.tolist() == list(range(8, 24))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_id,fold\na,0\n", "needs the columns"),
        ("image_id,patient_id,fold\na,p,0\na,p,1\n", "repeats 1"),
        ("id,sample_type\na,test\n", "not 'test'"),
        ("image_id,patient_id,fold\na,p,first\n", "a fold is a number"),
        ("", "not a readable csv"),
        ("image_id,patient_id,fold\na,p,0,\n", "a comma at its end"),
        ("image_id,patient_id,fold\nä,p,0\n", "save it as csv in UTF-8"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "folds.csv").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=message):
        read_folds(tmp_path / "folds.csv")
    with pytest.raises(InputError, match=r"preprocessing\.py"):
        read_folds(tmp_path / "absent.csv")


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=10, max_size=60),
    st.floats(0.1, 0.6),
    st.integers(0, 2**31 - 1),
)
def test_a_split_validates_on_about_the_share_of_the_patients(
    num_slices: list[int], fraction: float, seed: int
) -> None:
    frame = patients_frame(num_slices)
    folds = make_split(frame, LABELS, fraction, seed)
    assert sorted(folds["image_id"]) == sorted(frame["image_id"])
    side_of = folds.groupby("patient_id")["fold"].agg(["nunique", "first"])
    assert (side_of["nunique"] == 1).all()
    assert set(side_of["first"]) == {0, -1}
    # The balance of the labels may cost some patients more or less.
    assert abs((side_of["first"] == 0).sum() - fraction * len(num_slices)) <= 4
    again = make_split(frame.sample(frac=1, random_state=1), LABELS, fraction, seed)
    pd.testing.assert_frame_equal(folds, again)


def test_a_split_is_balanced_and_has_one_fold(tmp_path: Path) -> None:
    frame = patients_frame([20] * 200)
    folds = make_split(frame, LABELS, 0.25, 4667)
    report, deviation = fold_report(folds, frame, LABELS)
    assert report.index.tolist() == ["training", "0", "all"]
    random_deviations = []
    for seed in range(20):
        patient = folds["patient_id"].str[1:].astype(int)
        side = np.where(np.random.default_rng(seed).permutation(200)[patient] < 50, 0, -1)
        random_deviations.append(fold_report(folds.assign(fold=side), frame, LABELS)[1])
    assert deviation < np.median(random_deviations)

    folds.to_csv(tmp_path / "folds.csv", index=False)
    table, read = SliceTable(frame, tmp_path), read_folds(tmp_path / "folds.csv")
    train_rows, valid_rows = split_rows(table, read, 0, LABELS)
    assert len(train_rows) + len(valid_rows) == len(frame)
    assert set(frame["image_id"].iloc[valid_rows]) == set(folds.loc[folds.fold == 0, "image_id"])
    for fold in (1, -1):
        with pytest.raises(InputError, match=rf"--data_fold {fold}: the dataset has the folds 0$"):
            split_rows(table, read, fold, LABELS)
    with pytest.raises(InputError, match="none is left on one of the sides"):
        make_split(patients_frame([3] * 4), LABELS, 0.05, 0)


def sources_frame() -> pd.DataFrame:
    """Patients 0 to 2 of site a, 3 to 5 of a zip archive; patient 0 has a slice in both."""
    frame = patients_frame([4] * 6)
    number = frame["patient_id"].str[1:].astype(int)
    frame["source_file"] = np.where(number < 3, "a/", "b.zip!/") + frame["image_id"] + "/x.dcm"
    frame.loc[0, "source_file"] = "b.zip!/more.dcm"
    return frame


def test_each_source_is_a_fold_and_a_patient_of_two_is_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    frame = sources_frame()
    folds, sources = make_source_folds(frame)
    assert sources == ["a", "b.zip"]
    fold_of = folds.drop_duplicates("patient_id").set_index("patient_id")["fold"]
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    assert fold_of.sort_index().tolist() == [0, 0, 0, 1, 1, 1]
    assert "1 case where a patient lies in a further source" in caplog.text
    assert len(folds) == len(frame)


@pytest.mark.parametrize(
    ("name_of", "message"),
    [
        (lambda frame: "train/" + frame["image_id"], "one folder"),
        (lambda frame: frame["image_id"], "one folder"),
        (lambda frame: frame["patient_id"] + "/x.dcm", "as many as patients"),
    ],
)
def test_one_source_or_one_per_patient_is_refused(name_of, message: str) -> None:
    frame = sources_frame()
    with pytest.raises(InputError, match=message):
        make_source_folds(frame.assign(source_file=name_of(frame)))


@settings(max_examples=30)
@given(st.lists(st.none() | st.text(max_size=2)), st.lists(st.none() | st.text(max_size=2)))
def test_is_in_equals_the_slower_one_of_pandas_but_for_missing(
    values: list[str | None], wanted: list[str | None]
) -> None:
    known = {name for name in wanted if name is not None}
    found = is_in(pd.Series(values, dtype="str"), pd.Series(wanted, dtype="str"))
    assert found.tolist() == [name in known for name in values]
