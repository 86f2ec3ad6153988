import numpy as np
import pytest
from scipy import stats

from common.scoring import metrics
from common.statistics import intervals as intervals_module
from common.statistics.intervals import MIN_POSITIVE_PATIENTS, paired_interval, patient_intervals

NAMES = ("a", "any")
WEIGHTS = (1.0, 2.0)
LOSS, TO_PRIOR = "weighted_log_loss", "weighted_log_loss_to_prior"
TO_SCORED = "weighted_log_loss_to_scored_prior"


def correlated_set(seed: int, num_patients: int = 40, num_slices: int = 10):
    """Labels and probabilities of patients with different numbers of slices, with ties."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), rng.integers(2, num_slices, num_patients))
    tendency = rng.random((num_patients, 2))[patients]
    labels = (rng.random((len(patients), 2)) < tendency).astype(float)
    probabilities = np.clip(
        np.round(0.5 * tendency + 0.5 * rng.random(labels.shape), 2), 0.01, 0.99
    )
    labels[5:9, 0] = np.nan
    shuffled = rng.permutation(len(patients))
    return labels[shuffled], probabilities[shuffled], patients[shuffled]


def intervals(labels, probabilities, patients, **options):
    return patient_intervals(
        labels,
        probabilities,
        patients,
        label_names=NAMES,
        weights=WEIGHTS,
        **{"prior": np.array([0.3, 0.4])} | options,
    )


def with_positive_patients(num_positive: int, num_patients: int = 30):
    labels, probabilities, patients = correlated_set(7, num_patients)
    labels[(patients >= num_positive) | np.isnan(labels).any(axis=1)] = 0
    for patient in range(num_positive):
        labels[np.flatnonzero(patients == patient)[0]] = 1
    return labels, probabilities, patients


def left_out(patients, value_of):
    """The value of the rows without each patient, by a plain loop."""
    return np.array([value_of(patients != patient) for patient in np.unique(patients)])


def half_width(values, num_positive, level=0.95):
    """t times the jackknife's standard error, term by term."""
    num, mean = len(values), sum(values) / len(values)
    squares = [(value - mean) ** 2 for value in values]
    num_effective = sum(squares) ** 2 / sum(square**2 for square in squares)
    freedom = min(num_effective - 1, num_positive - 1)
    return stats.t.ppf((1 + level) / 2, freedom) * np.sqrt((num - 1) / num * sum(squares))


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("few", [False, True])
def test_intervals_of_losses_equal_those_of_a_loop_that_leaves_patients_out(few, level):
    y, p, patients = with_positive_patients(6, 40) if few else correlated_set(2)
    prior = np.broadcast_to([0.3, 0.4], y.shape)
    found = intervals(y, p, patients, level=level)
    num_positive = sum((y[patients == patient] == 1).any() for patient in range(40))
    paired = paired_interval(y, p, prior, patients, WEIGHTS, level=level)
    assert (found["num_patients"], found["num_positive_patients"]) == (40, num_positive)
    assert found["level"] == level and num_positive < 40

    def losses_of(rows):
        scored = np.broadcast_to(metrics.training_prior(y[rows]), y[rows].shape)
        own = metrics.weighted_log_loss(y[rows], p[rows], WEIGHTS)
        of_prior = metrics.weighted_log_loss(y[rows], prior[rows], WEIGHTS)
        of_scored = metrics.weighted_log_loss(y[rows], scored, WEIGHTS)
        return own, own / of_prior, own / of_scored, of_prior - own

    whole = losses_of(slice(None))
    without = left_out(patients, losses_of)
    for place, key in enumerate((LOSS, TO_PRIOR, TO_SCORED)):
        half = half_width(np.log(without[:, place]), num_positive, level)
        expected = [whole[place] * np.exp(-half), whole[place] * np.exp(half)]
        np.testing.assert_allclose(found[key], expected, rtol=1e-9)
        assert found["reason"][key] is None
    half = half_width(without[:, 3], num_positive, level)
    np.testing.assert_allclose(paired["interval"], [whole[3] - half, whole[3] + half], rtol=1e-9)


def test_a_difference_is_positive_where_the_others_are_worse():
    y, p, patients = correlated_set(3)
    worse = np.clip(p + np.where(y == 1, -0.3, 0.3), 0.01, 0.99)
    found = paired_interval(y, p, worse, patients, WEIGHTS)
    other_way = paired_interval(y, worse, p, patients, WEIGHTS)
    expected = metrics.weighted_log_loss(y, worse, WEIGHTS)
    expected -= metrics.weighted_log_loss(y, p, WEIGHTS)
    assert found["difference"] == pytest.approx(expected, abs=1e-12)
    assert found["interval"][0] > 0 and other_way["interval"][1] < 0
    np.testing.assert_allclose(other_way["interval"], -np.array(found["interval"])[::-1])
    same = paired_interval(y, p, p, patients, WEIGHTS)
    assert (same["difference"], same["interval"]) == (0, [0, 0])


def loop_area(y, p, patients, level):
    """The interval of an AUC by loops over pairs of slices and over a grid of areas."""
    positives, negatives = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    won = np.array([[(p[i] > p[j]) + (p[i] == p[j]) / 2 for j in negatives] for i in positives])
    area, num_known = won.mean(), len(np.unique(patients[~np.isnan(y)]))
    by_positive, by_negative = {}, {}
    for patient in np.unique(patients):
        mine = [k for k, row in enumerate(positives) if patients[row] == patient]
        theirs = [k for k, row in enumerate(negatives) if patients[row] == patient]
        if mine:
            by_positive[patient] = sum(won[k].mean() - area for k in mine), len(mine)
        if theirs:
            by_negative[patient] = sum(won[:, k].mean() - area for k in theirs), len(theirs)
    sizes, variances, kish = [], [], []
    for own, rows in ((by_positive, positives), (by_negative, negatives)):
        sizes.append(len(own))
        variances.append(
            len(own) / (len(own) - 1) * sum(s**2 for s, _ in own.values()) / len(rows) ** 2
        )
        kish.append(sum(n for _, n in own.values()) ** 2 / sum(n**2 for _, n in own.values()))
    both = sum(s * by_negative[k][0] for k, (s, _) in by_positive.items() if k in by_negative)
    variance = sum(variances) + 2 * num_known / (num_known - 1) * both / won.size
    t = stats.t.ppf((1 + level) / 2, min(sizes) - 1)
    z = stats.norm.ppf((1 + level) / 2)
    a = np.linspace(0, 1, 200001)
    star = (kish[0] + kish[1]) / 2 - 1
    model = a * (1 - a) / (kish[0] * kish[1])
    model = model * (1 + star * (1 - a) / (2 - a) + star * a / (1 + a))
    inside = a[(area - a) ** 2 <= np.maximum(t**2 * variance, z**2 * model)]
    return [inside[0], inside[-1]]


@pytest.mark.parametrize(
    ("seed", "num_patients", "level"), [(0, 4, 0.95), (1, 8, 0.95), (2, 30, 0.8), (3, 3, 0.95)]
)
def test_the_interval_of_an_area_equals_that_of_loops(seed, num_patients, level):
    y, p, patients = correlated_set(seed, num_patients)
    found = intervals(y, p, patients, level=level)["auc"]
    for column, name in enumerate(NAMES):
        expected = loop_area(y[:, column], p[:, column], patients, level)
        np.testing.assert_allclose(found[name], expected, atol=6e-6)


def test_deviations_count_where_patients_differ_more_than_the_model_says():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 10)
    y = np.tile(np.repeat([0.0, 1.0], 5), 60)
    good = patients % 2 == 0
    p = np.where(good == (y == 1), 0.9, 0.1) + 0.01 * rng.random(len(y))
    labels, probabilities = np.stack([y, y], axis=1), np.stack([p, p], axis=1)
    found = intervals(labels, probabilities, patients)["auc"]["any"]
    np.testing.assert_allclose(found, loop_area(y, p, patients, 0.95), atol=6e-6)


def test_a_perfect_ranking_ends_at_1_and_a_reversed_one_begins_at_0():
    y, _, patients = with_positive_patients(4)
    found = intervals(y, 0.1 + 0.8 * y, patients)["auc"]["any"]
    assert found[1] == 1 and 0.3 < found[0] < 0.8
    turned = intervals(y, 0.9 - 0.8 * y, patients)["auc"]["any"]
    np.testing.assert_allclose(turned, [0, 1 - found[0]], atol=1e-9)


def test_more_slices_of_the_same_patients_do_not_narrow_the_interval():
    once = correlated_set(3)
    thrice = [np.concatenate([part] * 3) for part in once]
    one, three = intervals(*once), intervals(*thrice)
    for key in (LOSS, TO_PRIOR):
        np.testing.assert_allclose(three[key], one[key])
    np.testing.assert_allclose(three["auc"]["any"], one["auc"]["any"])


@pytest.mark.parametrize("num_positive", [0, 1, 2, 4, 5])
def test_an_interval_needs_its_number_of_positive_patients(num_positive):
    y, p, patients = with_positive_patients(num_positive)
    found = intervals(y, p, patients)
    paired = paired_interval(y, p, p**2, patients, WEIGHTS)
    assert found["num_positive_patients"] == num_positive
    reason = f"{num_positive} positive patient{'' if num_positive == 1 else 's'}, at least "
    for key, value, why in (
        *((key, found[key], found["reason"][key]) for key in (LOSS, TO_PRIOR, TO_SCORED)),
        ("auc", found["auc"]["any"], found["reason"]["auc"]["any"]),
        ("difference", paired["interval"], paired["reason"]),
    ):
        least = MIN_POSITIVE_PATIENTS[key]
        if num_positive < least:
            assert value is None and why == f"{reason}{least} needed"
        else:
            assert value[0] < value[1] and why is None


def test_an_area_needs_patients_with_negative_slices_as_well():
    y, p, patients = correlated_set(5, 12)
    y[:] = 1
    y[np.flatnonzero(patients == 3)[:2]] = 0
    found = intervals(y, p, patients)
    assert found["auc"]["any"] is None
    assert found["reason"]["auc"]["any"] == "1 negative patient, at least 2 needed"


def test_patients_without_a_known_label_are_none():
    y, p, patients = correlated_set(4)
    before = intervals(y, p, patients)
    unknown = np.full((7, 2), np.nan)
    more = np.concatenate([y, unknown]), np.concatenate([p, np.full((7, 2), 0.5)])
    after = intervals(*more, np.concatenate([patients, np.full(7, 99)]))
    assert after == before


def test_what_is_undefined_has_no_interval_and_says_why():
    y, p, patients = correlated_set(4)
    y[:, 0] = np.nan
    found = intervals(y, p, patients)
    assert found[LOSS] is found[TO_PRIOR] is found[TO_SCORED] is found["auc"]["a"] is None
    assert found["reason"][LOSS] == "a label has no known row"
    assert found["auc"]["any"] is not None
    y[patients == 3, 0] = 0
    found = intervals(y, p, patients)
    assert found[LOSS] is None
    assert found["reason"][LOSS] == "all known rows of a label are of one patient"
    nothing = intervals(np.full_like(y, np.nan), p, patients)
    assert nothing[LOSS] is None and nothing["num_patients"] == 0
    paired = paired_interval(np.full_like(y, np.nan), p, p, patients, WEIGHTS)
    assert paired["difference"] is paired["interval"] is None


def test_a_loss_that_one_patient_makes_has_no_end_below_the_largest_loss():
    y, p, patients = with_positive_patients(6)
    p = np.clip(np.abs(y - 1e-3), 1e-3, 1 - 1e-3)
    p[patients == 0] = 1 - p[patients == 0]
    low, high = intervals(y, p, patients)[LOSS]
    assert 0 <= low < 0.05
    assert high == pytest.approx(-np.log1p(-(1 - 1e-15)))


def test_the_worst_of_all_predictions_is_within_its_interval():
    """1 is clipped a little nearer to 1 than 0 to 0, so that a certain false alarm costs most."""
    y, _, patients = with_positive_patients(6)
    found = intervals(y, 1 - y, patients)
    loss = metrics.weighted_log_loss(y, 1 - y, WEIGHTS)
    prior = metrics.weighted_log_loss(y, np.broadcast_to([0.3, 0.4], y.shape), WEIGHTS)
    for (low, high), value in ((found[LOSS], loss), (found[TO_PRIOR], loss / prior)):
        assert low <= value <= high


def test_a_constant_that_is_the_prior_has_the_ratio_1():
    y, _, patients = correlated_set(1)
    p = np.broadcast_to([0.3, 0.4], y.shape)
    assert intervals(y, p, patients)[TO_PRIOR] == [1, 1]


def test_nan_is_an_error_that_names_the_label():
    y, p, patients = correlated_set(1)
    p[2:5, 1] = np.nan
    with pytest.raises(ValueError, match=r"3 of \d+ rows .*NaN.* for label any$"):
        intervals(y, p, patients)
    sound = np.full_like(p, 0.5)
    for pair in ((p, sound), (sound, p)):
        with pytest.raises(ValueError, match=r"3 of .* NaN"):
            paired_interval(y, *pair, patients, WEIGHTS)


def test_every_kind_has_its_least_number_in_one_place():
    kinds = {LOSS, TO_PRIOR, TO_SCORED, "auc", "difference"}
    assert set(intervals_module.MIN_POSITIVE_PATIENTS) == kinds


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_scored_prior_of_a_label_of_one_class_is_half_a_row_from_it(value):
    """The mean by hand; patients are left out one after the other as with any other label."""
    y, p, patients = correlated_set(2)
    y[:, 0] = value
    found = intervals(y, p, patients)[TO_SCORED]

    def ratio(rows):
        scored = np.broadcast_to(metrics.training_prior(y[rows]), y[rows].shape)
        own = metrics.weighted_log_loss(y[rows], p[rows], WEIGHTS)
        return own / metrics.weighted_log_loss(y[rows], scored, WEIGHTS)

    num_positive = sum((y[patients == patient] == 1).any() for patient in range(40))
    half = half_width(np.log(left_out(patients, ratio)), num_positive)
    whole = ratio(slice(None))
    np.testing.assert_allclose(found, [whole * np.exp(-half), whole * np.exp(half)], rtol=1e-9)
