import json

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import gmean

from common.ensembling.blending import (
    METHODS,
    Blender,
    BlendOptions,
    correlations,
    fit_blender,
    fit_stack,
    fit_weights,
)
from common.scoring.metrics import log_loss
from common.scoring.predictions import MEMBER_FLOOR


def drawn(num_members: int = 3, num_rows: int = 3000, num_labels: int = 2, seed: int = 0):
    """Probabilities of members with more and more noise (m, n, k), and labels (n, k)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1.5, (num_rows, num_labels))
    labels = (rng.random(truth.shape) < expit(truth)).astype(float)
    noise = 0.5 + 0.4 * np.arange(num_members)[:, None, None]
    return expit(truth + rng.normal(0, 1, (num_members, *truth.shape)) * noise), labels


def blended(members, labels, **options):
    return expit(fit_blender(BlendOptions(**options), members, labels).apply(members))


def test_means_are_what_their_names_say():
    members, labels = drawn()
    np.testing.assert_allclose(blended(members, labels, method="mean"), members.mean(axis=0))
    odds = gmean(members / (1 - members), axis=0)
    np.testing.assert_allclose(blended(members, labels, method="geometric"), odds / (1 + odds))
    for power in (0.3, 2.0):
        expected = np.mean(members**power, axis=0) ** (1 / power)
        np.testing.assert_allclose(blended(members, labels, method="power", power=power), expected)
    np.testing.assert_allclose(
        blended(members, labels, method="power", power=1.0), members.mean(axis=0)
    )


def test_a_rank_mean_keeps_what_agrees_and_the_scale_of_probabilities():
    members, labels = drawn(1)
    twice = np.concatenate([members, members])
    np.testing.assert_allclose(blended(twice, labels, method="rank"), members[0], rtol=0.02)
    # A member on another scale has the same ranks: only the quantiles' mean changes.
    other = expit(3 * logit(members) - 2)
    found = blended(np.concatenate([members, other]), labels, method="rank")
    order = np.argsort(members[0], axis=0)
    assert (np.diff(np.take_along_axis(found, order, axis=0), axis=0) >= -1e-9).all()
    middle = expit((logit(members[0]) + logit(other[0])) / 2)
    inside = (middle > 1e-3) & (middle < 0.9)
    np.testing.assert_allclose(found[inside], middle[inside], rtol=0.03)


def test_ranks_of_many_equal_values_are_in_their_middle():
    members, labels = drawn(2)
    members[:, :2500] = 0.01
    found = blended(members, labels, method="rank")
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:2500], 0.01, rtol=0.05)


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_weights_of_two_members_are_those_of_a_grid(space):
    members, labels = drawn(2)
    p, y = members[:, :, 0].T, labels[:, 0]
    found = fit_weights(BlendOptions("weights", space=space), p, y)
    grid = np.linspace(0, 1, 2001)
    values = logit(p) if space == "logit" else p
    mixed = values[:, :1] * grid + values[:, 1:] * (1 - grid)
    told = expit(mixed) if space == "logit" else mixed
    best = grid[np.argmin([log_loss(y, told[:, column]) for column in range(len(grid))])]
    assert found[0] == pytest.approx(best, abs=2e-3) and found.sum() == pytest.approx(1, abs=1e-9)


def test_a_sum_below_1_is_taken_where_it_is_allowed():
    members, labels = drawn(2)
    y = labels[:, 0] * (np.arange(len(labels)) % 3 > 0)  # rarer than the members say
    p = members[:, :, 0].T
    found = fit_weights(BlendOptions("weights", weight_sum_min=0.9), p, y)
    assert found.sum() == pytest.approx(0.9, abs=1e-6) and (found >= 0).all()

    def loss(w):
        return log_loss(y, p @ w)

    grid = np.linspace(0, 1, 41)
    allowed = [(a, b) for a in grid for b in grid if 0.9 <= a + b <= 1]
    assert loss(found) <= min(map(loss, allowed)) + 1e-9


def test_a_useless_member_gets_no_weight():
    members, labels = drawn(2)
    members[1] = np.random.default_rng(5).permutation(members[1])
    blender = fit_blender(BlendOptions("weights"), members, labels)
    assert all(weights[0] > 0.9 for weights in blender.weights)


def test_stacking_is_the_minimum_of_the_penalised_loss():
    members, labels = drawn(3, 600)
    p, y = members[:, :, 0].T, labels[:, 0]
    weights, bias = fit_stack(p, y, 0.05)
    z = logit(p)

    def loss(parameters):
        u = z @ parameters[:3] + parameters[3]
        return 0.05 * np.sum(np.logaddexp(0, u) - y * u) + 0.5 * np.sum(parameters[:3] ** 2)

    reference = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose([*weights, bias], reference.x, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_survives_json_and_is_finite_at_the_ends(method):
    members, labels = drawn(2, 400)
    labels[:50, 0] = np.nan
    labels[:, 1] = 0.0
    members[:, :3] = np.array([0.0, 1.0, 1e-30])[None, :, None]
    blender = fit_blender(BlendOptions(method), members, labels)
    logits = blender.apply(members)
    assert logits.shape == (400, 2) and np.isfinite(logits).all()
    again = Blender.from_json(json.loads(json.dumps(blender.to_json())))
    np.testing.assert_array_equal(again.apply(members), logits)
    if method in ("weights", "stacking"):
        assert blender.weights[1] == (0.5, 0.5)


@pytest.mark.parametrize(
    ("options", "bias"),
    [
        (BlendOptions("mean"), 0.0),
        (BlendOptions("power", power=0.3), 0.0),
        (BlendOptions("power"), 0.0),
        (BlendOptions("weights"), 0.0),
        (BlendOptions("weights", power=3.0), 0.0),
        (BlendOptions("weights", space="logit"), 0.0),
        (BlendOptions("geometric"), 0.0),
        (BlendOptions("geometric", space="logit"), 0.0),
        (BlendOptions("stacking"), 0.7),
    ],
)
def test_a_blend_equals_its_formula_value_by_value(options, bias):
    members, _ = drawn(3, 20)
    members[:, 0, 0] = [0.0, 1.0, 1e-9]
    weights = ((0.5, 0.2, 0.3), (0.1, 0.0, 0.9))
    found = Blender(options, weights, (bias, 2 * bias)).apply(members)
    adds_logits = options.method in ("geometric", "stacking") or options.space == "logit"
    power = options.power if options.method == "power" else 1
    for row in range(20):
        for label in range(2):
            total = 0.0
            for member in range(3):
                p = min(max(members[member, row, label], MEMBER_FLOOR), 1 - MEMBER_FLOOR)
                value = np.log(p / (1 - p)) if adds_logits else p**power
                total += weights[label][member] * value
            if adds_logits:
                expected = total + bias * (1 + label)
            else:
                mean = total ** (1 / power)
                expected = np.log(mean / (1 - mean))
            assert found[row, label] == pytest.approx(expected, rel=1e-9)


def test_the_defaults_are_a_plain_mean():
    options = BlendOptions()
    assert (options.method, options.power, options.space) == ("mean", 0.5, "probability")
    assert (options.weight_sum_min, options.stack_c) == (1.0, 1.0)


@pytest.mark.parametrize("space", ["probability", "logit"])
@pytest.mark.parametrize("weight_sum_min", [1.0, 0.8, 0.0])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_weights_are_the_best_of_all_that_are_allowed(space, weight_sum_min, share):
    """Three members of one label, some of whose positives are taken away, against a grid."""
    members, labels = drawn(3, 400, 1, seed=3)
    y = labels[:, 0] * (np.arange(400) % 10 < 10 * share)
    p = members[:, :, 0].T
    found = fit_weights(BlendOptions("weights", space=space, weight_sum_min=weight_sum_min), p, y)
    assert (found >= 0).all()
    assert weight_sum_min - 1e-6 <= found.sum() <= 1 + 1e-6
    values = logit(p) if space == "logit" else p

    def loss(w):
        mixed = expit(values @ w) if space == "logit" else values @ w
        return log_loss(y, mixed)

    grid = np.linspace(0, 1, 21)
    allowed = [
        (a, b, c)
        for a in grid for b in grid for c in grid
        if weight_sum_min - 1e-9 <= a + b + c <= 1 + 1e-9
    ]  # fmt: skip
    assert loss(found) <= min(map(loss, allowed)) + 1e-7


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_a_member_that_would_help_with_a_negative_weight_has_none(space):
    """The third is the noise of the first alone: what is best is a corner of what is allowed."""
    rng = np.random.default_rng(4)
    truth, noise, other = rng.normal(0, 1, (3, 2000))
    y = (rng.random(2000) < expit(truth)).astype(float)
    p = expit(np.stack([truth + 2 * noise, truth + 2 * other, 2 * noise], axis=1))
    found = fit_weights(BlendOptions("weights", space=space), p, y)
    values = logit(p) if space == "logit" else p

    def loss(weight):
        mixed = values[:, 0] * weight + values[:, 1] * (1 - weight)
        return log_loss(y, expit(mixed) if space == "logit" else mixed)

    grid = np.linspace(0, 1, 1001)
    best = grid[np.argmin([loss(weight) for weight in grid])]
    assert found == pytest.approx([best, 1 - best, 0], abs=2e-3)


def test_one_member_keeps_its_weight_or_takes_the_best_allowed():
    members, labels = drawn(1, 500, 1)
    p, y = members[:, :, 0].T, labels[:, 0]
    assert fit_weights(BlendOptions("weights"), p, y).tolist() == [1.0]
    rare = y * (np.arange(500) % 4 == 0)
    found = fit_weights(BlendOptions("weights", weight_sum_min=0.2), p, rare)
    grid = np.linspace(0.2, 1, 1601)
    best = grid[np.argmin([log_loss(rare, w * p[:, 0]) for w in grid])]
    assert 0.2 < best < 1 and found == pytest.approx([best], abs=2e-3)


@pytest.mark.parametrize("method", ["weights", "stacking"])
def test_each_label_is_fitted_on_the_rows_that_know_it(method, caplog):
    members, labels = drawn(3, 300, 3)
    labels[::3, 0] = np.nan
    labels[:, 1] = np.where(np.arange(300) < 5, np.nan, 1.0)
    options = BlendOptions(method, stack_c=0.2)
    blender = fit_blender(options, members, labels)
    for column in (0, 2):
        known = ~np.isnan(labels[:, column])
        p, y = members[:, known, column].T, labels[known, column]
        weights, bias = fit_weights(options, p, y), 0.0
        if method == "stacking":
            weights, bias = fit_stack(p, y, 0.2)
        np.testing.assert_allclose(blender.weights[column], weights, rtol=1e-9)
        assert blender.bias[column] == pytest.approx(bias)
    assert blender.weights[1] == (1 / 3,) * 3 and blender.bias[1] == 0.0
    assert caplog.text.count("a label without both classes has equal weights") == 1


def test_correlations_are_pearsons():
    members, _ = drawn(3)
    found = correlations(members)
    assert found.shape == (2, 3, 3)
    x, y = members[0, :, 1], members[2, :, 1]
    expected = np.mean((x - x.mean()) * (y - y.mean())) / (x.std() * y.std())
    assert found[1, 0, 2] == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_correlations_are_over_the_rows_that_know_the_label():
    members, labels = drawn(3, num_labels=3)
    labels[::3, 0], labels[:, 1], labels[1:, 2] = np.nan, np.nan, np.nan
    found = correlations(members - labels)
    known = ~np.isnan(labels[:, 0])
    np.testing.assert_allclose(found[0], np.corrcoef(members[:, known, 0] - labels[known, 0]))
    assert np.isnan(found[1:]).all()
    assert correlations(members[:1]).shape == (3, 1, 1)


@pytest.mark.parametrize("method", ["mean", "geometric", "power", "rank"])
def test_the_order_of_rows_changes_no_blend(method):
    members, labels = drawn(2, 400)
    members = np.round(members, 1)  # many equal values
    found = blended(members, labels, method=method)
    order = np.random.default_rng(3).permutation(400)
    np.testing.assert_array_equal(
        blended(members[:, order], labels[order], method=method), found[order]
    )
    for row in range(1, 400):
        equal = (members[:, :, 0] == members[:, [row], 0]).all(axis=0)
        assert np.unique(found[equal, 0]).size == 1


def test_ranks_of_equal_values_are_their_mean_rank():
    rng = np.random.default_rng(4)
    members = rng.choice([0.02, 0.3, 0.9], (2, 500, 1), p=[0.5, 0.3, 0.2])
    found = blended(members, np.zeros((500, 1)), method="rank")[:, 0]
    ranks = [
        [(p < value).mean() + (p == value).mean() / 2 for value in p] for p in members[:, :, 0]
    ]
    mean = np.mean(ranks, axis=0)
    quantiles = [logit(np.quantile(p, mean)) for p in members[:, :, 0]]
    np.testing.assert_allclose(logit(found), np.mean(quantiles, axis=0), atol=0.35)
    higher = mean[:, None] > mean + 1e-9
    assert (found[:, None] >= found - 1e-12)[higher].all()


@pytest.mark.parametrize("method", METHODS)
def test_nan_of_a_member_is_an_error(method):
    members, labels = drawn(2, 200)
    blender = fit_blender(BlendOptions(method), members, labels)
    members[1, 7, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        blender.apply(members)
    with pytest.raises(ValueError, match="NaN"):
        fit_blender(BlendOptions(method), members, labels)
