"""Trainings of a few steps: what is looked at is no picture."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_figures(undrawn: None) -> None:
    """Draw no figure in the tests of this folder."""
