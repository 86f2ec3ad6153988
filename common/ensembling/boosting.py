"""Gradient-boosted trees over the predictions of neighbouring slices, one model per label.

The idea is that of the eleventh and the third place of the RSNA 2019 challenge (appian, okotaku),
without their leaks: folds are of patients, and the number of rounds is never chosen on the fold
that is scored.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from common.ensembling.sequences import LevelInputs
from common.errors import InputError
from common.files import write_text
from common.requirements import install_command
from common.scoring.metrics import Floats

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoostingSettings:
    """How trees are grown.

    Attributes:
        num_neighbors: slices on each side whose predictions are inputs.
        num_rounds: trees per label, at most.
        patience: rounds without improvement on inner folds after which the number of trees is
            settled; 0: always `num_rounds`.
        learning_rate, num_leaves, min_leaf: of the trees; min_leaf in slices.
    """

    num_neighbors: int = 9
    num_rounds: int = 400
    patience: int = 30
    learning_rate: float = 0.03
    num_leaves: int = 15
    min_leaf: int = 40
    seed: int = 0
    num_threads: int = 1

    def parameters(self) -> dict[str, Any]:
        return {
            "objective": "binary",
            "metric": "binary_logloss",
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_leaf,
            "feature_fraction": 0.7,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 5.0,
            "seed": self.seed,
            "num_threads": self.num_threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }


@dataclass
class BoostedTrees:
    """One booster per label, of one fold.

    Attributes:
        boosters: LightGBM's, by label; None where the training rows had only one class.
        constants: the logit of each label that has no booster.
    """

    num_neighbors: int
    boosters: list[Any]
    constants: list[float]

    def predict(self, inputs: LevelInputs) -> NDArray[np.float32]:
        logits = np.empty((len(inputs), len(self.boosters)), dtype=np.float32)
        for label, (booster, constant) in enumerate(zip(self.boosters, self.constants)):
            if booster is None:
                logits[:, label] = constant
            else:
                values = label_features(inputs, label, self.num_neighbors)
                logits[:, label] = booster.predict(values, raw_score=True)
        return logits

    def save(self, folder: Path) -> dict[str, Any]:
        """Write each booster as a text file; returns the rest as JSON types."""
        for label, booster in enumerate(self.boosters):
            if booster is not None:
                write_text(folder / f"label_{label}.txt", booster.model_to_string())
        return {
            "num_neighbors": self.num_neighbors,
            "constants": self.constants,
            "has_booster": [booster is not None for booster in self.boosters],
        }

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> Self:
        """Return what `save` wrote into `folder` and returned; InputError where it is damaged."""
        require_lightgbm("this predictor")
        import lightgbm

        boosters: list[Any] = []
        for label, has_booster in enumerate(content["has_booster"]):
            path = folder / f"label_{label}.txt"
            try:
                text = path.read_text(encoding="utf-8") if has_booster else None
                boosters.append(text and lightgbm.Booster(model_str=text))
            except (OSError, UnicodeDecodeError, lightgbm.basic.LightGBMError) as error:
                advice = "copy the whole predictor folder"
                raise InputError(f"{path} can't be read as a booster: {advice}") from error
        return cls(content["num_neighbors"], boosters, list(content["constants"]))


def require_lightgbm(what: str) -> None:
    """Raise InputError, naming what needs it, where LightGBM is not installed."""
    if find_spec("lightgbm") is None:
        raise InputError(
            f"{what} needs the package lightgbm, which is not installed: "
            f"{install_command('boosting')}"
        )


def fit_boosting(
    inputs: LevelInputs,
    labels: Floats,
    folds: NDArray[np.int64],
    settings: BoostingSettings,
) -> dict[int, BoostedTrees]:
    """Return for each fold the trees that were grown on all other folds.

    The number of trees is that with the least log loss in a cross-validation within these other
    folds: the fold itself has no part in it.

    Args:
        labels: (n, k), NaN where unknown.
        folds: (n,), in which fold each was predicted.

    Raises:
        InputError: LightGBM is not installed, or there are too few folds to stop early within.
    """
    require_lightgbm("--sl_method boosting")
    known = sorted(set(folds.tolist()))
    if settings.patience and len(known) < 3:
        raise InputError(
            f"--sl_patience {settings.patience}: stopping early takes two folds beside the one "
            f"that is predicted, and there are {len(known)} in all: give --sl_patience 0"
        )
    models = {fold: BoostedTrees(settings.num_neighbors, [], []) for fold in known}
    for label, own in enumerate(labels.T):
        values = label_features(inputs, label, settings.num_neighbors)
        for fold in known:
            chosen = np.flatnonzero(~np.isnan(own) & (folds != fold))
            booster, constant = _fit_label(values[chosen], own[chosen], folds[chosen], settings)
            models[fold].boosters.append(booster)
            models[fold].constants.append(constant)
    return models


def label_features(inputs: LevelInputs, label: int, num_neighbors: int) -> NDArray[np.float32]:
    """Return what the trees of a label see of each slice, float32 (n, features).

    Per experiment the logits of the label in the slices around, those of the other labels, means
    over the series, and largest and spread of the label; then rank, relative rank, number of slices
    and share of brain. None of them is made of labels.
    """
    sequences = inputs.sequences
    num_experiments, num_labels = inputs.logits.shape[1:]
    others = [other for other in range(num_labels) if other != label]
    columns: list[NDArray] = []
    offsets = range(-num_neighbors, num_neighbors + 1)
    for experiment in range(num_experiments):
        logits = inputs.logits[:, experiment]
        columns += [sequences.shifted(logits[:, label], offset) for offset in offsets]
        columns += [logits[:, other] for other in others]
        probabilities = expit(logits)
        means = sequences.series_statistic(probabilities, "mean")
        columns += [means[:, column] for column in (label, *others)]
        own = probabilities[:, [label]]
        columns += [sequences.series_statistic(own, kind)[:, 0] for kind in ("max", "std")]
    columns += [
        sequences.places,
        sequences.places / np.maximum(sequences.sizes - 1, 1),
        sequences.sizes,
        inputs.brain_fraction,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _fit_label(
    values: NDArray[np.float32], targets: Floats, folds: NDArray[np.int64], settings: Any
) -> tuple[Any, float]:
    """Return a booster, or None and the constant logit where there is only one class."""
    import lightgbm

    if not 0 < targets.sum() < len(targets):
        least = 1 / (2 * max(len(targets), 1))
        share = float(targets.mean()) if len(targets) else 0.5
        return None, float(logit(np.clip(share, least, 1 - least)))
    parameters, num_rounds = settings.parameters(), settings.num_rounds
    inner = [
        (np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds)
    ]
    if settings.patience and len(inner) < 2:
        logger.warning(
            "a label is known in one training fold alone: %d trees, without stopping early",
            num_rounds,
        )
    elif settings.patience:
        curves: Any = lightgbm.cv(
            parameters,
            lightgbm.Dataset(values, targets),
            num_boost_round=num_rounds,
            folds=inner,
            callbacks=[lightgbm.early_stopping(settings.patience, verbose=False)],
        )
        num_rounds = int(np.argmin(curves["valid binary_logloss-mean"])) + 1
    return lightgbm.train(parameters, lightgbm.Dataset(values, targets), num_rounds), 0.0
