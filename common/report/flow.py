"""The flow of a scored dataset, after STARD: files, volumes, studies, and why some are not scored.

STARD 2015 (Bossuyt et al., BMJ 2015;351:h5527), item 19.
"""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from common.report.page import number, render
from common.scoring.metrics import Floats
from common.slices.series import list_series
from common.slices.table import SliceTable

NOTHING_USABLE = "no slice that can be used"
NO_LABEL = "no label"
NO_STUDY = "of no known study"

_BOX_WIDTH, _GAP, _SIDE_WIDTH = 300.0, 40.0, 430.0
_LINE, _PAD, _WRAP = 19, 11, 58
_EXCLUDED = {
    "files": "not used",
    "volumes": "do not stand for a study",
    "studies": "not scored",
}


@dataclass(frozen=True)
class ScoredIds:
    """The studies that a score is of.

    Attributes:
        study_ids: (s,) those scored.
        labels: (s, k) 0, 1 or NaN.
        labelled: ids of all studies of the dataset that have a label.
        why_not: why a labelled study is not scored, such as `trained on`.
    """

    study_ids: Sequence[Any]
    labels: Floats
    labelled: Collection[Any]
    why_not: str


def study_flow(
    table: SliceTable, scored: ScoredIds, label_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the stages of the flow: of each, found = kept + the sum of excluded.

    The volumes that are kept are those that stand for their studies, so that their number is that
    of the studies found less those of which nothing can be used.

    Returns:
        For files, volumes and studies a dict of unit, found, excluded (number by reason) and kept;
        of studies also `outcome`: positive, negative and unknown by label.
    """
    frame = table.frame[["source_file", "image_id", "status", "study_id", "store_file"]]
    files = frame["source_file"].fillna(frame["image_id"]).fillna("").astype("str")
    is_kept = pd.Series(table.readable).groupby(files.to_numpy()).transform("any").to_numpy()
    lost = frame["status"].where(~table.readable)[~is_kept].groupby(files[~is_kept]).first()
    stages = [_stage("files", files.nunique(), lost.str.replace("_", " "))]

    num_volumes = frame["store_file"][table.readable].nunique()
    volumes = list_series(table.frame.assign(readable=table.readable))
    volumes = volumes[volumes["num_slices"] > 0]
    # Kernels and the like make a reason of their own for each volume.
    reasons = volumes["reason"].str.replace(r"(?:;| \().*", "", regex=True)
    others = pd.Series([NO_STUDY] * (num_volumes - volumes["store_file"].nunique()), dtype="str")
    unused = reasons[volumes["used"] == 0]
    stages.append(_stage("volumes", num_volumes, pd.concat([unused, others])))

    studies = pd.Index(frame["study_id"].dropna().unique())
    left_out = studies[~studies.isin(scored.study_ids)]
    usable = volumes.loc[volumes["used"] == 1, "study_id"]
    why = np.select(
        [~left_out.isin(usable), ~left_out.isin(list(scored.labelled))],
        [NOTHING_USABLE, NO_LABEL],
        scored.why_not,
    )
    stages.append(_stage("studies", len(studies), pd.Series(why, dtype="str")))
    stages[-1]["outcome"] = {
        name: {
            "positive": int(np.sum(values == 1)),
            "negative": int(np.sum(values == 0)),
            "unknown": int(np.sum(np.isnan(values))),
        }
        for name, values in zip(label_names, scored.labels.T, strict=True)
    }
    return stages


def _stage(unit: str, num_found: int, reasons: pd.Series) -> dict[str, Any]:
    excluded = {str(reason): int(num) for reason, num in reasons.value_counts().items()}
    kept = num_found - len(reasons)
    return {"unit": unit, "found": num_found, "excluded": excluded, "kept": kept}


def flow_svg(stages: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the drawing of the stages of `study_flow`, an SVG that needs nothing but itself."""
    boxes, arrows, y = [], [], 1.0
    middle, side = _BOX_WIDTH / 2, _BOX_WIDTH + _GAP
    for stage in stages:
        box = _box(0, y, _BOX_WIDTH, [f"{number(stage['found'])} {stage['unit']}"])
        boxes.append(box)
        below, y = box["bottom"], box["bottom"] + _GAP
        if stage["excluded"]:
            total = number(sum(stage["excluded"].values()))
            lines = [f"{total} {_EXCLUDED[stage['unit']]}:"]
            lines += [f"{number(num)}  {reason}" for reason, num in stage["excluded"].items()]
            box = _box(side, below + _GAP / 2, _SIDE_WIDTH, lines)
            boxes.append(box)
            arrows.append((middle, box["middle"], side, box["middle"]))
            y = box["bottom"] + _GAP / 2
        arrows.append((middle, below, middle, y))
    lines = [f"{number(stages[-1]['kept'])} studies scored"]
    for name, counts in list(stages[-1]["outcome"].items())[-1:]:
        known = [f"{number(num)} {what}" for what, num in counts.items() if num]
        lines.append(f"{name}: {', '.join(known) or 'none'}")
    boxes.append(_box(0, y, _BOX_WIDTH, lines))
    size = {"width": side + _SIDE_WIDTH + 1, "height": max(box["bottom"] for box in boxes) + 1}
    return render("flow.svg", boxes=boxes, arrows=arrows, line=_LINE, pad=_PAD, **size)


def _box(x: float, y: float, width: float, lines: Sequence[str]) -> dict[str, Any]:
    wrapped = [part for line in lines for part in textwrap.wrap(line, _WRAP) or [""]]
    height = _LINE * len(wrapped) + 2 * _PAD
    place = {"x": x, "y": y, "width": width, "height": height}
    return {**place, "lines": wrapped, "bottom": y + height, "middle": y + height / 2}
