"""Several members' probabilities become one: means, weights and stacking, label by label.

A member is a column of probabilities per label; nothing here knows where it comes from. The result
is a logit. `fit_blender` fits on given rows; whoever scores uses others (`cross_fitting`).
"""

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from common.scoring.metrics import Floats, require_probabilities
from common.scoring.predictions import MEMBER_FLOOR, clipped_logit, member_logits

logger = logging.getLogger(__name__)

METHODS = ("mean", "geometric", "rank", "power", "weights", "stacking")
SPACES = ("probability", "logit")
# Levels of the quantiles that ranks are told by: dense at both ends, where probabilities are.
_LEVELS = expit(np.linspace(-13, 13, 521))


@dataclass(frozen=True)
class BlendOptions:
    """How members are blended.

    Attributes:
        method: one of `METHODS`. mean: of probabilities; geometric: of the odds, which is the mean
            of the logits; power: (mean of p^power)^(1/power); rank: mean of the members' ranks
            among the rows fitted on, as a probability again by the mean of their quantiles;
            weights: least log loss under the constraints; stacking: logistic regression on the
            members' logits.
        power: of `power`.
        space: of `weights`: sum of w p, or of w logit(p).
        weight_sum_min: of `weights`: the sum lies between it and 1.
        stack_c: of `stacking`: inverse strength of the ridge (scikit-learn's C).
    """

    method: str = "mean"
    power: float = 0.5
    space: str = "probability"
    weight_sum_min: float = 1.0
    stack_c: float = 1.0

    def __post_init__(self) -> None:
        assert self.method in METHODS and self.space in SPACES, (self.method, self.space)


@dataclass(frozen=True)
class Blender:
    """A blend of m members for k labels, ready for any rows.

    Attributes:
        weights: per label (k), one per member (m).
        bias: (k,), of stacking.
        quantiles: of rank: (m, k, levels) logits.
    """

    options: BlendOptions
    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    quantiles: tuple[Any, ...] = field(default=(), repr=False)

    def apply(self, members: ArrayLike) -> Floats:
        """Return the logits (n, k) of the members' probabilities (m, n, k)."""
        p = require_probabilities(members)
        w = np.array(self.weights, dtype=np.float64)
        assert p.shape[0] == w.shape[1] and p.shape[2] == w.shape[0], (p.shape, w.shape)
        blended = np.zeros(p.shape[1:])
        if self._adds_logits:
            for member, weight in zip(p, w.T, strict=True):
                blended += weight * member_logits(member)
            return blended + np.asarray(self.bias)
        if self.options.method == "rank":
            return self._by_rank(p)
        power = self.options.power if self.options.method == "power" else 1.0
        for member, weight in zip(p, w.T, strict=True):
            blended += weight * np.clip(member, MEMBER_FLOOR, 1 - MEMBER_FLOOR) ** power
        return clipped_logit(blended ** (1 / power))

    @property
    def _adds_logits(self) -> bool:
        method = self.options.method
        in_logits = method == "weights" and self.options.space == "logit"
        return in_logits or method in ("geometric", "stacking")

    def _by_rank(self, p: Floats) -> Floats:
        quantiles = np.asarray(self.quantiles, dtype=np.float64)
        blended = np.empty(p.shape[1:])
        scale = logit(_LEVELS)
        for column in range(p.shape[2]):
            levels = np.zeros(p.shape[1])
            for number, member in enumerate(p):
                values = quantiles[number, column]
                z = member_logits(member[:, column])
                # Where many rows have one value, their rank is the middle of the levels they take.
                first = np.searchsorted(values, z, side="left").clip(0, len(scale) - 1)
                last = (np.searchsorted(values, z, side="right") - 1).clip(0, len(scale) - 1)
                tied = (_LEVELS[first] + _LEVELS[last]) / 2
                smooth = expit(np.interp(z, values, scale))
                levels += np.where(last > first, tied, smooth)
            mean_quantiles = quantiles[:, column].mean(axis=0)
            blended[:, column] = np.interp(clipped_logit(levels / len(p)), scale, mean_quantiles)
        return blended

    def to_json(self) -> dict[str, Any]:
        quantiles = np.asarray(self.quantiles, dtype=np.float64).tolist()
        return {**asdict(self), "quantiles": quantiles}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Blender":
        return cls(
            BlendOptions(**content["options"]),
            tuple(map(tuple, content["weights"])),
            tuple(content["bias"]),
            tuple(content["quantiles"]),
        )


def fit_blender(options: BlendOptions, members: Floats, labels: Floats) -> Blender:
    """Return the blend that `options` ask for, fitted on n rows.

    A label of which no row, or only one class, is known gets equal weights.

    Args:
        members: (m, n, k) probabilities.
        labels: (n, k) 0, 1 or NaN; only `weights` and `stacking` look at them.
    """
    num_members, _, num_labels = require_probabilities(members).shape
    equal = (1 / num_members,) * num_members
    weights, bias = [equal] * num_labels, [0.0] * num_labels
    quantiles: tuple[Any, ...] = ()
    if options.method == "rank":
        quantiles = tuple(np.quantile(member_logits(p), _LEVELS, axis=0).T for p in members)
    elif options.method in ("weights", "stacking"):
        for column in range(num_labels):
            known = ~np.isnan(labels[:, column])
            y = labels[known, column]
            if len(np.unique(y)) < 2:
                logger.warning("a label without both classes has equal weights")
                continue
            p = np.ascontiguousarray(members[:, known, column].T)
            if options.method == "weights":
                weights[column] = tuple(fit_weights(options, p, y).tolist())
            else:
                found, bias[column] = fit_stack(p, y, options.stack_c)
                weights[column] = tuple(found.tolist())
    return Blender(options, tuple(weights), tuple(bias), quantiles)


def fit_weights(options: BlendOptions, probabilities: Floats, labels: Floats) -> Floats:
    """Return the (m,) weights of one label with the least log loss under the constraints.

    They are at least 0 and their sum is between weight_sum_min and 1. The loss is convex in either
    space.

    Args:
        probabilities: (n, m).
        labels: (n,) 0 or 1.
    """
    num_members = probabilities.shape[1]
    if num_members == 1 and options.weight_sum_min == 1:
        return np.ones(1)
    sign = np.where(labels > 0.5, 1.0, -1.0)
    in_logits = options.space == "logit"
    x = member_logits(probabilities) if in_logits else np.clip(
        probabilities, MEMBER_FLOOR, 1 - MEMBER_FLOOR
    )  # fmt: skip
    negative = (sign < 0).astype(np.float64)

    def loss(w: Floats) -> tuple[float, Floats]:
        s = x @ w
        if in_logits:
            margin = sign * s
            value = float(np.logaddexp(0, -margin).mean())
            slope = -sign * expit(-margin)
        else:
            right = np.maximum(negative + sign * s, 1e-12)
            value = float(-np.log(right).mean())
            slope = -sign / right
        return value, (slope @ x) / len(labels)

    from scipy.optimize import minimize  # slow to import, and for fits alone

    start = np.full(num_members, 1 / num_members)
    scale = loss(start)[0]

    def scaled(w: Floats) -> tuple[float, Floats]:
        value, gradient = loss(w)
        return value / scale, gradient / scale

    ones, least = np.ones(num_members), options.weight_sum_min
    constraints: Any = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: ones}
    if least != 1:
        constraints = [
            {"type": "ineq", "fun": lambda w: 1 - w.sum(), "jac": lambda w: -ones},
            {"type": "ineq", "fun": lambda w: w.sum() - least, "jac": lambda w: ones},
        ]
    found = minimize(
        scaled,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * num_members,
        constraints=constraints,
        options={"ftol": 1e-10, "maxiter": 200},
    )
    if not found.success:
        logger.warning("weights did not settle (%s): the best ones found are used", found.message)
    w = np.clip(found.x, 0, 1)
    return w * np.clip(w.sum(), options.weight_sum_min, 1) / w.sum()


def fit_stack(probabilities: Floats, labels: Floats, stack_c: float) -> tuple[Floats, float]:
    """Return coefficients (m,) and bias of a ridge logistic regression on the members' logits.

    Args:
        probabilities: (n, m).
        labels: (n,) 0 or 1.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    model = LogisticRegression(C=stack_c, max_iter=500, tol=1e-6)
    model.fit(member_logits(probabilities), labels > 0.5)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def correlations(members: Floats) -> Floats:
    """Return the Pearson correlations (k, m, m) of the members' values (m, n, k).

    A label's are over the rows that know it, NaN where these are fewer than two or a member is
    constant. Of the probabilities they say how alike members are, of probability - label how alike
    their errors.
    """
    num_members, _, num_labels = members.shape
    found = np.full((num_labels, num_members, num_members), np.nan)
    for column in range(num_labels):
        values = members[:, :, column]
        values = values[:, ~np.isnan(values).any(axis=0)]
        if values.shape[1] > 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                found[column] = np.corrcoef(values)
    return found
