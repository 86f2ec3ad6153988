"""The prediction table: one row per image and view, probabilities and logits by label name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from common.errors import InputError
from common.scoring.metrics import PROBABILITY_FLOOR, Floats
from common.tables import write_parquet
from common.words import count

ID_COLUMNS = ("image_id", "patient_id", "study_id", "series_id")
MEAN_VIEW = "mean"
SERIES_LOGIT = "series_logit_"
"""Start of the columns of what a network says of the series of a slice."""


class Calibrator(Protocol):
    """Maps logits (n, k) to calibrated ones, and back; see `common.scoring.calibration`."""

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]: ...

    def invert(self, calibrated_logits: ArrayLike) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Calibration:
    """Per-label temperature and bias: a calibrated logit is logit / temperature + bias."""

    temperature: tuple[float, ...]
    bias: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.temperature) == len(self.bias), "one temperature and one bias per label"
        assert all(value > 0 for value in self.temperature), "temperatures must be positive"

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(logits, dtype=np.float64) / self.temperature + np.asarray(self.bias)

    def invert(self, calibrated_logits: ArrayLike) -> NDArray[np.float64]:
        return (np.asarray(calibrated_logits, dtype=np.float64) - self.bias) * np.asarray(
            self.temperature
        )


def probabilities_of(logits: ArrayLike, calibration: Calibrator | None = None) -> NDArray[Any]:
    """Return float64 probabilities of (n, k) logits, calibrated where a calibration is given."""
    values = np.asarray(logits, dtype=np.float64)
    return expit(calibration.apply(values) if calibration else values)


def prior_logits(prior: ArrayLike, calibration: Calibrator | None = None) -> NDArray[np.float32]:
    """Return the (k,) float32 logits whose probability, calibration included, is `prior`."""
    values = logit(np.asarray(prior, dtype=np.float64))
    return (calibration.invert(values) if calibration else values).astype(np.float32)


def build_predictions(
    frame_rows: pd.DataFrame,
    logits: ArrayLike,
    label_names: Sequence[str],
    fold: int | None,
    experiment_id: str,
    calibration: Calibrator | None = None,
    series_logits: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return the prediction table of the n slices `frame_rows` with logits (n, k).

    The `logit_<label>` columns are the network's own, before calibration, in float32; the
    probabilities are calibrated, in float64.

    Args:
        series_logits: (n, k) of the series of each slice, where the network has its own.
    """
    values = np.asarray(logits, dtype=np.float32)
    assert values.shape == (len(frame_rows), len(label_names)), values.shape
    probabilities = probabilities_of(values, calibration)
    columns: dict[str, Any] = {name: frame_rows[name].to_numpy() for name in ID_COLUMNS}
    columns["fold"] = pd.array([fold] * len(frame_rows), dtype="Int64")
    columns["experiment_id"] = experiment_id
    columns["view"] = MEAN_VIEW
    parts = {"": probabilities, "logit_": values}
    if series_logits is not None:
        parts[SERIES_LOGIT] = np.asarray(series_logits, dtype=np.float32)
    for start, part in parts.items():
        columns |= {f"{start}{name}": part[:, k] for k, name in enumerate(label_names)}
    return pd.DataFrame(columns)


def series_probabilities(frame: pd.DataFrame, label_names: Sequence[str]) -> Floats | None:
    """Return (n, k) of the series of each row of a prediction table; None where it has none."""
    names = [f"{SERIES_LOGIT}{name}" for name in label_names]
    if not set(names) <= set(frame):
        return None
    return probabilities_of(frame[names].to_numpy(dtype=np.float64))


def check_predictions(frame: pd.DataFrame, label_names: Sequence[str], where: str) -> None:
    """Raise InputError, naming `where`, unless `frame` is a whole and finite prediction table."""
    wanted = [*ID_COLUMNS, "fold", "experiment_id", "view"]
    wanted += [*label_names, *(f"logit_{name}" for name in label_names)]
    missing = [name for name in wanted if name not in frame]
    if missing:
        raise InputError(f"{where}: not a prediction table, without column {', '.join(missing)}")
    probabilities = frame[list(label_names)].to_numpy(dtype=np.float64)
    for bad, what in (
        (frame.duplicated(["image_id", "view"]), "repeated image id in the same view"),
        (~((probabilities >= 0) & (probabilities <= 1)).all(axis=1), "probability outside [0, 1]"),
    ):
        if bad.any():
            raise InputError(f"{where}: {count(int(bad.sum()), 'row')} with a {what}")
    names = [f"{kind}{name}" for kind in ("logit_", SERIES_LOGIT) for name in label_names]
    logits = frame[[name for name in names if name in frame]].to_numpy(dtype=np.float64)
    if not np.isfinite(logits).all():
        raise InputError(f"{where}: a logit is not finite")


def write_predictions(path: Path, frame: pd.DataFrame, label_names: Sequence[str]) -> None:
    """Check a prediction table and write it as parquet, in one step."""
    check_predictions(frame, label_names, str(path))
    write_parquet(path, frame)


def read_predictions(path: Path, label_names: Sequence[str]) -> pd.DataFrame:
    """Return a checked prediction table; InputError where it is missing or unusable."""
    if not path.is_file():
        raise InputError(f"{path}: no such prediction table; train the experiment first")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error})") from error
    check_predictions(frame, label_names, str(path))
    return frame


Mean = Literal["logits", "probabilities"]


class LogitMean:
    """The mean over several predictions of the same rows, as logits.

    Args:
        mean: `logits`, or `probabilities`, whose mean becomes a logit again.
    """

    def __init__(self, mean: Mean = "logits") -> None:
        self.mean = mean
        self._total: NDArray[np.float64] | None = None
        self._num = 0

    def add(self, logits: ArrayLike) -> None:
        values = np.asarray(logits, dtype=np.float64)
        values = expit(values) if self.mean == "probabilities" else values
        self._total = values.copy() if self._total is None else self._total + values
        self._num += 1

    def result(self) -> NDArray[np.float64]:
        assert self._total is not None, "there is nothing to average"
        mean = self._total / self._num
        return mean if self.mean == "logits" else clipped_logit(mean, PROBABILITY_FLOOR)


def mean_logits(predictions: Sequence[ArrayLike], mean: Mean = "logits") -> NDArray[np.float64]:
    """Return the mean over predictions (n, labels) of the same rows; see `LogitMean`."""
    total = LogitMean(mean)
    for logits in predictions:
        total.add(logits)
    return total.result()


# Logits of members are cut to +-16: a float32 logit says no more, and one member's certainty of
# 1e-15 would outvote all others in a mean of logits.
MEMBER_FLOOR = 1e-7


def member_logits(probabilities: ArrayLike) -> Floats:
    """Return the logits of a member's probabilities, cut to those of `MEMBER_FLOOR`."""
    return clipped_logit(probabilities, MEMBER_FLOOR)


def clipped_logit(probabilities: ArrayLike, floor: float = PROBABILITY_FLOOR) -> Floats:
    """Return the logits of probabilities, cut to [floor, 1 - floor] first; as the metric cuts."""
    p = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(logit(np.clip(p, floor, 1 - floor)))
