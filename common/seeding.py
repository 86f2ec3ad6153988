"""Randomness that is a function of names, not of order: the seed of a sample, and RNG states."""

import hashlib
import random
from typing import Any


def sample_seed(seed: int, epoch: int, sample_id: str, view: int = 0) -> int:
    """Return the 32-bit seed of all that is drawn for one sample in one epoch.

    It depends on its arguments alone: not on the worker, the order or the number of processes.
    """
    text = f"{seed}|{epoch}|{sample_id}|{view}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def seed_everything(seed: int) -> None:
    """Seed Python's and torch's global generators (weights, dropout)."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the states of the global generators, as tensors and plain types."""
    import torch

    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore the states that `rng_state` returned."""
    import torch

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
