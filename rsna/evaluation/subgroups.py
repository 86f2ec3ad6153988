"""Which patients a network fails for: studies grouped by headers, bleed and labels."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
from numpy.typing import NDArray

from common.report.exploration.headers import TILTED_DEG
from common.scoring.metrics import Floats
from common.slices.study_labels import known_labels
from common.slices.table import SLICES_FILE, SliceTable
from common.statistics.decisions import ScoredStudies
from common.statistics.study_tables import estimate_table
from common.statistics.subgroups import (
    LEAST_STUDIES,
    Group,
    Grouping,
    compare_groups,
    num_compared,
    part,
    worst_group,
)
from common.words import count

# Between slices read as thin, at 2 to 3 mm, at 4 to 5 mm, and thick ones.
SLICE_EDGES_MM = (1.5, 3.5, 6.0)
BLEED_EDGES_MM = (15.0, 30.0, 60.0)
BLEED, LABEL = "bleed_mm", "label"
_SEXES = {"M": "male", "F": "female", "O": "other"}
_HEADERS = [
    "kvp", "kernel", "manufacturer", "model", "age_decade", "sex", "contrast", "tilt_deg",
    "slice_thickness", "spacing_slice", "institution_hash", "source_file",
]  # fmt: skip
SIGNIFICANT = 0.05


def describe_studies(
    table: SliceTable, studies: ScoredStudies, label_names: Sequence[str]
) -> pd.DataFrame:
    """Return a frame with a row for each scored study, in their order, and a column for each group.

    Columns: slice_thickness, spacing, kvp, kernel, manufacturer, model, age_decade, sex, contrast,
    tilt, source and bleed_mm as text, missing where unknown, then `num_positive_slices` and
    `positive_mm` of the used volume. A source is a hospital of the headers, or else a folder of
    `source_file`, where there are two and fewer than patients; it is a number, as names may tell.
    """
    rows = studies.rows
    frame = table.frame.iloc[rows]
    values = frame.groupby("study_id")[_HEADERS].first().reindex(studies.study_ids)
    gaps_mm = pd.Series(table.spacings_mm(rows)[:, 2], frame["study_id"].to_numpy())
    gaps_mm = gaps_mm.groupby(level=0).median().reindex(studies.study_ids)
    spacing_mm = gaps_mm.fillna(values["spacing_slice"])
    y = known_labels(table, rows, label_names[-1:])[:, 0]
    of_slices = pd.Series(y, frame["study_id"].to_numpy()).groupby(level=0)
    # A slice without a label may have a bleed.
    num_positive = of_slices.sum().where(of_slices.count() == of_slices.size())
    num_positive = num_positive.reindex(studies.study_ids)
    positive_mm = (num_positive * spacing_mm).where(num_positive > 0)
    decades = values["age_decade"].astype("Float64")
    tilts = values["tilt_deg"].astype("float64").abs()
    described = pd.DataFrame(
        {
            "slice_thickness": _bins(values["slice_thickness"], SLICE_EDGES_MM),
            "spacing": _bins(spacing_mm, SLICE_EDGES_MM),
            "kvp": _ordered(values["kvp"].round(), lambda kv: f"{kv:g} kV"),
            "kernel": values["kernel"],
            "manufacturer": values["manufacturer"],
            "model": values["model"],
            "age_decade": _ordered(decades, _decade),
            "sex": values["sex"].map(_SEXES),
            "contrast": values["contrast"].astype("object").map({True: "given", False: "none"}),
            "tilt": (tilts > TILTED_DEG).map({True: "tilted", False: "not tilted"}),
            "source": _sources(values, studies.patient_ids),
            BLEED: _bins(positive_mm, BLEED_EDGES_MM),
            "num_positive_slices": num_positive.astype("Int64"),
            "positive_mm": positive_mm,
        }
    )
    described["tilt"] = described["tilt"].where(tilts.notna())
    return described.reset_index(drop=True)


def subgroup_metrics(
    table: SliceTable,
    scored: ScoredStudies,
    label_names: Sequence[str],
    described: pd.DataFrame,
) -> dict[str, Any]:
    """Return `subgroups` of metrics.json.

    Args:
        label_names: the k labels; the last one is what studies are scored for.
        described: of `describe_studies`.
    """
    all_of = scored.columns(label_names)[label_names[-1]]
    known = ~np.isnan(all_of.labels)
    studies = all_of.of(known)
    groupings, left_out = _groupings(described[known], studies.labels)
    of_labels = _label_groups(scored.labels[known, :-1], studies.labels, label_names[:-1])
    if of_labels:
        groupings[LABEL] = Grouping(of_labels, of_positives=True)
    elif len(label_names) > 1:
        left_out[LABEL] = f"no label of {LEAST_STUDIES} studies"
    found = compare_groups(studies, groupings)
    return {
        "of": label_names[-1],
        "least_studies": LEAST_STUDIES,
        "num_comparisons": num_compared(found),
        "statement": _statement(found),
        "groups": {
            title: {name: _as_json(group) for name, group in groups.items()}
            for title, groups in found.items()
        },
        "left_out": left_out,
        "prepare_again_for": _missing_columns(table),
    }


def _groupings(
    described: pd.DataFrame, labels: Floats
) -> tuple[dict[str, Grouping], dict[str, str]]:
    """Return the groupings, and why a column is left out."""
    groupings: dict[str, Grouping] = {}
    left_out: dict[str, str] = {}
    for title in described.columns.drop(["num_positive_slices", "positive_mm"]):
        is_bleed = title == BLEED
        groups = part(described[title], labels == 1 if is_bleed else None)
        if len(groups) > 1:
            groupings[title] = Grouping(groups, is_bleed)
        else:
            what = "positive studies" if is_bleed else "studies"
            left_out[title] = f"{next(iter(groups))} for all {what}" if groups else f"no {what}"
    return groupings, left_out


def _label_groups(labels: Floats, overall: Floats, label_names: Sequence[str]) -> dict[str, Floats]:
    """Return the positive studies by the labels that they have; a study may have several."""
    found = {
        name: np.where(overall == 1, labels[:, k], np.where(np.isnan(labels[:, k]), np.nan, 0.0))
        for k, name in enumerate(label_names)
    }
    return {name: has for name, has in found.items() if np.nansum(has) >= LEAST_STUDIES}


def _statement(found: Mapping[str, Mapping[str, Group]]) -> str:
    number = count(num_compared(found), "comparison")
    place = worst_group(found)
    if not num_compared(found):
        return "There are too few studies to compare groups of them."
    if place is None:
        return f"No group by a name of its own is worse than all other studies in any of {number}."
    title, name, value = place
    group = found[title][name]
    difference, estimate = group.differences[value], group.estimates[value]
    own, less, low, high = estimate.value, difference.value, difference.low, difference.high
    p_value = difference.adjusted_p_value
    assert own is not None and less is not None and p_value is not None
    assert low is not None and high is not None
    is_beyond = p_value <= SIGNIFICANT
    return (
        f"The worst group is {words(title)}: {name}, {value.replace('auc', 'AUC')} {own:.3f}, "
        f"{-less:.3f} less than in all other studies (95 % interval {-high:.3f} to {-low:.3f}). "
        f"After correction for {number} this is {'' if is_beyond else 'not '}beyond chance "
        f"(p {p_value:.2g})."
    )


def words(title: str) -> str:
    """Return the name of a grouping as a page shows it."""
    return {"kvp": "tube voltage", "age_decade": "age", BLEED: "size of the bleed"}.get(
        title, title.replace("_", " ")
    )


def _as_json(group: Group) -> dict[str, Any]:
    return {
        "num_studies": group.num_studies,
        "num_positive": group.num_positive,
        "num_patients": group.num_patients,
        **{name: estimate_table(each) for name, each in group.estimates.items()},
        "difference": {name: estimate_table(each) for name, each in group.differences.items()},
    }


def _missing_columns(table: SliceTable) -> list[str]:
    """Return the columns that a dataset of an earlier version lacks."""
    path = table.folder / SLICES_FILE
    if not path.is_file():
        return []
    there = pyarrow.parquet.read_schema(path).names
    return [name for name in _HEADERS if name not in there]


def _bins(values_mm: pd.Series, edges_mm: Sequence[float]) -> pd.Series:
    names = [f"{low:g} to {high:g} mm" for low, high in pairwise(edges_mm)]
    names = [f"up to {edges_mm[0]:g} mm", *names, f"above {edges_mm[-1]:g} mm"]
    # Sums and products of decimal strings end a little beside the edge.
    values = values_mm.astype("float64").round(3)
    return pd.cut(values, [-np.inf, *edges_mm, np.inf], labels=names)


def _ordered(values: pd.Series, name: Any) -> pd.Series:
    numbers = values.astype("float64")
    order = sorted(numbers.dropna().unique().tolist())
    return numbers.map({each: name(each) for each in order}).astype(
        pd.CategoricalDtype([name(each) for each in order])
    )


def _decade(age: float) -> str:
    return "90 and older" if age >= 90 else f"{age:.0f} to {age + 9:.0f}"


def _sources(values: pd.DataFrame, patient_ids: NDArray[Any]) -> pd.Series:
    folders = values["source_file"].str.extract(r"^([^/]*?)!?/", expand=False)
    for names in (values["institution_hash"], folders):
        if 2 <= names.nunique() < len(set(patient_ids.tolist())):
            order = names.value_counts().index
            numbers = {name: f"source {place}" for place, name in enumerate(order, start=1)}
            return names.map(numbers)
    return pd.Series(None, values.index, dtype="object")
