"""Ids that repeat: copies of an image, or different images under one id."""

import pandas as pd

from common.preparation.headers import HEADER_COLUMNS
from common.preparation.identity import mark_duplicates


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
