"""The sections of a blend's page: members, weights, what each adds, raw and calibrated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.report import figures
from common.report.page import figure, paragraph, shown, shown_interval, table
from common.scoring.metrics import Floats

Section = tuple[str, str]

DEPENDENCE = (
    "Weights and calibrators are fitted without the rows that they are scored on, and without any "
    "other row of their patients. One indirect dependence is left: the members' predictions of the "
    "other folds, which were fitted on, come from networks that were trained on the scored fold. "
    "With one weight per member and label little can be learnt from that, but the score of a "
    "blend that is fitted (weights, stacking, calibration) may be slightly too good."
)
NO_DEPENDENCE = (
    "Weights and calibrators of a fold were fitted on predictions of networks that saw neither "
    "that fold nor the fold that they predict: nothing fitted on the scored rows reaches their "
    "score."
)


@dataclass(frozen=True)
class StageSet:
    """Probabilities of one stage.

    Attributes:
        name: of the stage, such as `raw`.
        labels, probabilities: (n, k).
        patient_ids: (n,), where intervals are wanted.
    """

    name: str
    labels: Floats
    probabilities: Floats
    patient_ids: NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=object))


def blend_sections(
    metrics: Mapping[str, Any],
    label_names: Sequence[str],
    slices: Sequence[StageSet],
    studies: Sequence[StageSet],
) -> list[Section]:
    """Returns the sections.

    Args:
        metrics: of the blend, as in metrics.json.
        label_names: the k labels.
        slices, studies: probabilities by stage, the raw ones first, those in the end last.
    """
    return [
        ("Members, and what each adds", _members(metrics)),
        ("Weights", _weights(metrics, label_names)),
        ("How alike members are", _correlations(metrics, label_names)),
        ("Slices: raw and calibrated", _slices(metrics, label_names, slices)),
        ("Studies: raw and calibrated", _studies(metrics, label_names, studies)),
        ("What the score depends on", _dependence(metrics)),
    ]


def _members(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, values in metrics["members"].items():
        gains = values["blend_gains"]
        without = metrics["leave_one_out"].get(name)
        adds = without["adds"] if without else {"difference": None, "interval": None}
        rows.append(
            [
                name,
                shown(values["weighted_log_loss"], 4),
                shown(gains["difference"], 4),
                shown_interval(gains["interval"], 4),
                shown(without["weighted_log_loss"] if without else None, 4),
                shown(adds["difference"], 4),
                shown_interval(adds["interval"], 4),
            ]
        )
    header = [
        "member", "weighted log loss", "blend is better by", "95 % interval", "blend without it",
        "it adds", "95 % interval",
    ]  # fmt: skip
    return table(header, rows) + paragraph(
        "Weighted log loss; positive differences mean that the blend of all is better. What is "
        "fitted is fitted anew without the member. Intervals resample patients, the same ones on "
        "both sides.",
        "quiet",
    )


def _weights(metrics: Mapping[str, Any], label_names: Sequence[str]) -> str:
    members = list(metrics["members"])
    has_bias = metrics["plan"]["method"] == "stacking"
    rows = []
    for label in label_names:
        for name, found in metrics["weights"][label].items():
            cells = [shown(float(weight)) for weight in found["weights"]]
            cells += [shown(float(found["bias"]))] if has_bias else []
            rows.append([label, name, *cells])
    header = ["label", "used for", *members, *(["bias"] if has_bias else [])]
    return table(header, rows, text=(0, 1)) + paragraph(
        "Each fold is scored with what was fitted on the others; `all rows` is what is kept for "
        "new data and is scored nowhere here.",
        "quiet",
    )


def _correlations(metrics: Mapping[str, Any], label_names: Sequence[str]) -> str:
    members = list(metrics["members"])
    parts = []
    for key, title in (("correlation", "probabilities"), ("error_correlation", "errors")):
        by_label = np.array([metrics[key][label] for label in label_names], dtype=np.float64)
        known = ~np.isnan(by_label).all(axis=(1, 2))
        mean = by_label[known].mean(axis=0) if known.any() else by_label[-1]
        rows = [
            [name, *(shown(None if np.isnan(v) else float(v)) for v in row)]
            for name, row in zip(members, mean, strict=True)
        ]
        parts.append(paragraph(f"Of their {title}, mean over the labels:"))
        parts.append(table(["", *members], rows))
    return "".join(parts) + paragraph(
        "Pearson's correlation; an error is probability minus label. The less alike errors are, "
        "the more a blend gains. metrics.json has each label's.",
        "quiet",
    )


def _slices(
    metrics: Mapping[str, Any], label_names: Sequence[str], slices: Sequence[StageSet]
) -> str:
    found = _stage_table({s.name: metrics["stages"][s.name] for s in slices}, label_names)
    if len(slices) > 1:
        found += _gain(metrics["calibration_gains"], "All that is done after blending", "slices")
    return found + _reliability(slices, label_names)


def _studies(
    metrics: Mapping[str, Any], label_names: Sequence[str], studies: Sequence[StageSet]
) -> str:
    found = _stage_table({s.name: metrics["study"][s.name] for s in studies}, label_names)
    found += _gain(metrics["study"]["calibration_gains"], "The study calibrator", "studies")
    return (
        found
        + paragraph(
            "raw: the largest of the final probabilities of the study's slices; calibrated: a "
            "logistic regression per label on it, on the mean of the three largest and on the "
            "number of slices.",
            "quiet",
        )
        + _reliability(studies, label_names)
    )


def _stage_table(stages: Mapping[str, Mapping[str, Any]], label_names: Sequence[str]) -> str:
    rows = []
    for name, values in stages.items():
        cells = [name, shown(values["weighted_log_loss"], 4)]
        cells += [shown(values["log_loss"][label], 4) for label in label_names]
        rows.append(cells)
    errors = [
        [name, *(shown(values["ece"][label], 4) for label in label_names)]
        for name, values in stages.items()
    ]
    return table(["log loss", "weighted", *label_names], rows) + table(
        ["ECE", *label_names], errors
    )


def _gain(gain: Mapping[str, Any], who: str, what: str) -> str:
    return paragraph(
        f"{who} changes the weighted log loss of {what} by "
        f"{shown(None if gain['difference'] is None else -gain['difference'], 4)} (95 % interval "
        f"{shown_interval(gain['interval'] and [-v for v in reversed(gain['interval'])], 4)})."
    )


def _reliability(stages: Sequence[StageSet], label_names: Sequence[str]) -> str:
    first, last = stages[0], stages[-1]
    if first is last:
        drawing = figures.reliability_figure(first.labels, first.probabilities, label_names)
    else:
        drawing = figures.paired_reliability_figure(
            first.labels,
            first.probabilities,
            last.probabilities,
            label_names,
            (first.name, last.name.split(",")[0]),
        )
    return figure(drawing, "share of positives over predicted probability") + paragraph(
        "Each point is a tenth of the rows by probability; the axes differ.", "quiet"
    )


def _dependence(metrics: Mapping[str, Any]) -> str:
    plan = metrics["plan"]
    groups = (
        "All rows are of one fold, so its patients were divided into groups."
        if plan["groups"] == "patients"
        else "The groups are the folds of the dataset."
    )
    return paragraph(groups) + paragraph(NO_DEPENDENCE if plan["nested"] else DEPENDENCE)
