"""scripts/compare.py: experiments compared on the slices and studies that all have scored."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.files import make_folder, write_text
from common.report.comparison import comparison_html
from common.scoring.metrics import Floats
from common.slices.folds import sampled
from common.slices.study_labels import known_labels, labels_by_study
from common.slices.table import SliceTable
from common.statistics.scores import SCORES, Score, compare, score, weighted_log_loss_score
from common.words import count
from config import Config
from flags.comparison import ComparisonConfig
from rsna.evaluation.stored import Stored, columns_of, find_stored, study_owners
from rsna_task import Task

logger = logging.getLogger(__name__)

FOLDER = "comparisons"
TABLE_FILE = "comparison.csv"
REPORT_FILE = "report.html"
WEIGHTED = "weighted_log_loss"
SHOWN = {WEIGHTED: "weighted log loss", "auc": "AUC", "brier": "Brier score"}


@dataclass(frozen=True)
class Shared:
    """What all experiments have scored, slices or studies.

    Attributes:
        labels: (n, k) 0, 1 or NaN.
        probabilities: (n, k) by experiment.
        patients: (n,).
        left_out: rows of each that others have not scored.
    """

    labels: Floats
    probabilities: Mapping[str, Floats]
    patients: NDArray[Any]
    left_out: Mapping[str, int]


def compare_experiments(config: Config) -> Iterator[str]:
    """Compare --ev_experiments, write comparison.csv and report.html, yield the lines to print."""
    flags = config.comparison
    dataset_folder, stored = find_stored(config, flags.names, "--ev_experiments")
    task, dataset = stored[0].task, dataset_folder.name
    if any(each.task != task for each in stored):
        raise InputError("--ev_experiments: predict different labels: give those of one task")
    table = SliceTable.load(dataset_folder)
    frames = {each.name: each.read(table) for each in stored}
    units = read_shared(table, stored, frames, task)
    shared_ids = _common([frame["image_id"] for frame in frames.values()])
    rows = table.rows_of(shared_ids.to_numpy())
    doubts = {each.name: each.doubts(table, rows) for each in stored}
    found = pd.DataFrame(
        record
        for unit, shared in units.items()
        for record in compare_shared(unit, shared, task, flags)
    )
    claims = list(_claims(found, doubts, flags, task))
    names = list(frames)
    own_name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(names))[:120]
    folder = Path(config.general.output_dir) / FOLDER / own_name
    make_folder(folder)
    write_text(folder / TABLE_FILE, found.to_csv(index=False))
    counts = " and ".join(_counts(unit, shared) for unit, shared in units.items())
    html = comparison_html(
        title=f"{count(len(names), 'experiment')} on the same patients",
        subtitle=f"{dataset}: {counts} that all have scored",
        found=found.assign(score_name=found["score"].map(SHOWN)),
        doubts=doubts,
        left_out={unit: shared.left_out for unit, shared in units.items()},
        claims=claims,
        margin=None if flags.ev_margin is None else (flags.ev_margin_score, flags.ev_margin),
    )
    write_text(folder / REPORT_FILE, html)
    yield f"{dataset}: {counts} that all have scored"
    for unit, shared in units.items():
        lost = [f"{name} {number}" for name, number in shared.left_out.items() if number]
        if lost:
            yield f"left out, as others have not scored them: {unit} of {', '.join(lost)}"
    yield from _lines(found, task)
    yield from (f"{name}: {doubt}" for name, each in doubts.items() for doubt in each)
    yield from claims
    yield f"report: {folder / REPORT_FILE}"


def read_shared(
    table: SliceTable, stored: Sequence[Stored], frames: Mapping[str, pd.DataFrame], task: Task
) -> dict[str, Shared]:
    """Return the slices and the studies that all have scored; slices only where they have labels.

    Args:
        frames: the rows of each, by name.

    Raises:
        InputError: nothing is shared, or nothing of it has a label.
    """
    image_ids = _common([frame["image_id"] for frame in frames.values()])
    if not len(image_ids):
        sizes = ", ".join(f"{name} {len(frame)}" for name, frame in frames.items())
        raise InputError(
            f"--ev_experiments: no slice is scored by all ({sizes}): give experiments of the same "
            f"fold or of all, or evaluate each on one --data_dataset"
        )
    found = {
        "slices": _slices(table, frames, image_ids, task),
        "studies": _studies(table, stored, frames, task),
    }
    found = {unit: each for unit, each in found.items() if not np.isnan(each.labels).all()}
    if not found:
        raise InputError(f"{table.folder}: nothing that all experiments have scored has a label")
    return found


def _common(ids: Sequence[pd.Series | pd.Index]) -> pd.Index:
    """Return what is in all of them, in the order of the first."""
    common = pd.Index(ids[0])
    for other in ids[1:]:
        common = common[common.isin(other)]
    return common


def _slices(
    table: SliceTable, frames: Mapping[str, pd.DataFrame], image_ids: pd.Index, task: Task
) -> Shared:
    rows = table.rows_of(image_ids.to_numpy())
    of_table = table.frame.iloc[rows]
    labels = known_labels(table, rows, task.label_names)
    probabilities = {
        name: columns_of(frame.set_index("image_id").loc[image_ids], task)
        for name, frame in frames.items()
    }
    left_out = {name: len(frame) - len(image_ids) for name, frame in frames.items()}
    return Shared(labels, probabilities, sampled(of_table).to_numpy(dtype=object), left_out)


def _studies(
    table: SliceTable, stored: Sequence[Stored], frames: Mapping[str, pd.DataFrame], task: Task
) -> Shared:
    """Return the shared studies, labelled by all slices that any of the experiments has scored."""
    tables = {each.name: each.studies(table, frames[each.name]) for each in stored}
    ids = _common([each.index for each in tables.values()])
    rows = np.unique(np.concatenate([table.rows_of(f["image_id"]) for f in frames.values()]))
    rows = rows[table.frame["study_id"].iloc[rows].isin(ids).to_numpy(dtype=bool)]
    labels, study_ids = known_labels(table, rows, task.label_names), table.frame["study_id"]
    known, values = labels_by_study(table, task.label_names, labels, study_ids.iloc[rows])
    of_studies = pd.DataFrame(values, index=known).reindex(ids).to_numpy(dtype=np.float64)
    probabilities = {name: columns_of(each.loc[ids], task) for name, each in tables.items()}
    left_out = {name: len(each) - len(ids) for name, each in tables.items()}
    return Shared(of_studies, probabilities, study_owners(table, ids), left_out)


def compare_shared(
    unit: str, shared: Shared, task: Task, flags: ComparisonConfig
) -> Iterator[dict[str, Any]]:
    """Yield a record for each score, label and experiment, with the difference to the first."""
    weighted = weighted_log_loss_score(task.label_weights)
    asked: list[tuple[str, str | None, str | Score]] = [(WEIGHTED, None, weighted)]
    names = task.label_names[::-1]
    asked += [(kind, name, kind) for kind in ("auc", "brier") for name in names]
    for kind, label, of in asked:
        column = slice(None) if label is None else task.label_names.index(label)
        y, patients = shared.labels[:, column], shared.patients
        p = {name: values[:, column] for name, values in shared.probabilities.items()}
        margin = flags.ev_margin if flags.ev_margin_score == kind else None
        differences = compare(of, y, p, patients, margin=margin)
        known = ~np.isnan(y) if y.ndim == 1 else ~np.isnan(y).all(axis=1)
        for name, values in p.items():
            own, by = score(of, y, values, patients), differences.get(name)
            yield {
                "unit": unit,
                "score": kind,
                "label": label,
                "experiment": name,
                "num": int(known.sum()),
                "num_patients": len(set(patients[known])),
                **vars(own),
                "difference": by and by.value,
                "difference_low": by and by.low,
                "difference_high": by and by.high,
                "p_value": by and by.p_value,
                "p_value_holm": by and by.adjusted_p_value,
                "margin": margin,
                "p_value_worse_holm": by and by.p_value_worse,
                "non_inferior": by and by.non_inferior,
                "difference_reason": by and by.reason,
            }


def _claims(
    found: pd.DataFrame,
    doubts: Mapping[str, Sequence[str]],
    flags: ComparisonConfig,
    task: Task,
) -> Iterator[str]:
    """Yield what the margin allows to say of each experiment, in words."""
    if flags.ev_margin is None:
        return
    label = None if flags.ev_margin_score == WEIGHTED else task.label_names[-1]
    asked = found[found["score"].eq(flags.ev_margin_score)]
    asked = asked[asked["label"].isna() if label is None else asked["label"].eq(label)]
    first = asked["experiment"].iloc[0]
    for row in asked[asked["experiment"] != first].to_dict("records"):
        name = row["experiment"]
        what = f"{SHOWN[row['score']]}{f' of {label}' if label else ''}, {row['unit']}"
        claim = f"{name} is worse than {first} by less than {flags.ev_margin:g}"
        doubtful = [each for each in (name, first) if doubts[each]]
        if doubtful:
            yield f"{what}: no claim of {name} against {first}: see the notes on {doubtful[0]}"
        elif row["p_value_worse_holm"] is None or np.isnan(row["p_value_worse_holm"]):
            yield f"{what}: not shown that {claim}: {row['difference_reason']}"
        else:
            shown = "" if row["non_inferior"] else "not shown that "
            side = "above" if shown else "at most"
            p = f"one-sided p {_p(row['p_value_worse_holm'])}, {side} 0.025"
            yield f"{what}: {shown}{claim} ({p})"


def _lines(found: pd.DataFrame, task: Task) -> Iterator[str]:
    """Yield the main scores as a table; comparison.csv has all."""
    shown = found[found["label"].isna() | found["label"].eq(task.label_names[-1])]
    width = max(map(len, found["experiment"]))
    for (unit, kind), rows in shown.groupby(["unit", "score"], sort=False):
        better = "more" if kind in SCORES and SCORES[str(kind)].better == "max" else "less"
        of = "" if kind == WEIGHTED else f" of {task.label_names[-1]}"
        yield f"{unit}: {SHOWN[str(kind)]}{of} ({better} is better)"
        for row in rows.to_dict("records"):
            own = _spread(row["value"], row["low"], row["high"], "0.4f")
            yield f"  {row['experiment']:<{width}}  {own:<26}  {_difference(row)}".rstrip()


def _difference(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["difference"]):
        return "" if pd.isna(row["difference_reason"]) else str(row["difference_reason"])
    text = _spread(row["difference"], row["difference_low"], row["difference_high"], "+0.4f")
    if pd.isna(row["p_value"]):
        return f"{text} ({row['difference_reason']})"
    return f"{text}, p {_p(row['p_value'])}, Holm {_p(row['p_value_holm'])}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _spread(value: float, low: float, high: float, form: str) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:{form}}" + ("" if pd.isna(low) else f" ({low:{form}} to {high:{form}})")


def _counts(unit: str, shared: Shared) -> str:
    num = int((~np.isnan(shared.labels).all(axis=1)).sum())
    return f"{num} {unit} of {count(len(set(shared.patients)), 'patient')}"
