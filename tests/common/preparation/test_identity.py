"""Ids that repeat: copies of an image, or different images under one id."""

import pandas as pd

from common.preparation.headers import HEADER_COLUMNS
from common.preparation.identity import mark_duplicates
from common.preparation.volumes import separate_patients


def header_rows(**columns: list[str | None]) -> pd.DataFrame:
    """Rows of the header table; what is not given is unknown."""
    frame = pd.DataFrame(columns).reindex(columns=list(HEADER_COLUMNS))
    kinds = {n: k for n, k in HEADER_COLUMNS.items() if not k.startswith("int")}
    return frame.astype(kinds)


def test_duplicates_lose_their_id_to_the_first_usable_file() -> None:
    headers = header_rows(
        source_file=["1", "2", "3", "4", "5"],
        status=["corrupt", "ok", "ok", "not_dicom", "ok"],
        reason=["bad", None, None, "no", None],
        image_id=["a", "a", "a", None, "b"],
        pixels=[None] * 5,
    )
    marked = mark_duplicates(headers)
    assert marked["status"].tolist() == ["corrupt", "ok", "duplicate", "not_dicom", "ok"]
    assert marked["image_id"].fillna("-").tolist() == ["-", "a", "-", "-", "b"]
    assert marked["reason"][2] == "same image as 2"
    assert headers["image_id"][0] == "a"


def test_different_pixels_under_one_id_are_different_images() -> None:
    headers = header_rows(
        source_file=["1", "2", "3", "4"],
        status=["ok"] * 4,
        reason=[None] * 4,
        image_id=["a", "a", "a", "b"],
        pixels=["0123456789abcdef", "fedcba9876543210", "0123456789abcdef", None],
    )
    marked = mark_duplicates(headers)
    assert marked["image_id"].fillna("-").tolist() == ["a_01234567", "a_fedcba98", "-", "b"]
    assert marked["status"].tolist() == ["ok", "ok", "duplicate", "ok"]
    assert marked["reason"][2] == "same image as 1"
    assert marked["note"][0] == "its SOPInstanceUID is that of 2 images"


def test_of_copies_the_one_in_the_larger_series_stays_whatever_its_name() -> None:
    """A series of key images takes no slice from the series that they are from."""
    headers = header_rows(
        source_file=["1", "2", "3", "4"],
        status=["ok"] * 4,
        image_id=["a", "a", "b", "c"],
        series_id=["1.key", "2.whole", "2.whole", "2.whole"],
        pixels=["0" * 16, "0" * 16, None, None],
    )
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        marked = mark_duplicates(headers.iloc[order].reset_index(drop=True))
        marked = marked.set_index("source_file")
        assert marked["status"].eq("duplicate").tolist() == [name == "1" for name in marked.index]
        assert marked.loc["1", "reason"] == "same image as 2"


def test_a_lossy_copy_under_the_same_id_is_no_other_image() -> None:
    headers = header_rows(
        source_file=["1", "2", "3", "4"],
        status=["ok"] * 4,
        reason=[None] * 4,
        image_id=["a", "a", "b", "b"],
        pixels=["0123456789abcdef", "fedcba9876543210"] * 2,
        lossy=[True, False, True, False],
        position_z=[1.0, 1.0, 2.0, 3.0],
    )
    marked = mark_duplicates(headers)
    assert marked["status"].tolist() == ["duplicate", "ok", "ok", "ok"]
    assert marked["reason"][0] == "same image as 2"
    assert marked["image_id"].fillna("-").tolist() == ["-", "a", "b_01234567", "b_fedcba98"]


def patients(*rows: tuple[str | None, str | None]) -> pd.DataFrame:
    ids, hashes = zip(*rows)
    headers = header_rows(patient_id=list(ids), patient_hash=list(hashes))
    return separate_patients(headers.assign(study_id="s"))


def test_spellings_of_a_patient_id_are_one_patient_within_a_study() -> None:
    found = patients(("ab 1", None), ("AB  1", None), ("Ab 1", None))
    assert found["patient_id"].nunique() == 1 and set(found["study_id"]) == {"s"}
    assert patients(("ab1", None), ("ab2", None))["study_id"].nunique() == 2


def test_without_ids_names_tell_patients_apart() -> None:
    found = patients((None, "x"), (None, "y"))
    assert found["study_id"].nunique() == 2 and found["patient_id"].isna().all()
    assert set(patients((None, "x"), (None, "x"))["study_id"]) == {"s"}
    assert set(patients(("p", None), (None, "x"))["study_id"]) == {"s"}  # one lost its id
