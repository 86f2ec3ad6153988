"""Prepares a dataset folder: headers, pixels, tables, folds, manifest, in that order.

Every step keeps what it finished: run again after whatever interruption, only the rest is done,
and the result is the same.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd

from common.errors import InputError, Interrupted
from common.files import held, make_folder
from common.preparation.checks.label_audit import log_audit
from common.preparation.estimates import check_space, log_estimates
from common.preparation.headers import INDEX_FOLDER, read_index
from common.preparation.identity import (
    drop_copies,
    mark_duplicates,
    repeated_ids,
    with_pixel_hashes,
)
from common.preparation.kept import kept_rows, remove_stale, set_aside
from common.preparation.label_file import LabelFile, LabelFiles, with_split
from common.preparation.label_tables import require_labels
from common.preparation.manifest import check_same_source, write_manifest
from common.preparation.overlap import Overlap, find_overlap
from common.preparation.pixels import (
    SliceResult,
    is_transient,
    read_record,
    record_exceeding,
    series_tasks,
    store_series,
)
from common.preparation.source import Source
from common.preparation.splits import (
    FoldPlan,
    log_fold_copies,
    log_marked,
    mark_brain_range,
    write_folds,
)
from common.preparation.tables import by_majority, slices_table, studies_table
from common.preparation.volumes import arrange, keep_selected, separate_patients
from common.preparation.workers.runner import Limits, TaskRunner
from common.slices.copies import identical_pixels
from common.slices.folds import TRAIN_SPLIT
from common.slices.pixel_steps import NO_STEPS, PARAMETER, PixelSteps
from common.slices.store import SliceStore
from common.slices.table import SLICES_FILE, STATUS_OK, STORE_FOLDER, STUDIES_FILE
from common.tables import write_parquet
from common.words import line_of_counts

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
DEFAULT_LIMITS = Limits(seconds=900, memory_mb=4000)
"""Of a series: 2,000 uncompressed slices of 512 x 512 take about 15 s."""
ROW_ORDER = ["patient_id", "study_id", "series_id", "store_file", "rank", "source_file"]
"""Slices lie beside their neighbours in the table; files without ids come last."""
_LIBRARIES = ("pydicom", "blosc2", "numpy", "pandas", "iterative-stratification")


@dataclass(frozen=True)
class Preparation:
    """Counts of a preparation.

    Attributes:
        num_slices: slices stored.
        rejected: number of files and slices without pixels, by status.
        notes: number of stored slices with a note, by the note.
        num_padding: pixels that held padding.
        folds: prevalence per fold as a table, or None where there are no folds.
        fold_deviation: largest relative deviation of a prevalence in a fold.
        fold_sources: for a split by source, the source that each fold validates on.
        overlap: what training and test share.
        audit: number of slices with odd labels, by kind of oddity.
    """

    num_files: int
    num_slices: int
    num_series: int
    rejected: dict[str, int]
    notes: dict[str, int]
    num_padding: int
    folds: pd.DataFrame | None = field(default=None, repr=False)
    fold_deviation: float = 0.0
    fold_sources: list[str] = field(default_factory=list)
    overlap: Overlap = field(default_factory=Overlap)
    audit: dict[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """Return the counts in one line: read, stored, rejected by reason."""
        return line_of_counts(self.num_files, self.num_slices, self.num_series, self.rejected)

    def counts(self) -> dict[str, Any]:
        """Return the counts as plain types, for the manifest."""
        return {
            "num_files": self.num_files,
            "status": {STATUS_OK: self.num_slices} | self.rejected,
            "num_series": self.num_series,
            "notes": self.notes,
            "num_padding": self.num_padding,
            "fold_deviation": None if self.folds is None else round(self.fold_deviation, 6),
            "fold_sources": self.fold_sources,
            "overlap": asdict(self.overlap),
            "audit": self.audit,
        }


def prepare_dataset(
    source: Source,
    dataset_folder: Path,
    *,
    n_jobs: int,
    num_folds: int | None = None,
    fold_seed: int = 4667,
    valid_fraction: float = 0.0,
    fold_by: str = "patient",
    drop_overlap: bool = False,
    remove: bool = False,
    resume_command: str = "",
    steps: PixelSteps = NO_STEPS,
    brain_min: float = 0.0,
    select: Collection[str] = (),
    address: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    runner: TaskRunner | None = None,
    label_file: LabelFile | LabelFiles | None = None,
    train_studies: bool = False,
) -> Preparation:
    """Make or complete a dataset folder, and return what was counted.

    Args:
        n_jobs: processes; 0 works in this one, without protection from crashing codecs.
        num_folds: number of patient folds; None makes none, nor are there any without slices of
            the split `train`.
        fold_seed, valid_fraction, fold_by: see `FoldPlan`.
        drop_overlap: training slices that share something with test slices are marked as not to
            be trained on.
        remove: volumes of which files are not seen this time are removed, or made of the others,
            instead of kept as they were stored.
        resume_command: what the user types to go on after an interruption.
        steps: what is done to the pixels before they are stored.
        brain_min: share of pixels in the brain window that a slice needs for its series' brain
            range to begin there; training slices outside are marked. 0 marks none.
        select: ids of series that are not left out for what their headers name.
        address: of a Dask scheduler whose workers do the work instead; they see both folders,
            which are absolute then, under the same names.
        limits: what a series, or the header of a file, may take; not with `n_jobs` 0.
        runner: processes that are there already, in place of the three above; it stays open.
        label_file: labels in place of those of the source; labelled slices are trained on.
        train_studies: studies that are labelled as a whole are trained on too, not tested on.

    Raises:
        InputError: nothing to read or nothing usable, a folder of other data or in use, too
            little space, an unusable cluster.
        Interrupted: by SIGINT or SIGTERM.
    """
    _check_apart(source.folder, dataset_folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_interruptible(resume_command))
        stack.enter_context(_locked(dataset_folder))
        if runner is None:
            runner = stack.enter_context(TaskRunner(n_jobs, address, limits))
            runner.connect(source.reader, source.folder, dataset_folder)
        files = _without_own(source.files(), source.folder, dataset_folder)
        if files.empty:
            raise InputError(f"no files in {source.given}: is this the folder of the data?")
        check_same_source(dataset_folder, source, files, steps)
        # Before the work: a fault in the label file must not show hours later.
        labels, study_labels = source.labels(), source.study_labels()
        plan = FoldPlan(num_folds, fold_seed, valid_fraction, fold_by)
        parameters: dict[str, Any] = asdict(plan) | {"drop_overlap": drop_overlap}
        given = {
            PARAMETER: steps.parameters(),
            "brain_min": brain_min,
            "labels": label_file and f"label file, by {label_file.key}",
            "train_studies": train_studies,
        }
        parameters |= {name: value for name, value in given.items() if value}
        versions = {name: version(name) for name in _LIBRARIES}
        write_manifest(dataset_folder, source, parameters, versions, None)
        if not (dataset_folder / INDEX_FOLDER).exists():
            log_estimates(files, runner.num_workers(), dataset_folder)
        headers, kept = _read_headers(
            files, source, dataset_folder, runner, steps, select=select, remove=remove
        )
        splits, sources = files.set_index("source_file")["split"], None
        if label_file is not None:
            matched = label_file.match(headers)
            labels, study_labels = matched.of_slices, matched.of_studies
            splits, sources = matched.splits(headers, splits), matched.sources
        if train_studies:
            if study_labels is None:
                raise InputError("--pre_train_studies 1: no studies are labelled: leave it out")
            splits = with_split(splits, headers, study_labels, "study_id", TRAIN_SPLIT)
        require_labels(headers, labels, study_labels)
        plan.check(headers.assign(split=headers["source_file"].map(splits)), sources)
        results = _store_missing(headers, source, dataset_folder, runner, steps)
        headers = headers.sort_values(ROW_ORDER, ignore_index=True)
        slices = slices_table(
            headers, splits, results, source.label_names, labels, kept, study_labels
        )
        if brain_min:
            outside = mark_brain_range(slices, brain_min)
            slices["keep_for_training"] &= ~outside
            log_marked(outside, slices, source.label_names[-1])
        remove_stale(dataset_folder, {*results, *kept["store_file"].dropna()})
        copies = identical_pixels(slices, SliceStore(dataset_folder / STORE_FOLDER))
        counts: dict[str, Any] = {"audit": log_audit(slices, source.label_names, copies)}
        overlap, concerned = find_overlap(slices, copies)
        if drop_overlap and concerned.any():
            slices["keep_for_training"] &= ~concerned
            overlap = replace(overlap, num_kept=0)
        studies = studies_table(slices, source.label_names, study_labels)
        if num_folds is not None and slices["split"].eq(TRAIN_SPLIT).any():
            balanced = by_majority(slices, studies, source.label_names)
            counts["folds"], counts["fold_deviation"], counts["fold_sources"] = write_folds(
                plan, balanced, source.label_names, dataset_folder, sources
            )
            in_folds = log_fold_copies(slices, copies, dataset_folder, drop_overlap)
            slices["keep_for_training"] &= ~(in_folds & drop_overlap)
        write_parquet(dataset_folder / STUDIES_FILE, studies)
        write_parquet(dataset_folder / SLICES_FILE, slices)
        prepared = _count(slices, overlap=overlap, **counts)
        write_manifest(dataset_folder, source, parameters, versions, prepared.counts())
    if prepared.num_slices == 0:
        # Of a duplicate it names a file. The most frequent comes first.
        reasons = slices.loc[slices["status"] != "duplicate", "reason"].value_counts()
        why = f": {reasons.index[0]}" if len(reasons) else ""
        raise InputError(f"nothing usable in {source.given}: {prepared.line()}{why}")
    return prepared


def _read_headers(
    files: pd.DataFrame,
    source: Source,
    dataset_folder: Path,
    runner: TaskRunner,
    steps: PixelSteps,
    *,
    select: Collection[str],
    remove: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return all header rows with their volumes, and rows of volumes kept as they were stored."""
    index = read_index(files, source.reader, dataset_folder, runner)

    def hashed(chosen: pd.Series) -> pd.DataFrame:
        return with_pixel_hashes(index, chosen, source.reader, runner, dataset_folder)

    def arranged(headers: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
        return arrange(
            separate_patients(set_aside(headers, kept)),
            keep_ambiguous=source.keeps_ambiguous,
            needs_spacing=bool(steps.spacing_mm),
        )

    index = keep_selected(index, select)
    index = hashed(repeated_ids(index))
    kept = kept_rows(dataset_folder, index, remove=remove)
    headers, unclear = arranged(mark_duplicates(index))
    if unclear:  # copies under ids of their own differ in headers, not in pixels
        names = headers.iloc[unclear][["source_file", "frame"]].agg(tuple, axis=1).tolist()
        index = hashed(index[["source_file", "frame"]].agg(tuple, axis=1).isin(names))
        headers, _ = arranged(drop_copies(mark_duplicates(index), names))
    return headers, kept


def _store_missing(
    headers: pd.DataFrame,
    source: Source,
    dataset_folder: Path,
    runner: TaskRunner,
    steps: PixelSteps,
) -> dict[str, list[SliceResult] | None]:
    """Store the series that are missing; return by store file the results of all."""
    ranked = headers[headers["rank"] >= 0]
    results: dict[str, list[SliceResult] | None] = {}
    missing: set[str] = set()
    for task in series_tasks(ranked, source.reader, dataset_folder, steps):
        record = read_record(task, runner.limits)
        if record is None or is_transient(record):
            missing.add(task.store_file)
        else:
            results[task.store_file] = record
    if not missing:
        return results
    logger.info("storing %d series (%d are there)", len(missing), len(results))
    to_store = ranked[ranked["store_file"].isin(missing)]
    check_space(to_store, runner.num_workers(), dataset_folder)
    tasks = series_tasks(to_store, source.reader, dataset_folder, steps)
    with runner.progress(len(to_store), "slice", "pixels") as progress:
        for outcome in runner.stream(store_series, tasks):
            progress.update(outcome.task.num_slices)
            name = outcome.task.store_file
            if outcome.exceeded is not None and runner.limits is not None:
                results[name] = record_exceeding(outcome.task, outcome.exceeded, runner.limits)
            else:
                results[name] = None if outcome.result is None else read_record(outcome.task)
    return results


def _count(slices: pd.DataFrame, **others: Any) -> Preparation:
    stored = slices["status"] == STATUS_OK
    return Preparation(
        num_files=int(slices["source_file"].nunique()),
        num_slices=int(stored.sum()),
        num_series=int(slices["store_file"].nunique()),
        rejected=_tally(slices.loc[~stored, "status"]),
        notes=_tally(slices.loc[stored, "reason"]),
        num_padding=int(slices["num_padding"].sum()),
        **others,
    )


def _tally(words: pd.Series) -> dict[str, int]:
    """Return how often each word occurs, the most frequent first."""
    counts = words.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return {str(word): int(count) for word, count in counts.items()}


def _check_apart(source_folder: Path, dataset_folder: Path) -> None:
    """Raise InputError where the original files lie in the dataset folder."""
    if source_folder.resolve().is_relative_to(dataset_folder.resolve()):
        raise InputError(
            f"{dataset_folder} has the original files in it ({source_folder}): a dataset needs a "
            f"folder of its own"
        )


def _without_own(files: pd.DataFrame, source_folder: Path, dataset_folder: Path) -> pd.DataFrame:
    """Return `files` without those of the dataset, whose folder may lie in the source's."""
    own, root = dataset_folder.resolve(), source_folder.resolve()
    if not own.is_relative_to(root):
        return files
    is_own = files["source_file"].str.startswith(f"{own.relative_to(root).as_posix()}/")
    return files[~is_own].reset_index(drop=True)


@contextlib.contextmanager
def _locked(dataset_folder: Path) -> Iterator[None]:
    """Keep a second process out of the dataset folder; a killed process leaves no lock."""
    make_folder(dataset_folder)
    path = dataset_folder / LOCK_FILE
    with held(path, f"{dataset_folder} is being prepared by another process: wait for its end"):
        try:
            yield
        finally:
            if [path.name for path in dataset_folder.iterdir()] == [LOCK_FILE]:  # it was refused
                path.unlink()
                with contextlib.suppress(OSError):  # another process has begun there
                    dataset_folder.rmdir()


@contextlib.contextmanager
def _interruptible(resume_command: str) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted; finished work is on disk at any time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number, resume_command)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
