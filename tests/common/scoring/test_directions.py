import pytest

from common.errors import InputError
from common.scoring.directions import DIRECTIONS, badness, direction_of, improves

# Written down again by hand: a loss or an error is better small, a rate of hits great.
SMALLER = {"loss", "weighted_log_loss", "log_loss", "ece"}


def test_every_direction_is_the_right_one():
    assert {name for name in DIRECTIONS if DIRECTIONS[name] == "min"} == SMALLER
    for name in ("auc", "average_precision", "precision", "recall", "f1"):
        assert direction_of(f"{name}.subdural") == direction_of(f"{name}.mean") == "max"
        assert direction_of(f"study_{name}.any") == "max"
    assert direction_of("study_weighted_log_loss") == "min"


def test_better_is_told_by_the_metric():
    assert improves("loss", 0.1, 0.2) and not improves("loss", 0.2, 0.1)
    assert improves("auc.any", 0.9, 0.8) and not improves("auc.any", 0.8, 0.9)
    assert improves("auc.any", 0.1, None)
    assert not improves("loss", 0.1, 0.1)
    assert not improves("auc.any", 0.85, 0.8, least=0.1)
    assert improves("loss", 0.1, 0.25, least=0.1)
    assert sorted([0.2, 0.9, 0.5], key=lambda v: badness("auc.any", v)) == [0.9, 0.5, 0.2]


def test_an_improvement_is_more_than_the_least():
    assert not improves("loss", 0.25, 0.5, least=0.25)
    assert improves("loss", 0.125, 0.5, least=0.25)
    assert not improves("auc", 0.75, 0.5, least=0.25)
    assert improves("auc", 0.875, 0.5, least=0.25)
    assert improves("loss", 0.5 - 1e-9, 0.5) and not improves("auc", 0.5, 0.5)
    assert (badness("ece", 0.25), badness("f1.any", 0.25)) == (0.25, -0.25)


def test_an_unknown_metric_is_refused_by_name():
    with pytest.raises(InputError, match=r"metric acu\.any.*auc"):
        direction_of("acu.any")


def test_nan_is_neither_better_nor_worse():
    for best in (None, 0.3):
        with pytest.raises(ValueError, match=r"auc\.any is NaN"):
            improves("auc.any", float("nan"), best)
    with pytest.raises(ValueError, match="loss is NaN"):
        badness("loss", float("nan"))
