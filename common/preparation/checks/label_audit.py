"""An audit of labels: what is allowed, and yet makes a reader of scans look twice."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.scoring.metrics import majority
from common.slices.folds import is_pseudo
from common.slices.table import STATUS_OK

logger = logging.getLogger(__name__)

HARDLY_BRAIN = 0.1
"""A slice has hardly any brain below this share of the brain pixels of its fullest slice."""
LEAST_STUDIES = 10
"""Positive studies that are needed to call the share of one of them unlike any other."""
SHARE_GAP = 0.2
"""A study's share of positive slices is unlike the others beyond a gap of this size."""
MOST_UNLIKE = 0.1
"""At most this part of the studies can be unlike the others."""
CONTRADICTING = "contradicting_copies"

FAULTS = (CONTRADICTING, "union_alone", "union_missing")
"""Kinds that a check (`--pre_check 1`) refuses."""

_WHAT = {
    "lonely": "positive slices without a positive neighbour",
    "hardly_brain": "positive slices with hardly any brain",
    "all_labels": "slices with all {num_labels} labels",
    "union_alone": "slices with {union} and no other label",
    "union_missing": "slices with another label, but without {union}",
    "unlike_studies": "studies whose share of positive slices is unlike any other",
    CONTRADICTING: "slices whose labels contradict those of a copy of their pixels",
}


@dataclass(frozen=True)
class AuditFinding:
    """Slices whose labels should be looked at.

    Attributes:
        kind: a short name that stays the same.
        what: the slices, in words.
        rows: int64, their rows in the slice table, the worst first.
    """

    kind: str
    what: str
    rows: NDArray[np.int64]

    def line(self) -> str:
        """Return the finding in one line: what, how many, where in slices.parquet."""
        rows = ", ".join([*map(str, self.rows[:3]), *(["..."] if len(self.rows) > 3 else [])])
        return f"{self.what}: {len(self.rows)} ({'row' if len(self.rows) == 1 else 'rows'} {rows})"


def audit_labels(
    slices: pd.DataFrame, subtypes: Sequence[str], union: str, copies: pd.Series
) -> list[AuditFinding]:
    """Return what is odd about the labels of slices, a finding per kind; nothing where all is well.

    Labels by a model are left out; shares of raters count by their majority. A slice whose labels
    are not all known has no part in what needs them.

    Args:
        slices: the slice table, numbered from 0.
        subtypes, union: the labels; the last says that there is one of the others.
        copies: by row, a number that slices of identical pixels share
            (`common.slices.copies.identical_pixels`).
    """
    names = [*subtypes, union]
    labelled = slices[slices["status"].eq(STATUS_OK) & ~is_pseudo(slices)]
    labelled = labelled[labelled[names].notna().any(axis=1)]
    found = dict(_found(labelled, list(subtypes), union, copies))
    return [
        AuditFinding(kind, what.format(union=union, num_labels=len(names)), rows)
        for kind, what in _WHAT.items()
        if len(rows := np.fromiter(found[kind], dtype=np.int64))
    ]


def log_audit(
    slices: pd.DataFrame, label_names: Sequence[str], copies: pd.Series
) -> dict[str, int]:
    """Log what is odd about labels as one block; return how many slices, by kind.

    The last of the labels is the union of the others.
    """
    if not slices[list(label_names)].notna().any(axis=None):
        return {}
    findings = audit_labels(slices, label_names[:-1], label_names[-1], copies)
    if findings:
        logger.warning(
            "labels that are worth a look (rows of slices.parquet; --pre_report 1 shows them):%s",
            "".join(f"\n  {found.line()}" for found in findings),
        )
    return {found.kind: len(found.rows) for found in findings}


def _found(
    labelled: pd.DataFrame, subtypes: list[str], union: str, copies: pd.Series
) -> Iterator[tuple[str, Iterable[int]]]:
    """Yield each kind with its rows, the worst first."""
    names = [*subtypes, union]
    # Shares of raters for two subtypes may add up to a majority for the union.
    all_absent = labelled[subtypes].eq(0).all(axis=1)
    labelled = labelled.assign(**dict(zip(names, majority(labelled[names]).T, strict=True)))
    is_positive = labelled[union] == 1
    largest = labelled[subtypes].max(axis=1)
    brain = labelled["brain_fraction"].astype("float64")
    share = brain / brain.groupby(labelled["store_file"]).transform("max")
    share = share.mask(brain == 0, 0.0)
    yield "lonely", _lonely(labelled, is_positive)
    hardly = share[is_positive & (share < HARDLY_BRAIN)]
    yield "hardly_brain", hardly.sort_values(kind="stable").index
    all_set = labelled[[*subtypes, union]].eq(1).all(axis=1)
    yield "all_labels", share[all_set].sort_values(kind="stable").index
    yield "union_alone", labelled.index[is_positive & all_absent]
    yield "union_missing", labelled.index[(labelled[union] == 0) & (largest == 1)]
    yield "unlike_studies", _of_unlike_studies(labelled, is_positive)
    yield CONTRADICTING, _contradicting(labelled[[*subtypes, union]], copies[labelled.index])


def _lonely(labelled: pd.DataFrame, is_positive: pd.Series) -> pd.Index:
    """Return positive slices between labelled ones that are not, or at an end beside one.

    The farther the next positive slice of the volume, the worse: a lone one in a volume is worst.
    """
    slices = labelled[["store_file", "rank"]].assign(is_positive=is_positive)
    slices = slices.dropna(subset=["store_file", "rank"]).sort_values(["store_file", "rank"])
    volume, rank = slices["store_file"], slices["rank"].astype("int64")
    beside = []
    for step in (1, -1):
        near = volume.eq(volume.shift(step)) & rank.sub(rank.shift(step)).abs().eq(1)
        beside.append(slices["is_positive"].shift(step).where(near))
    neighbours = pd.concat(beside, axis=1).astype("float64")
    alone = slices["is_positive"] & neighbours.notna().any(axis=1) & ~neighbours.eq(1).any(axis=1)
    num_positive = slices["is_positive"].groupby(volume).transform("sum")
    return num_positive[alone].sort_values(kind="stable").index


def _of_unlike_studies(labelled: pd.DataFrame, is_positive: pd.Series) -> list[int]:
    """Return the first positive slice of each study beyond a gap in the shares of positives."""
    shares = is_positive.groupby(labelled["study_id"]).mean()
    shares = shares[shares > 0].sort_values()
    if len(shares) < LEAST_STUDIES:
        return []
    most = int(MOST_UNLIKE * len(shares))
    gaps = np.flatnonzero(np.diff(shares.to_numpy()) >= SHARE_GAP) + 1
    low = max((gap for gap in gaps if gap <= most), default=0)
    high = min((gap for gap in gaps if len(shares) - gap <= most), default=len(shares))
    unlike = [*shares.index[high:][::-1], *shares.index[:low]]
    first = labelled[is_positive].drop_duplicates("study_id")
    rows = pd.Series(first.index, index=first["study_id"])
    return [int(rows[study]) for study in unlike]


def _contradicting(labels: pd.DataFrame, copies: pd.Series) -> pd.Index:
    """Return slices of which a copy has 1 where another has 0, the most different first.

    Copies stand beside each other.
    """
    copies = copies.dropna()
    if copies.empty:
        return copies.index
    groups = labels.loc[copies.index].groupby(copies)
    differs = groups.transform("max") > groups.transform("min")
    found = pd.DataFrame({"number": -differs.sum(axis=1), "group": copies})
    return found[found["number"] < 0].sort_values(["number", "group"], kind="stable").index
