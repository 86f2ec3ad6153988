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
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from common.scoring.predictions import Calibration, Calibrator

logger = logging.getLogger(__name__)

CALIBRATORS = ("temperature", "isotonic")
_MAX_LOG_TEMPERATURE = np.log(20.0)
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


def fit_calibration(kind: str, labels: ArrayLike, logits: ArrayLike) -> Calibrator:
    """Returns the calibrator of a kind (`CALIBRATORS`) that fits rows best.

    A label whose known rows are all of one class stays as it is.

    Args:
        kind: `temperature` minimises the log loss over temperature and bias; `isotonic` is the
            best rising step function, with half a made-up row of the other class at either end.
        labels: (n, k) 0, 1 or NaN.
        logits: (n, k), finite.
    """
    y, z = np.asarray(labels, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    assert y.shape == z.shape and kind in CALIBRATORS, (y.shape, z.shape, kind)
    columns = []
    for column in range(y.shape[1]):
        known = ~np.isnan(y[:, column])
        columns.append((y[known, column], z[known, column]))
    if kind == "temperature":
        pairs = [_fit_temperature(*pair) for pair in columns]
        return Calibration(tuple(t for t, _ in pairs), tuple(b for _, b in pairs))
    points = [_fit_isotonic(*pair) for pair in columns]
    return IsotonicCalibration(tuple(x for x, _ in points), tuple(y for _, y in points))


def calibrator_to_json(calibrator: Calibrator | None) -> dict[str, Any] | None:
    """Return a calibrator as plain types; None for none."""
    if calibrator is None:
        return None
    if isinstance(calibrator, ConsistentCalibration):
        inner = calibrator_to_json(calibrator.inner)
        return {"kind": "consistent", "union": calibrator.union, "inner": inner}
    kind = "isotonic" if isinstance(calibrator, IsotonicCalibration) else "temperature"
    assert isinstance(calibrator, IsotonicCalibration | Calibration)
    return {"kind": kind, **asdict(calibrator)}


def calibrator_from_json(content: dict[str, Any] | None) -> Calibrator | None:
    """Return the calibrator that `calibrator_to_json` wrote."""
    if content is None:
        return None
    kind = content.get("kind", "temperature")  # predictors of before there were others lack it
    if kind == "consistent":
        return ConsistentCalibration(calibrator_from_json(content["inner"]), content["union"])
    if kind == "isotonic":
        return IsotonicCalibration(
            tuple(map(tuple, content["logits"])), tuple(map(tuple, content["calibrated"]))
        )
    return Calibration(tuple(content["temperature"]), tuple(content["bias"]))


def _has_both(y: NDArray[np.float64]) -> bool:
    return len(y) > 0 and bool((y > 0.5).any()) and bool((y <= 0.5).any())


def _fit_temperature(y: NDArray[np.float64], z: NDArray[np.float64]) -> tuple[float, float]:
    """Return the temperature and the bias of one label with the least log loss."""
    if not _has_both(y):
        logger.warning("a label without both classes is not calibrated")
        return 1.0, 0.0

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale = np.exp(-parameters[0])
        u = z * scale + parameters[1]
        error = (expit(u) - y) / len(y)
        value = np.mean(np.logaddexp(0, u) - y * u)
        return float(value), np.array([-np.dot(error, z) * scale, error.sum()])

    bound = (-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE)
    options = {"ftol": 1e-13, "gtol": 1e-9, "maxiter": 500}
    found = minimize(
        loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[bound, (-20, 20)], options=options
    )
    return float(np.exp(found.x[0])), float(found.x[1])


def _fit_isotonic(
    y: NDArray[np.float64], z: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not _has_both(y):
        logger.warning("a label without both classes is not calibrated")
        return (-40.0, 40.0), (-40.0, 40.0)
    # Imported late: scikit-learn takes a second.
    from sklearn.isotonic import IsotonicRegression

    x = np.concatenate([z, [z.min(), z.max()]])
    targets = np.concatenate([y, [1.0, 0.0]])
    weights = np.concatenate([np.ones(len(y)), [_END_WEIGHT, _END_WEIGHT]])
    fitted = IsotonicRegression(out_of_bounds="clip").fit(x, targets, sample_weight=weights)
    # Floating sums may leave a step at 1 + 1e-16.
    values = np.clip(fitted.y_thresholds_, 1e-12, 1 - 1e-12)
    return tuple(fitted.X_thresholds_.tolist()), tuple(logit(values).tolist())
