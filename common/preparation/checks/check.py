"""Verify a prepared dataset without changing it."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import CheckFailed, InputError
from common.files import held
from common.preparation.checks.check_folds import check_folds
from common.preparation.checks.check_store import check_store
from common.preparation.checks.check_tables import (
    check_copies,
    check_has_labels,
    check_ids,
    check_labels,
    check_order,
    check_overlap,
    check_range,
    check_studies,
)
from common.preparation.checks.findings import RUN_AGAIN, Finding, finding
from common.preparation.checks.label_audit import FAULTS, audit_labels
from common.preparation.engine import LOCK_FILE
from common.preparation.manifest import (
    MANIFEST_FILE,
    TABLES,
    read_manifest,
    table_counts,
    table_hashes,
)
from common.preparation.workers.runner import TaskRunner
from common.slices.copies import identical_pixels
from common.slices.store import SliceStore
from common.slices.table import (
    ADDED_COLUMNS,
    SLICE_COLUMNS,
    SLICES_FILE,
    STORE_FOLDER,
    STUDIES_FILE,
)
from common.words import count

logger = logging.getLogger(__name__)

_STUDY_COLUMNS = ("study_id", "patient_id", "label_source")


@dataclass(frozen=True)
class Checked:
    """Counts of a check, its findings, and notes on labels that are worth a look."""

    findings: list[Finding]
    num_rows: int = 0
    num_slices: int = 0
    num_files: int = 0
    num_bytes: int = 0
    num_patients: int = 0
    num_folds: int = 0
    notes: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return the counts in one line, the verdict last."""
        wrong = len(self.findings)
        verdict = f"found {count(wrong, 'fault')}" if wrong else "all is sound"
        return (
            f"checked {count(self.num_rows, 'row')}, {count(self.num_slices, 'slice')} in "
            f"{count(self.num_files, 'store file')} ({self.num_bytes / 1e6:.1f} MB), "
            f"{count(self.num_patients, 'patient')}, {count(self.num_folds, 'fold')}: {verdict}"
        )

    def raise_findings(self) -> None:
        """Raise CheckFailed with a line per finding where something is wrong."""
        if self.findings:
            raise CheckFailed([found.line() for found in self.findings])


def check_dataset(
    dataset_folder: Path, *, subtypes: Sequence[str], union: str, n_jobs: int
) -> Checked:
    """Verify everything that can be verified without the original files.

    Counts and hashes of the manifest; ids, order, ranges, labels and studies of the tables; folds
    and splits; every slice of the store against its checksum and its row.

    Args:
        subtypes, union: the labels; the last says that there is one of the others.
        n_jobs: processes; 0 works in this one.

    Raises:
        InputError: there is no dataset, or it is being prepared.
    """
    if not any((dataset_folder / name).exists() for name in (SLICES_FILE, MANIFEST_FILE)):
        raise InputError(f"no dataset at {dataset_folder}: run preprocessing.py first")
    lock = dataset_folder / LOCK_FILE
    refusal = f"{dataset_folder} is being prepared by another process: wait for its end"
    with held(lock, refusal, shared=True) if lock.is_file() else contextlib.nullcontext():
        names = [*subtypes, union]
        needed = [name for name in SLICE_COLUMNS if name not in ADDED_COLUMNS]
        slices, found = _read_table(dataset_folder / SLICES_FILE, needed, names)
        studies, of_studies = _read_table(dataset_folder / STUDIES_FILE, _STUDY_COLUMNS, names)
        manifest, of_manifest = _read_manifest(dataset_folder)
        found = [*of_manifest, *found, *of_studies]
        if slices is None:
            return Checked(found)
        found += _check_counts(manifest, slices)
        found += [*check_ids(slices), *check_order(slices), *check_range(slices)]
        found += check_labels(slices, studies, subtypes, union)
        if studies is not None:
            found += check_studies(slices, studies, names)
        parameters = manifest.get("parameters", {})
        found += check_has_labels(slices, studies, names, parameters)
        store_folder = dataset_folder / STORE_FOLDER
        with TaskRunner(n_jobs) as runner:
            store = check_store(slices, store_folder, runner)
        sound = slices["store_file"].where(~slices["store_file"].isin(store.unreadable))
        readable = slices.assign(store_file=sound)
        groups = identical_pixels(readable, SliceStore(store_folder))
        of_overlap = check_overlap(readable, groups)
        of_folds, num_folds = check_folds(slices, dataset_folder, parameters, groups)
        audit = audit_labels(slices, subtypes, union, groups)
        found += check_copies(slices, audit)
    return Checked(
        findings=[*found, *of_folds, *of_overlap, *store.findings],
        num_rows=len(slices),
        num_slices=store.num_slices,
        num_files=store.num_files,
        num_bytes=store.num_bytes,
        num_patients=slices["patient_id"].nunique(),
        num_folds=num_folds,
        notes=[found.line() for found in audit if found.kind not in FAULTS],
    )


def _read_table(
    path: Path, columns: Sequence[str], labels: Sequence[str]
) -> tuple[pd.DataFrame | None, list[Finding]]:
    """Return a table numbered from 0; None and a finding where it can't be used."""
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError):
        what = f"{path.name} missing or not readable"
        return None, [Finding("unreadable_table", what, 1, (), RUN_AGAIN)]
    lacking = [name for name in (*columns, *labels) if name not in frame]
    if lacking:
        return None, finding("columns", f"columns that {path.name} lacks", lacking, RUN_AGAIN)
    texts = frame[list(labels)].dropna(axis=1, how="all").select_dtypes(exclude="number")
    if len(texts.columns):
        what = f"labels of {path.name} that are no numbers"
        return None, finding("label_type", what, texts.columns, RUN_AGAIN)
    return frame.reset_index(drop=True), []


def _read_manifest(dataset_folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    """Return the manifest, empty where it can't be read, and the findings about it."""
    try:
        manifest = read_manifest(dataset_folder)
    except InputError:
        what = f"{MANIFEST_FILE} missing or not readable"
        return {}, [Finding("manifest", what, 1, (), RUN_AGAIN)]
    if not manifest.get("complete"):
        what = "preparations that did not come to their end"
        return {}, [Finding("unfinished", what, 1, (), RUN_AGAIN)]
    hashes = manifest.get("sha256")
    if not hashes:
        logger.warning("%s has no hashes of the tables: made by an earlier version", MANIFEST_FILE)
        return manifest, []
    now = table_hashes(dataset_folder)
    changed = [name for name in TABLES if hashes.get(name) != now.get(name)]
    what = f"tables that are not those that {MANIFEST_FILE} was written with"
    return manifest, finding("changed_table", what, changed, RUN_AGAIN)


def _check_counts(manifest: dict[str, Any], slices: pd.DataFrame) -> list[Finding]:
    """Compare the counts of the manifest with those of the table."""
    counts, now = manifest.get("counts", {}), table_counts(slices)
    unlike = [name for name in now if name in counts and counts[name] != now[name]]
    what = f"counts of {MANIFEST_FILE} that are not those of {SLICES_FILE}"
    return finding("counts", what, unlike, RUN_AGAIN)
