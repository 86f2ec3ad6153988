"""Several processes that predict together: each row once, and one process that does all else.

The main process works as it would alone. Whenever it asks for a prediction, the others, which wait
for nothing else, predict their parts of the rows: `PredictOptions.share` is `share_rows` there.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from common.distributed import Processes, wait_for_failure
from common.errors import InputError, Interrupted
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.slices.table import SliceTable

Value = TypeVar("Value")


@dataclass(frozen=True)
class _Job:
    """What the main process sends: rows (n,) of the table in a folder, and how to predict them."""

    folder: Path
    num_rows: int
    rows: NDArray[np.int64]
    options: PredictOptions


def together(
    processes: Processes,
    work: Callable[[], Value],
    load: Callable[[], AbstractPredictor],
    table: SliceTable | None = None,
) -> Value | None:
    """Return what `work` returns in the main process; the others help it, and return None.

    The processes are connected (`common.distributed.connected`).

    Args:
        work: predicts with the option `share=share_rows`.
        load: returns, in the other processes, the predictor that `work` predicts with.
        table: the slices that it predicts, where they are at hand; else they are loaded.

    Raises:
        PeerFailure: another process failed or ended.
    """
    if processes.is_main:
        value = work()
        _sent(processes, None)
        return value
    try:
        _help(processes, load, table)
    except (Interrupted, KeyboardInterrupt) as stop:
        # The main process names the command that goes on.
        number = stop.signal_number if isinstance(stop, Interrupted) else signal.SIGINT
        raise Interrupted(number) from None
    return None


def share_rows(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: NDArray[np.int64],
    options: PredictOptions,
) -> RowLogits:
    """Return what `predictor.predict_rows` returns, each process having predicted a part."""
    processes = Processes.from_environment()
    _sent(processes, _Job(table.folder, len(table), rows, replace(options, on_batch=None)))
    report = options.on_batch
    if report is not None:  # the others are about as far
        options = replace(options, on_batch=lambda num: report(num * processes.num))
    owners, parts = _predict_part(processes, predictor, table, rows, options)
    return _joined([(np.flatnonzero(owners == rank), part) for rank, part in enumerate(parts)])


def owners_of(
    predictor: AbstractPredictor, table: SliceTable, rows: NDArray[np.int64], num: int
) -> NDArray[np.int64]:
    """Return which of `num` processes predicts each of the rows, int64 (n,).

    Parts are consecutive in anatomical order and of about equal size, in whole series where the
    predictor needs these. Rows without pixels go to the first process that has any with pixels.
    """
    readable = np.unique(rows[table.readable[rows]])
    if not len(readable):
        return np.zeros(len(rows), np.int64)
    members, sizes = table.anatomical_order(readable), np.ones(len(readable), np.int64)
    if predictor.sees_whole_series:
        groups = table.groups_of(readable)
        members, sizes = np.concatenate(groups), np.array([len(group) for group in groups])
    middles = np.cumsum(sizes) - sizes / 2
    owners = np.repeat((middles * num / sizes.sum()).astype(np.int64), sizes)
    by_row = np.full(len(table), owners[0])
    by_row[members] = owners
    return by_row[rows]


def share_threads() -> None:
    """Give each process of this machine its share of the cores, unless OMP_NUM_THREADS says more.

    torchrun sets it to 1 where it is not set.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        num_threads = max(len(os.sched_getaffinity(0)) // num_here, 1)
        os.environ["OMP_NUM_THREADS"] = str(num_threads)  # engines take it from there
        torch.set_num_threads(num_threads)
        cv2.setNumThreads(num_threads)


def _help(
    processes: Processes, load: Callable[[], AbstractPredictor], table: SliceTable | None
) -> None:
    """Predict parts until the main process needs no more."""
    predictor = None
    while (job := _sent(processes, None)) is not None:
        predictor = load() if predictor is None else predictor
        if table is None or table.folder != job.folder:
            table = SliceTable.load(job.folder)
        if len(table) != job.num_rows:
            raise InputError(
                f"{job.folder}: process {processes.rank} sees another table there than the first "
                f"one: give all processes the same folder"
            )
        options = job.options
        if torch.device(options.device).type == "cuda":
            options = replace(options, device=torch.device("cuda", processes.local_rank))
        _predict_part(processes, predictor, table, job.rows, options)


def _predict_part(
    processes: Processes,
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: NDArray[np.int64],
    options: PredictOptions,
) -> tuple[NDArray[np.int64], list[RowLogits | None]]:
    """Predict the rows that are this process's; return whose each is, and the parts of all."""
    owners = owners_of(predictor, table, rows, processes.num)
    own = rows[owners == processes.rank]
    part = predictor.predict_rows(table, own, options) if len(own) else None
    try:
        return owners, processes.gathered_by_main(part)
    except RuntimeError:  # the connection to a process that has failed
        wait_for_failure()
        raise


def _joined(parts: list[tuple[NDArray[np.int64], RowLogits | None]]) -> RowLogits:
    """Return the prediction of n rows, of parts with their places among these."""
    some = [(places, part) for places, part in parts if part is not None]
    num = sum(len(places) for places, _ in some)
    found: dict[str, Any] = {}
    for field in fields(RowLogits):
        values = [getattr(part, field.name) for _, part in some]
        if values[0] is None:
            continue
        found[field.name] = np.empty((num, *values[0].shape[1:]), values[0].dtype)
        for (places, _), value in zip(some, values, strict=True):
            found[field.name][places] = value
    return RowLogits(**found)


def _sent(processes: Processes, job: _Job | None) -> _Job | None:
    """Return the job that the main process sends to all; None is the end."""
    try:
        return processes.from_main(lambda: job)
    except RuntimeError:
        wait_for_failure()
        raise
