"""The sections of a blend's page: members, weights, what each adds, raw and calibrated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from common.report import figures
from common.report.page import figure, render
from common.scoring.metrics import Floats


@dataclass(frozen=True)
class StageSet:
    """Probabilities of one stage.

    Attributes:
        name: of the stage, such as `raw`.
        labels, probabilities: (n, k).
        patient_ids: (n,), where intervals are wanted.
        study_ids: (n,) of studies.
    """

    name: str
    labels: Floats
    probabilities: Floats
    patient_ids: NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=object))
    study_ids: NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=object))


def blend_sections(
    metrics: Mapping[str, Any],
    label_names: Sequence[str],
    slices: Sequence[StageSet],
    studies: Sequence[StageSet],
) -> Markup:
    """Return the HTML of the sections.

    Args:
        metrics: of the blend, as in metrics.json.
        slices, studies: probabilities by stage, the raw ones first, those in the end last.
    """
    return render(
        "blend.html",
        metrics=metrics,
        labels=label_names,
        correlations={
            "probabilities": _mean_over_labels(metrics["correlation"], label_names),
            "errors": _mean_over_labels(metrics["error_correlation"], label_names),
        },
        slices={stage.name: metrics["stages"][stage.name] for stage in slices},
        studies={stage.name: metrics["study"][stage.name] for stage in studies},
        reliability_of_slices=_reliability(slices, label_names),
        reliability_of_studies=_reliability(studies, label_names),
    )


def _mean_over_labels(
    matrices: Mapping[str, Any], label_names: Sequence[str]
) -> list[list[float | None]]:
    """Return the mean of matrices (members, members), those of constant labels left out."""
    by_label = np.array([matrices[label] for label in label_names], dtype=np.float64)
    known = ~np.isnan(by_label).all(axis=(1, 2))
    mean = by_label[known].mean(axis=0) if known.any() else by_label[-1]
    return [[None if np.isnan(value) else float(value) for value in row] for row in mean]


def _reliability(stages: Sequence[StageSet], label_names: Sequence[str]) -> Markup:
    sets = {each.name.split(",")[0]: each.probabilities for each in (stages[0], stages[-1])}
    drawing = figures.reliability_figure(stages[0].labels, sets, label_names)
    return figure(drawing, "share of positives over predicted probability")
