"""Counts agree with their nouns; durations have a unit that suits them."""

import pytest

from common.words import count, duration, first_line, shown, spread


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "slice", "0 slices"),
        (1, "slice", "1 slice"),
        (28, "slice", "28 slices"),
        (1, "study", "1 study"),
        (2, "study", "2 studies"),
        (1, "series", "1 series"),
        (3, "series", "3 series"),
        (2, "process", "2 processes"),
        (2, "day", "2 days"),
    ],
)
def test_nouns_agree_with_their_number(number: int, noun: str, text: str) -> None:
    assert count(number, noun) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3.6e-6, "1 ms"),
        (0.36, "360 ms"),
        (1, "1 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (300, "5 min"),
        (5399, "1.5 h"),
        (6840, "1.9 h"),
    ],
)
def test_durations_have_a_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_estimate_has_its_interval_behind_it() -> None:
    assert shown(0.87654) + spread((0.85, 0.91234), 2) == "0.877 (0.85 to 0.91)"
    assert shown(None) + spread(None) == "-"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no file\nhere"), "no file"),
        (ValueError(), "ValueError"),
        (ValueError("It is damaged. Fetch it anew."), "It is damaged"),
        (ValueError("words that do not end here"), "words that do not ..."),
        (ValueError("x" * 30), f"{'x' * 20} ..."),
        ("The text", "The text"),
    ],
)
def test_a_reason_is_cut_at_a_sentence_or_word(error, line):
    assert first_line(error, most=20) == line
