"""Pages of predicted studies: one for each of the most suspicious, and an index of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.files import write_text
from common.report.page import decision, render
from common.report.study_page import stored_study_html
from common.scoring.metrics import majority
from common.slices.study_labels import LABELS_OF_SLICES, LABELS_OF_STUDY
from common.slices.table import STUDIES_FILE, SliceTable
from common.tables import read_parquet
from common.words import count

INDEX_FILE = "index.html"
MOST_LISTED = 2000
"""Studies in the index, which has to open at once."""
MOST_PRINTED = 50
DECIDED = ("call", "decision")
"""Columns of studies.csv that the index shows, where the predictor has them."""


def write_study_pages(
    table: SliceTable,
    predictions: pd.DataFrame,
    studies: pd.DataFrame,
    label_names: Sequence[str],
    folder: Path,
    num_pages: int,
) -> None:
    """Write `study_<number>.html` of the most suspicious studies, and `index.html`.

    Pages of an earlier prediction are removed. One study is in memory at a time, and a page is
    there whole or not at all.

    Args:
        label_names: the labels; the last one decides the order.
        num_pages: most pages; 0 writes no index either.
    """
    for path in (folder / INDEX_FILE, *folder.glob("study_*.html"), *folder.glob(".*.html.*.tmp")):
        path.unlink(missing_ok=True)
    if not num_pages:
        return
    ranked = by_probability(studies, label_names)
    predictions = predictions.set_index("image_id")
    labels = _study_labels(table, label_names)
    shown = ranked[ranked["top_image_id"].notna()].head(num_pages)
    pages = set()
    for study in tqdm(shown.to_dict("records"), unit="study", desc="pages", disable=None):
        known = labels.get(study["study_id"])
        html = stored_study_html(
            table, study, predictions, label_names, study_labels=known, notes=_notes(study)
        )
        if html is not None:
            write_text(folder / f"study_{study['number']}.html", html)
            pages.add(study["number"])
    index = render(
        "studies.html",
        title="Predicted studies",
        subtitle=f"{count(len(studies), 'study')}, {count(len(pages), 'page')}.",
        names=list(label_names),
        studies=ranked.head(MOST_LISTED).to_dict("records"),
        num_more=max(0, len(ranked) - MOST_LISTED),
        pages=pages,
        decided=[name for name in DECIDED if name in ranked],
    )
    write_text(folder / INDEX_FILE, index)


def study_lines(studies: pd.DataFrame, label_names: Sequence[str]) -> Iterator[str]:
    """Yield the probabilities of the most suspicious studies, which rows of studies.csv name."""
    names = list(label_names)[::-1]
    ranked = by_probability(studies, label_names)
    for study in ranked.head(MOST_PRINTED).to_dict("records"):
        known = not np.isnan(study[names[0]])
        values = ", ".join(f"{name} {study[name]:.3f}" for name in names) if known else "none"
        yield f"study {study['number']}: {values} ({study['status']})"
    if len(ranked) > MOST_PRINTED:
        yield f"{count(len(ranked) - MOST_PRINTED, 'further study')} in studies.csv"


def by_probability(studies: pd.DataFrame, label_names: Sequence[str]) -> pd.DataFrame:
    """Return the studies by falling probability of the last label; those without come last."""
    return studies.sort_values(label_names[-1], ascending=False, kind="stable")


def _notes(study: Mapping[Any, Any]) -> list[str]:
    names = [name for name in study if name in DECIDED or str(name).startswith("call_")]
    decided = ", ".join(f"{name} {decision(study[name])}" for name in names)
    notes = [f"At the thresholds of the predictor: {decided}."] if decided else []
    if study["status"] != "ok":
        notes.append(f"Status {study['status']}: {study['reason']}.")
    return notes


def _study_labels(table: SliceTable, label_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the labels of the studies of a prepared dataset that has any, (k,) by study id."""
    path, names = table.folder / STUDIES_FILE, list(label_names)
    if not path.is_file():
        return {}
    known = read_parquet(path, "run preprocessing.py again").dropna(subset=["study_id"])
    if not set(names) <= set(known):
        return {}
    if "label_source" in known:
        known = known[known["label_source"].isin([LABELS_OF_SLICES, LABELS_OF_STUDY])]
    known = known[known[names].notna().any(axis=1)]
    return dict(zip(known["study_id"], majority(known[names])))
