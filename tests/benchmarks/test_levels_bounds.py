"""What a view tells is told by the wider view too; isolated pieces are told by three slices."""

import numpy as np
import pytest

from benchmarks.levels.arrangement import LAYOUTS
from benchmarks.levels.levels_bounds import VIEWS, _loss_sum, bounds_of
from rsna_task import SUBTYPES


def test_loss_of_a_share() -> None:
    assert _loss_sum(30, 10) == pytest.approx(-30 * np.log(0.75) - 10 * np.log(0.25))
    assert _loss_sum(0, 7) == 0


@pytest.mark.parametrize("kind", SUBTYPES)
def test_wider_views_tell_more(kind: str) -> None:
    values = bounds_of(kind, 1500, np.random.default_rng(0))
    losses = [values[view] for view in ("prior", *VIEWS)]
    assert losses == sorted(losses, reverse=True)
    assert values["finding"] < 0.5 * values["prior"]
    if LAYOUTS[kind].pieces == (1, 1):
        assert values["neighbours"] == 0
    else:
        assert values["neighbours"] > 0.7 * values["finding"]
