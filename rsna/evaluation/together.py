"""Scripts that predict, run by several processes (torchrun): each predicts a part of the rows."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta

from common.predictors.base import Share
from config import Config


def run_together(config: Config, run: Callable[[Config], Iterator[str]]) -> Iterator[str]:
    """Yield the lines of `run(config)`; of several processes, only the main one runs it.

    The others predict parts of what it predicts, with the predictor that the flags name.
    """
    if not _are_many():
        yield from run(config)
        return
    import torch

    from common.distributed import Processes, connected
    from common.predictors.sharing import share_threads, together
    from rsna.build import find_device
    from rsna.opening import open_predictor

    processes = Processes.from_environment()
    if config.engine.precision is None:
        find_device(config, processes)  # refuses more processes than GPUs
    share_threads()
    folder = config.predictor_home(recorded=False).predictor
    # Objects alone are exchanged, over gloo. The others wait while slices are prepared.
    with connected(processes, torch.device("cpu"), timedelta(days=7)):
        lines = together(
            processes,
            lambda: list(run(config)),
            lambda: open_predictor(folder, config.engine.precision),
        )
    yield from lines or ()


def share_of_rows() -> Share | None:
    """Return what predicts rows together with the other processes; None for one that is alone."""
    if not _are_many():
        return None
    from common.distributed import are_connected
    from common.predictors.sharing import share_rows

    return share_rows if are_connected() else None


def _are_many() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"
