"""Ids that repeat: copies of an image, or different images under one id."""

import pandas as pd

from common.preparation.identity import mark_duplicates


def test_duplicates_lose_their_id_to_the_first_usable_file() -> None:
    headers = pd.DataFrame(
        {
            "source_file": ["1", "2", "3", "4", "5"],
            "status": ["corrupt", "ok", "ok", "not_dicom", "ok"],
            "reason": ["bad", None, None, "no", None],
            "image_id": ["a", "a", "a", None, "b"],
            "pixels": [None] * 5,
        }
    )
    marked = mark_duplicates(headers)
    assert marked["status"].tolist() == ["corrupt", "ok", "duplicate", "not_dicom", "ok"]
    assert marked["image_id"].fillna("-").tolist() == ["-", "a", "-", "-", "b"]
    assert marked["reason"][2] == "same image as 2"
    assert headers["image_id"][0] == "a"


def test_different_pixels_under_one_id_are_different_images() -> None:
    headers = pd.DataFrame(
        {
            "source_file": ["1", "2", "3", "4"],
            "status": ["ok"] * 4,
            "reason": [None] * 4,
            "image_id": ["a", "a", "a", "b"],
            "pixels": ["0123456789abcdef", "fedcba9876543210", "0123456789abcdef", None],
        }
    )
    marked = mark_duplicates(headers)
    assert marked["image_id"].fillna("-").tolist() == ["a_01234567", "a_fedcba98", "-", "b"]
    assert marked["status"].tolist() == ["ok", "ok", "duplicate", "ok"]
    assert marked["reason"][2] == "same image as 1"
    assert marked["note"][0] == "its SOPInstanceUID is that of 2 images"
