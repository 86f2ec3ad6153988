"""Probabilities of studies from those of the slices of the volume that stands for each.

`study_probabilities` is the one rule, wherever studies are predicted, scored or fitted on. The
plain rule, the largest probability, is too high: the more slices, the likelier that one of them
errs upward. A calibrator per label corrects it.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from common.scoring.calibration import fit_shared_line
from common.scoring.metrics import Floats
from common.scoring.predictions import member_logits
from common.scoring.shrinkage import (
    LabelRows,
    Rows,
    fit_if_it_helps,
    number_patients,
    shrunk_logistic,
)

logger = logging.getLogger(__name__)

NUM_TOP = 3
# Standard deviation of the normal prior of coefficients of standardised features, around those of
# the largest probability alone: benchmarks/calibration.py measures it.
_SPREADS = (0.5, 0.5, 0.5, 2.0)
_Fitted = tuple[tuple[float, ...], float]
_UNCHANGED: _Fitted = (1.0, 0.0, 0.0), 0.0


@dataclass(frozen=True)
class StudyFeatures(Rows):
    """Features of s studies, from the probabilities of their slices.

    Attributes:
        largest, mean_top: (s, k) probabilities; `largest` is that of the series, where a network
            gives its own.
        num_slices: (s,).
    """

    largest: Floats
    mean_top: Floats
    num_slices: NDArray[np.int64]

    def matrix(self, column: int) -> Floats:
        """Return the (s, 3) features of a label: two logits, and the log of the number."""
        logits = (member_logits(p[:, column]) for p in (self.largest, self.mean_top))
        return np.column_stack([*logits, np.log(self.num_slices)])


def study_features(
    probabilities: ArrayLike,
    codes: ArrayLike,
    num_studies: int,
    of_series: ArrayLike | None = None,
) -> StudyFeatures:
    """Return the features of studies, each with at least one slice.

    Args:
        probabilities: (n, k) of slices.
        codes: (n,) which study each slice belongs to, from 0.
        of_series: (n, k) probabilities of each slice's series, where a network gives its own.
    """
    p, of_study = np.asarray(probabilities, dtype=np.float64), np.asarray(codes)
    counts = np.bincount(of_study, minlength=num_studies)
    assert (counts > 0).all(), "every study needs a slice"
    starts = np.cumsum(counts) - counts
    num_top = np.minimum(counts, NUM_TOP)
    largest = np.empty((num_studies, p.shape[1]))
    mean_top = np.zeros((num_studies, p.shape[1]))
    for column in range(p.shape[1]):
        falling = p[np.lexsort((-p[:, column], of_study)), column]
        largest[:, column] = falling[starts]
        for place in range(NUM_TOP):
            has_it = counts > place
            mean_top[has_it, column] += falling[starts[has_it] + place]
        mean_top[:, column] /= num_top
    if of_series is not None:
        largest[of_study] = of_series
    return StudyFeatures(largest, mean_top, counts)


@dataclass(frozen=True)
class StudyCalibration:
    """Logistic regression per label on `StudyFeatures.matrix`.

    Attributes:
        coefficients: per label (k), three each.
        bias: (k,).
        consistent: raise the last label to the largest of the others.
    """

    coefficients: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    consistent: bool = False

    @property
    def rule(self) -> str:
        """How a study's probability comes from its slices'."""
        union = ", the last label at least the others" if self.consistent else ""
        return (
            "calibrated: logistic regression on the largest probability, the mean of the three "
            f"largest and the number of slices of the used series{union}"
        )

    def apply(self, features: StudyFeatures) -> Floats:
        """Return probabilities (s, k)."""
        pairs = zip(self.coefficients, self.bias, strict=True)
        logits = [features.matrix(k) @ np.array(w) + b for k, (w, b) in enumerate(pairs)]
        p = np.asarray(expit(np.column_stack(logits)))
        if self.consistent:
            p[:, -1] = p.max(axis=1)
        return p

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any] | None) -> "StudyCalibration | None":
        if content is None:
            return None
        # Blends of before 0.2 lack `consistent`: their studies were never made so.
        coefficients, bias = map(tuple, content["coefficients"]), content["bias"]
        return cls(tuple(coefficients), tuple(bias), content.get("consistent", False))


LARGEST = "largest slice of the used series"
OWN_OF_SERIES = "the network's own, of the used series"


def study_rule(calibration: StudyCalibration | None) -> str:
    """Return in words how `study_probabilities` makes probabilities of studies."""
    return LARGEST if calibration is None else calibration.rule


def study_probabilities(
    probabilities: ArrayLike,
    codes: ArrayLike,
    num_studies: int,
    calibration: StudyCalibration | None = None,
    of_series: ArrayLike | None = None,
) -> Floats:
    """Return the probabilities (s, k) of studies; see `study_features`.

    Args:
        calibration: None for the largest probability.
    """
    features = study_features(probabilities, codes, num_studies, of_series)
    return features.largest if calibration is None else calibration.apply(features)


def fit_study_calibration(
    features: StudyFeatures,
    labels: Floats,
    patient_ids: ArrayLike | None = None,
    label_names: Sequence[str] = (),
    consistent: bool = False,
    shared: bool = False,
    before: StudyCalibration | None = None,
) -> StudyCalibration:
    """Return the calibrator fitted to studies with labels (s, k) of 0, 1 or NaN.

    It is shrunk towards the largest probability, the more the fewer patients a label's rarer class
    has, and keeps that where it does not help other patients (`common.scoring.shrinkage`).

    Args:
        patient_ids: (s,); None where each study is a patient of its own.
        label_names: (k,) for a warning of each label that keeps the largest probability; without
            them there is none.
        consistent: as of `StudyCalibration`.
        shared: fit one slope and bias to all labels together first, which the fit of each label is
            then shrunk towards.
        before: what the fits start from and are shrunk towards; None for the largest probability.
    """
    patients, columns = number_patients(patient_ids, len(labels)), range(labels.shape[1])
    x = [features.matrix(column) for column in columns]
    first = [(before.coefficients[k], before.bias[k]) if before else _UNCHANGED for k in columns]
    kept = "what there was" if before else "the largest slice"
    if shared:
        logits = np.column_stack([_linear(one, own) for one, own in zip(first, x, strict=True)])
        slope, bias = line = fit_shared_line(labels, logits, patients)
        first = [(tuple(slope * c for c in w), slope * b + bias) for w, b in first]
        kept = kept if line == (1, 0) else "the line of all labels"
    fitted = []
    for column, start in enumerate(first):
        known = ~np.isnan(labels[:, column])
        own = x[column][known]
        rows = LabelRows(labels[known, column], _linear(start, own), patients[known], own)
        found, reason = fit_if_it_helps(
            rows, partial(_fit_label, start=start), lambda fit, own: _linear(fit, own.features)
        )
        if label_names and reason:
            name = label_names[column]
            logger.warning("study calibration of %s: %s is kept: %s", name, kept, reason)
        fitted.append(found or start)
    return StudyCalibration(tuple(w for w, _ in fitted), tuple(b for _, b in fitted), consistent)


def _fit_label(rows: LabelRows, start: _Fitted) -> _Fitted:
    """Return the coefficients (3) and the bias of one label, shrunk towards `start`."""
    assert rows.features is not None
    center, scale = rows.features.mean(axis=0), rows.features.std(axis=0)
    scale[scale < 1e-9] = 1.0
    x = np.column_stack([(rows.features - center) / scale, np.ones(len(rows.labels))])
    w = shrunk_logistic(rows.labels, rows.logits, x, rows.share, _SPREADS)
    weights = w[:-1] / scale
    bias = float(w[-1] - np.dot(weights, center)) + start[1]
    return tuple((weights + start[0]).tolist()), bias


def _linear(fitted: _Fitted, features: Any) -> Floats:
    return np.asarray(features @ np.array(fitted[0]) + fitted[1])
