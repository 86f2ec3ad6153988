"""Calibrators from logits to calibrated probabilities, label by label.

`Calibration` of `predictions` (temperature and bias) and `IsotonicCalibration` have the same two
methods, `apply` and `invert`, on logits (n, k). A calibrator may only be scored on rows that it
was not fitted on: the caller that fits it keeps the ids (`common.slices.leakage`).
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from common.scoring.metrics import Floats
from common.scoring.predictions import Calibration, Calibrator
from common.scoring.shrinkage import (
    LabelRows,
    fit_if_it_helps,
    number_patients,
    shrunk_logistic,
)

logger = logging.getLogger(__name__)

CALIBRATORS = ("temperature", "isotonic")
Line = tuple[float, float]
Steps = tuple[tuple[float, ...], tuple[float, ...]]

# Standard deviations of the normal prior of slope and bias around 1 and 0, and the patients of the
# rarer class that the prior of an isotonic fit counts for: benchmarks/calibration.py measures them.
_SLOPE_SPREAD, _BIAS_SPREAD = 0.5, 1.0
_PRIOR_PATIENTS = 10.0
_LEAST_SLOPE = 0.05
_CELL = 1 / 1024
_UNCHANGED = (1.0, 0.0)
_FLAT = 40.0
# Weight of the made-up row of the other class at each end of an isotonic fit: without it the first
# and last steps are probabilities of exactly 0 and 1, which cost 34 nats where they are wrong.
_END_WEIGHT = 0.5


@dataclass(frozen=True)
class IsotonicCalibration:
    """Per label a rising line through points: calibrated logit over logit, flat beyond both ends.

    Attributes:
        logits: per label, the rising logits of the points.
        calibrated: per label, the calibrated logits there, never falling.
    """

    logits: tuple[tuple[float, ...], ...]
    calibrated: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        assert len(self.logits) == len(self.calibrated), "points for every label"
        for x, y in zip(self.logits, self.calibrated, strict=True):
            assert len(x) == len(y) > 0 and (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        return self._map(logits, self.logits, self.calibrated)

    def invert(self, calibrated_logits: ArrayLike) -> NDArray[np.float64]:
        """Return logits whose calibrated values are given, or are nearest to what is given."""
        # Of equal values np.interp takes the last; between unequal ones it is exact.
        return self._map(calibrated_logits, self.calibrated, self.logits)

    @staticmethod
    def _map(values: ArrayLike, x: Sequence[Any], y: Sequence[Any]) -> NDArray[np.float64]:
        columns = np.moveaxis(np.asarray(values, dtype=np.float64), -1, 0)
        return np.stack([np.interp(*lines) for lines in zip(columns, x, y, strict=True)], axis=-1)


@dataclass(frozen=True)
class ConsistentCalibration:
    """A calibrator, or none, after which the union is never below the largest of the other labels.

    Attributes:
        union: column of the label that is positive where any other is.
    """

    inner: Calibrator | None
    union: int = -1

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated logits (n, k), those of the union raised where they are too low."""
        values = np.array(logits if self.inner is None else self.inner.apply(logits), np.float64)
        values[..., self.union] = values.max(axis=-1)
        return values

    def invert(self, calibrated_logits: ArrayLike) -> NDArray[np.float64]:
        """Return logits whose calibrated values are given, where these are consistent."""
        if self.inner is None:
            return np.asarray(calibrated_logits, dtype=np.float64)
        return self.inner.invert(calibrated_logits)


def fit_calibration(
    kind: str,
    labels: ArrayLike,
    logits: ArrayLike,
    patient_ids: ArrayLike | None = None,
    label_names: Sequence[str] = (),
    shared: bool = False,
) -> Calibrator:
    """Return the calibrator of a kind (`CALIBRATORS`), fitted to rows.

    Fits are shrunk towards no change, the more the fewer patients a label's rarer class has, and a
    label stays as it is where its fit does not help other patients (`common.scoring.shrinkage`).

    Args:
        kind: `temperature` is a slope and a bias; `isotonic` is a rising step function, and where
            that does not help the line of `temperature`.
        labels: (n, k) 0, 1 or NaN.
        logits: (n, k), finite.
        patient_ids: (n,); None where each row is a patient of its own.
        label_names: (k,) for a warning of each label that stays as it is; without them there is
            none.
        shared: fit one slope and bias to all labels together first (`fit_shared_line`), which the
            fit of each label is then shrunk towards; of `temperature`.
    """
    y, z = np.asarray(labels, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    assert y.shape == z.shape and kind in CALIBRATORS, (y.shape, z.shape, kind)
    patients = number_patients(patient_ids, len(y))
    first = fit_shared_line(y, z, patients) if shared else _UNCHANGED
    kept = "left as it is" if first == _UNCHANGED else "left at the line of all labels"
    z = first[0] * z + first[1]
    lines: list[Line] = []
    points: list[Steps] = []
    for column in range(y.shape[1]):
        known = ~np.isnan(y[:, column])
        rows = LabelRows(y[known, column], z[known, column], patients[known])
        line, steps, note = _fit_label(kind, rows, kept)
        if label_names and note:
            logger.warning("%s calibration of %s: %s", kind, label_names[column], note)
        lines.append(line)
        points.append(steps)
    if kind == "isotonic":
        return IsotonicCalibration(tuple(x for x, _ in points), tuple(y for _, y in points))
    lines = [(slope * first[0], slope * first[1] + bias) for slope, bias in lines]
    return Calibration(tuple(1 / slope for slope, _ in lines), tuple(bias for _, bias in lines))


def composed(first: Calibrator | None, second: Calibration) -> Calibrator:
    """Return the calibrator that does what `first` does, None for nothing, and then `second`.

    One that makes labels consistent does so after both.
    """
    if first is None:
        return second
    if isinstance(first, ConsistentCalibration):
        return ConsistentCalibration(composed(first.inner, second), first.union)
    lines = list(zip(second.temperature, second.bias, strict=True))
    if isinstance(first, IsotonicCalibration):
        points = zip(first.calibrated, lines, strict=True)
        moved = [tuple(y / t + b for y in values) for values, (t, b) in points]
        return IsotonicCalibration(first.logits, tuple(moved))
    assert isinstance(first, Calibration)
    temperature = [t1 * t2 for t1, t2 in zip(first.temperature, second.temperature, strict=True)]
    bias = [b1 / t + b for b1, (t, b) in zip(first.bias, lines, strict=True)]
    return Calibration(tuple(temperature), tuple(bias))


def fit_shared_line(labels: Floats, logits: Floats, patients: NDArray[np.int64]) -> Line:
    """Return one slope and bias for all labels, (1, 0) where they do not help other patients.

    A rare label knows little by itself of a network that is too sure of all of them.

    Args:
        labels, logits: (n, k).
        patients: (n,) numbers.
    """
    known = ~np.isnan(labels)
    of_cells = np.broadcast_to(patients[:, None], labels.shape)[known]
    rows = LabelRows(labels[known], logits[known], of_cells)
    return fit_if_it_helps(rows, _fit_temperature, _apply_line)[0] or _UNCHANGED


def calibrator_to_json(calibrator: Calibrator | None) -> dict[str, Any] | None:
    """Return a calibrator as plain types; None for none."""
    if calibrator is None:
        return None
    if isinstance(calibrator, ConsistentCalibration):
        inner = calibrator_to_json(calibrator.inner)
        return {"kind": "consistent", "union": calibrator.union, "inner": inner}
    assert isinstance(calibrator, IsotonicCalibration | Calibration)
    kind = "isotonic" if isinstance(calibrator, IsotonicCalibration) else "temperature"
    return {"kind": kind, **asdict(calibrator)}


def calibrator_from_json(content: dict[str, Any] | None) -> Calibrator | None:
    """Return the calibrator that `calibrator_to_json` wrote."""
    if content is None:
        return None
    kind = content.get("kind", "temperature")  # predictors of before there were others lack it
    if kind == "consistent":
        return ConsistentCalibration(calibrator_from_json(content["inner"]), content["union"])
    if kind == "isotonic":
        points = (tuple(map(tuple, content[key])) for key in ("logits", "calibrated"))
        return IsotonicCalibration(*points)
    return Calibration(tuple(content["temperature"]), tuple(content["bias"]))


def _fit_label(kind: str, rows: LabelRows, instead: str) -> tuple[Line, Steps, str]:
    """Return what is fitted to a label, as a line and as steps, and what to warn of."""
    if kind == "isotonic":
        steps, reason = fit_if_it_helps(rows, _fit_isotonic, _apply_steps)
        if steps is not None:
            return _UNCHANGED, steps, ""
        line, _ = fit_if_it_helps(rows, _fit_temperature, _apply_line)
        instead = "a temperature and a bias in its place" if line else instead
    else:
        line, reason = fit_if_it_helps(rows, _fit_temperature, _apply_line)
    line = line or _UNCHANGED
    return line, _steps_of(line), reason and f"{instead}: {reason}"


def _fit_temperature(rows: LabelRows) -> Line:
    """Return the slope (1 / temperature) and the bias of one label."""
    # Rows whose logits are alike are one row with a weight: 20 times as fast with 600,000 rows.
    cells, _ = pd.factorize(np.round(rows.logits / _CELL))
    counts = np.bincount(cells).astype(np.float64)
    y, z = (np.bincount(cells, weights=values) / counts for values in (rows.labels, rows.logits))
    features, spreads = np.column_stack([z, np.ones(len(z))]), (_SLOPE_SPREAD, _BIAS_SPREAD)
    slope, bias = shrunk_logistic(y, z, features, rows.share * counts, spreads)
    # Logits that rank the wrong way would ask for a slope below 0: they are made almost flat.
    return max(1 + float(slope), _LEAST_SLOPE), float(bias)


def _apply_line(line: Line, rows: LabelRows) -> Floats:
    return line[0] * rows.logits + line[1]


def _fit_isotonic(rows: LabelRows) -> Steps:
    """Return the points of a rising step function of one label.

    The labels are mixed with the probabilities of a fitted temperature, which count like
    `_PRIOR_PATIENTS` patients of the rarer class, as the prior of a beta-binomial share does.
    """
    from sklearn.isotonic import IsotonicRegression  # takes a second to import

    z, weight = rows.logits, _PRIOR_PATIENTS / (_PRIOR_PATIENTS + rows.num_rarer)
    of_line = expit(_apply_line(_fit_temperature(rows), rows))
    mixed = (1 - weight) * rows.labels + weight * of_line
    x = np.concatenate([z, [z.min(), z.max()]])
    targets = np.concatenate([mixed, [1.0, 0.0]])
    weights = np.concatenate([np.ones(len(z)), [_END_WEIGHT, _END_WEIGHT]])
    fitted = IsotonicRegression(out_of_bounds="clip").fit(x, targets, sample_weight=weights)
    # Floating sums may leave a step at 1 + 1e-16.
    values = np.clip(fitted.y_thresholds_, 1e-12, 1 - 1e-12)
    return tuple(fitted.X_thresholds_.tolist()), tuple(logit(values).tolist())


def _apply_steps(steps: Steps, rows: LabelRows) -> Floats:
    return np.asarray(np.interp(rows.logits, *steps))


def _steps_of(line: Line) -> Steps:
    """Return the line of a slope and a bias as two points, flat where no float32 logit lies."""
    slope, bias = line
    return (-_FLAT, _FLAT), (bias - slope * _FLAT, bias + slope * _FLAT)
