"""Studies with a wrong call: a table of all scored studies, and a page for each of the worst."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from common.experiment import ScoredFolder
from common.files import replacing_folder, write_text
from common.report import ScoredSet
from common.report.page import render
from common.report.study_page import stored_study_html
from common.report.subgroups import subgroup_section
from common.scoring.metrics import Floats
from common.slices.table import SliceTable
from common.statistics.decisions import ScoredStudies, safe_calls
from rsna.evaluation.prediction import write_csv
from rsna.evaluation.subgroups import describe_studies, subgroup_metrics, words

logger = logging.getLogger(__name__)

MOST_PAGES = 20
MISS, FALSE_ALARM = "miss", "false alarm"


def analyse_studies(
    scored: ScoredSet,
    predictions: pd.DataFrame,
    table: SliceTable,
    place: ScoredFolder,
    label_names: Sequence[str],
) -> tuple[dict[str, Any], Markup]:
    """Write the table and the pages of scored studies; return metrics by key, and HTML sections.

    Args:
        scored: the studies, with their calls, or the threshold of slices where there are none.
        predictions: of the slices, one row per image.
        label_names: the k labels; the last one is called.
    """
    described = describe_studies(table, scored.studies, label_names)
    groups = subgroup_metrics(table, scored.studies, label_names, described)
    threshold, union = scored.metrics["threshold"], label_names[-1]
    last = scored.studies.columns(label_names)[union]
    p, calls = np.where(last.is_seen, last.probabilities, np.nan), last.calls
    own = safe_calls(p, threshold, last.is_whole) if calls is None else calls
    studies = _list_studies(scored.studies, predictions, table, described, label_names, own)
    write_csv(place.studies_file, studies)
    failed = studies[studies["failure"].notna()]
    errors = (failed[f"label_{union}"] - failed[union]).abs()
    worst = failed.loc[errors.sort_values(ascending=False, kind="stable").index].head(MOST_PAGES)
    pages = _write_pages(place.failures, worst.to_dict("records"), predictions, table, label_names)
    note = ""
    if len(worst) and not pages:
        note = f"No page of them: dataset {table.folder.name} has no pixels of them at hand."
        logger.warning("failures: %s", note)
    section = render(
        "failures.html",
        failures=worst.astype(object).where(worst.notna(), None).to_dict("records"),
        labels=list(label_names),
        pages=pages,
        folder=place.failures.name,
        studies_file=place.studies_file.relative_to(place.folder).as_posix(),
        num_failures=len(failed),
        num_studies=int((~np.isnan(last.labels)).sum()),
        at=f"at a probability of {threshold:g}" if calls is None else "at the operating point",
        note=note,
    )
    return {"subgroups": groups}, subgroup_section(groups, words) + section


def _list_studies(
    scored: ScoredStudies,
    predictions: pd.DataFrame,
    table: SliceTable,
    described: pd.DataFrame,
    label_names: Sequence[str],
    calls: Floats,
) -> pd.DataFrame:
    """Return a row for each scored study: ids, labels, probabilities, call, failure and groups."""
    y, p, names = scored.labels, scored.probabilities, list(label_names)
    frame = table.frame.iloc[scored.rows][["study_id", "image_id"]]
    frame = frame.merge(predictions[["image_id", names[-1]]], on="image_id")
    ranked = frame.sort_values(names[-1], ascending=False, kind="stable")
    top = ranked.drop_duplicates("study_id").set_index("study_id")["image_id"]
    is_wrong = ~np.isnan(y[:, -1]) & ~np.isnan(calls) & (calls != y[:, -1])
    failure = np.where(y[:, -1] == 1, MISS, FALSE_ALARM)
    studies = {
        "number": np.arange(1, len(y) + 1),
        "study_id": scored.study_ids,
        "patient_id": scored.patient_ids,
        **{f"label_{name}": y[:, k] for k, name in enumerate(names)},
        **{name: p[:, k] for k, name in enumerate(names)},
        "called": pd.array(calls).astype("Int64"),
        "failure": pd.Series(failure).where(is_wrong),
        "top_image_id": top.reindex(scored.study_ids).to_numpy(dtype=object),
    }
    return pd.concat([pd.DataFrame(studies), described], axis=1)


def _write_pages(
    folder: Path,
    failures: Sequence[Mapping[Any, Any]],
    predictions: pd.DataFrame,
    table: SliceTable,
    label_names: Sequence[str],
) -> set[int]:
    """Write the pages that can be written in place of the folder's; return their studies' numbers.

    One study is in memory at a time.
    """
    by_image, written = predictions.set_index("image_id"), set()
    for left in folder.parent.glob(f".{folder.name}.*"):  # by an evaluation that was killed
        shutil.rmtree(left)
    with replacing_folder(folder) as temporary:
        for study in failures:
            labels = np.array([study[f"label_{name}"] for name in label_names], dtype=np.float64)
            called = "called" if study["called"] else "not called"
            note = f"A {study['failure']}: {called}, at {study[label_names[-1]]:.3f}."
            html = stored_study_html(
                table, study, by_image, label_names, study_labels=labels, notes=[note]
            )
            if html is not None:
                number = int(study["number"])
                write_text(temporary / f"study_{number}.html", html)
                written.add(number)
    return written
