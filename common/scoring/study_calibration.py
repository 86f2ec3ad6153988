"""Study probabilities from slices: largest, mean of the three largest, number of slices.

The plain rule, the largest probability of a study's slices, is too high: the more slices, the
likelier that one of them errs upward. A calibrator per label corrects it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from common.scoring.metrics import Floats
from common.scoring.predictions import member_logits

NUM_TOP = 3
# scikit-learn's C, on standardised features: a few studies must not make steep curves.
_RIDGE_C = 1.0


@dataclass(frozen=True)
class StudyFeatures:
    """Features of s studies, from the probabilities of their slices.

    Attributes:
        largest, mean_top: (s, k) probabilities.
        num_slices: (s,).
    """

    largest: Floats
    mean_top: Floats
    num_slices: NDArray[np.int64]

    def matrix(self, column: int) -> Floats:
        """Return the (s, 3) features of a label: two logits, and the log of the number."""
        return np.column_stack(
            [
                member_logits(self.largest[:, column]),
                member_logits(self.mean_top[:, column]),
                np.log(self.num_slices),
            ]
        )

    def of(self, studies: ArrayLike) -> "StudyFeatures":
        chosen = np.asarray(studies)
        return StudyFeatures(self.largest[chosen], self.mean_top[chosen], self.num_slices[chosen])


def study_features(probabilities: ArrayLike, codes: ArrayLike, num_studies: int) -> StudyFeatures:
    """Return the features of studies, each with at least one slice.

    Args:
        probabilities: (n, k) of slices.
        codes: (n,) which study each slice belongs to, from 0.
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
    return StudyFeatures(largest, mean_top, counts)


@dataclass(frozen=True)
class StudyCalibration:
    """Logistic regression per label on `StudyFeatures.matrix`.

    Attributes:
        coefficients: per label (k), three each.
        bias: (k,).
    """

    coefficients: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    def apply(self, features: StudyFeatures) -> Floats:
        """Return probabilities (s, k)."""
        pairs = zip(self.coefficients, self.bias, strict=True)
        logits = [features.matrix(k) @ np.array(w) + b for k, (w, b) in enumerate(pairs)]
        return np.asarray(expit(np.column_stack(logits)))

    def to_json(self) -> dict[str, Any]:
        return {"coefficients": [list(w) for w in self.coefficients], "bias": list(self.bias)}

    @classmethod
    def from_json(cls, content: dict[str, Any] | None) -> "StudyCalibration | None":
        if content is None:
            return None
        return cls(tuple(map(tuple, content["coefficients"])), tuple(content["bias"]))


def fit_study_calibration(features: StudyFeatures, labels: Floats) -> StudyCalibration:
    """Return the calibrator that fits studies with labels (s, k) of 0, 1 or NaN.

    A label whose known studies are all of one class keeps the largest probability.
    """
    fitted = [_fit_label(features, labels, column) for column in range(labels.shape[1])]
    return StudyCalibration(tuple(w for w, _ in fitted), tuple(b for _, b in fitted))


def _fit_label(
    features: StudyFeatures, labels: Floats, column: int
) -> tuple[tuple[float, ...], float]:
    known = ~np.isnan(labels[:, column])
    y = labels[known, column]
    if len(np.unique(y)) < 2:
        return (1.0, 0.0, 0.0), 0.0
    # Imported late: scikit-learn takes a second.
    from sklearn.linear_model import LogisticRegression

    x = features.matrix(column)[known]
    center, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale < 1e-9] = 1.0
    model = LogisticRegression(C=_RIDGE_C, max_iter=500).fit((x - center) / scale, y > 0.5)
    weights = model.coef_[0] / scale
    return tuple(weights.tolist()), float(model.intercept_[0] - np.dot(weights, center))
