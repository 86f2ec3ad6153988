"""Refuse to resume a training on samples other than those it was started with."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from common.errors import InputError
from common.networks.hooks import Callback


class DataFingerprint(Callback):
    """Refuses to go on from a checkpoint of a training on other samples or labels.

    A sampler draws from its samples by number, and some by their labels: with others the order
    would be another one, even where an epoch is as long as before.
    """

    def __init__(self, sample_ids: Iterable[str], labels: ArrayLike) -> None:
        digest = hashlib.sha256("\n".join(map(str, sample_ids)).encode())
        digest.update(np.ascontiguousarray(labels).tobytes())
        self.digest = digest.hexdigest()

    @property
    def name(self) -> str:
        """The key of its state in a checkpoint, which older checkpoints have."""
        return "SameData"

    def state_dict(self) -> dict[str, Any]:
        return {"digest": self.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["digest"] != self.digest:
            raise InputError(
                "the training samples or their labels are not those that the checkpoint was made "
                "with: go on with the same dataset, folds and --dev_ flags, or start a new "
                "experiment"
            )
