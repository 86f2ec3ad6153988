import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from common.scoring import metrics

WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 2.0)
NAMES = ("a", "b", "c", "d", "e", "any")


def random_set(seed: int, num_rows: int = 200, num_labels: int = 6, decimals: int = 2):
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_rows, num_labels)) < 0.3).astype(float)
    # Rounding makes ties.
    probabilities = np.round(rng.beta(0.5, 1.0, (num_rows, num_labels)), decimals)
    return labels, probabilities


@pytest.mark.parametrize("seed", range(5))
def test_weighted_log_loss_equals_sklearn_over_all_rows_with_sample_weights(seed):
    labels, probabilities = random_set(seed)
    clipped = np.clip(probabilities, 1e-15, 1 - 1e-15)
    stacked = np.stack([1 - clipped.ravel(), clipped.ravel()], axis=1)
    expected = reference.log_loss(
        labels.ravel(), stacked, sample_weight=np.tile(WEIGHTS, len(labels)), labels=[0, 1]
    )
    assert metrics.weighted_log_loss(labels, probabilities, WEIGHTS) == pytest.approx(
        expected, abs=1e-12
    )


def test_weighted_log_loss_of_known_values():
    ones = np.ones((10, 6))
    assert metrics.weighted_log_loss(ones, ones * 0.5, WEIGHTS) == pytest.approx(np.log(2))
    assert metrics.weighted_log_loss(ones, ones * 0, WEIGHTS) == pytest.approx(15 * np.log(10))
    assert metrics.weighted_log_loss(1 - ones, ones * 0, WEIGHTS) == pytest.approx(1e-15)
    only_any_wrong = np.ones((10, 6))
    only_any_wrong[:, 5] = 0.5
    assert metrics.weighted_log_loss(ones, only_any_wrong, WEIGHTS) == pytest.approx(
        2 / 7 * np.log(2)
    )


def test_prior_of_the_challenge_gives_its_published_baseline():
    # Stage-1 counts of 674,258 images, and 0.2320 for their constant (RSNA 2019).
    counts = np.array([2761, 32564, 23766, 32122, 42496, 97103])
    share = counts / 674258
    losses = -(share * np.log(share) + (1 - share) * np.log1p(-share))
    labels = np.zeros((674258, 6), dtype=np.float32)
    for column, count in enumerate(counts):
        labels[:count, column] = 1
    prior = metrics.training_prior(labels)
    loss = metrics.weighted_log_loss(labels, np.broadcast_to(prior, labels.shape), WEIGHTS)
    assert loss == pytest.approx(np.dot(losses, WEIGHTS) / 7, abs=1e-9)
    assert round(loss, 4) == 0.2320


@pytest.mark.parametrize("seed", range(5))
def test_curves_and_areas_equal_sklearn(seed):
    labels, probabilities = random_set(seed, num_labels=1)
    y, p = labels[:, 0], probabilities[:, 0]
    assert metrics.auc(y, p) == pytest.approx(reference.roc_auc_score(y, p), abs=1e-12)
    assert metrics.average_precision(y, p) == pytest.approx(
        reference.average_precision_score(y, p), abs=1e-12
    )
    fpr, tpr, _ = reference.roc_curve(y, p, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc_curve(y, p), (fpr, tpr), atol=1e-12)
    precision, recall, _ = reference.precision_recall_curve(y, p)
    np.testing.assert_allclose(
        metrics.precision_recall_curve(y, p),
        (recall[::-1][1:], precision[::-1][1:]),
        atol=1e-12,
    )


scored = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, np.nan]), st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])),
    max_size=25,
)


@given(scored, st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_metrics_of_one_label_equal_plain_loops(pairs, threshold):
    y, p = np.array(pairs, dtype=float).reshape(-1, 2).T
    known = [(label, value) for label, value in pairs if label == label]
    ones = [value for label, value in known if label]
    zeros = [value for label, value in known if not label]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in ones for b in zeros]
    expected = sum(wins) / len(wins) if wins else None
    assert metrics.auc(y, p) == (expected if expected is None else pytest.approx(expected))
    losses = [-np.log(max(1e-15, v)) for v in ones]
    losses += [-np.log1p(-v) if v < 1 else -np.log1p(-(1 - 1e-15)) for v in zeros]
    expected = sum(losses) / len(losses) if losses else None
    assert metrics.log_loss(y, p) == (
        expected if expected is None else pytest.approx(expected, rel=1e-12, abs=2e-15)
    )

    called = metrics.confusion(y, p, threshold)
    of_ones, of_zeros = ([value >= threshold for value in values] for values in (ones, zeros))
    assert called == {
        "true_positive": of_ones.count(True),
        "false_positive": of_zeros.count(True),
        "false_negative": of_ones.count(False),
        "true_negative": of_zeros.count(False),
    }
    shares = {
        "accuracy": (of_ones.count(True) + of_zeros.count(False), len(known)),
        "precision": (of_ones.count(True), sum(of_ones) + sum(of_zeros)),
        "recall": (of_ones.count(True), len(ones)),
        "specificity": (of_zeros.count(False), len(zeros)),
    }
    rates = {name: part / whole if whole else None for name, (part, whole) in shares.items()}
    assert metrics.confusion_rates(called) == rates

    # The mean, over the positives, of the precision at the value of each (ties together).
    precisions = [sum(a >= v for a in ones) / sum(b >= v for _, b in known) for v in ones]
    expected = sum(precisions) / len(ones) if ones else None
    assert metrics.average_precision(y, p) == (
        expected if expected is None else pytest.approx(expected)
    )
    if wins:
        cuts = [np.inf, *sorted({value for _, value in known}, reverse=True)]
        rates = [
            [sum(v >= cut for v in values) / len(values) for cut in cuts]
            for values in (zeros, ones)
        ]
        np.testing.assert_allclose(metrics.roc_curve(y, p), rates)
    else:
        assert [len(values) for values in metrics.roc_curve(y, p)] == [0, 0]
    if not ones:
        assert [len(values) for values in metrics.precision_recall_curve(y, p)] == [0, 0]


def test_a_half_is_called_by_default():
    counts = metrics.confusion([1, 1, 0, 0, 1], [0.5, 0.49, 0.5, 0.49, 0.51])
    assert list(counts.values()) == [2, 1, 1, 1]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=40), st.sampled_from([4, 5]))
def test_bins_are_equally_wide_and_an_edge_is_in_the_upper_one(pairs, num_bins):
    bins: dict[int, list] = {}
    for label, twentieths in pairs:  # exact: bins of 5 or 4 twentieths
        number = min(twentieths * num_bins // 20, num_bins - 1)
        bins.setdefault(number, []).append((twentieths / 20, float(label)))
    expected = [(*np.mean(rows, axis=0).tolist(), len(rows)) for _, rows in sorted(bins.items())]
    y, p = [label for label, _ in pairs], [twentieths / 20 for _, twentieths in pairs]
    found = np.transpose(metrics.reliability(y, p, num_bins))
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 3)), atol=1e-12)
    error = sum(abs(mean - share) * count for mean, share, count in expected)
    ece = metrics.expected_calibration_error(y, p, num_bins)
    assert ece == (pytest.approx(error / len(pairs), abs=1e-12) if pairs else None)


def test_there_are_fifteen_bins_by_default():
    p = (np.arange(150) + 0.5) / 150
    assert [len(values) for values in metrics.reliability(p > 0.5, p)] == [15] * 3
    assert metrics.expected_calibration_error(p > 0.5, p) == pytest.approx(
        metrics.expected_calibration_error(p > 0.5, p, 15)
    )


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=2, max_size=2), max_size=9))
def test_the_prior_equals_a_plain_loop(rows):
    expected = []
    for column in range(2):
        known = [row[column] for row in rows if row[column] == row[column]]
        share = sum(known) / len(known) if known else 0.5
        half = 1 / (2 * len(known)) if known else 0.5
        expected.append(min(max(share, half), 1 - half))
    prior = metrics.training_prior(np.reshape(rows, (-1, 2)))
    assert prior.tolist() == pytest.approx(expected)


study_rows = st.lists(
    st.tuples(
        st.sampled_from("xyz"),
        st.sampled_from([0.0, 1.0, np.nan]),
        st.sampled_from([0.1, 0.5, 0.9]),
    ),
    min_size=1,
    max_size=12,
)


@given(study_rows)
def test_studies_equal_a_plain_loop(rows):
    ids, y, p = zip(*rows)
    studies, study_labels, study_p = metrics.max_by_study(
        np.reshape(y, (-1, 1)), np.reshape(p, (-1, 1)), ids
    )
    assert list(studies) == list(dict.fromkeys(ids))
    for study, label, probability in zip(studies, study_labels[:, 0], study_p[:, 0]):
        labels = [value for name, value, _ in rows if name == study]
        expected = 1.0 if 1.0 in labels else 0.0 if all(v == 0 for v in labels) else np.nan
        np.testing.assert_equal(label, expected)
        assert probability == max(value for name, _, value in rows if name == study)


def test_a_nan_of_one_label_is_counted_and_named_for_no_label():
    message = r"^1 of 3 rows have a probability that is NaN or infinite$"
    with pytest.raises(ValueError, match=message):
        metrics.require_probabilities([0.5, np.nan, 1.0])


def test_a_row_without_a_study_is_an_error():
    with pytest.raises(AssertionError, match="study id"):
        metrics.max_by_study([[1.0], [0.0]], [[0.5], [0.5]], ["a", None])


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("prior_kind", ["none", "one", "by row"])
def test_the_content_of_metrics_json_is_that_of_each_metric(threshold, prior_kind):
    labels, probabilities = random_set(8, num_rows=120)
    labels[::7, 2] = labels[5] = np.nan
    labels[:30] = np.where(labels[:30] > 0, 0, labels[:30])
    labels[5:10] = np.nan
    prior = {"none": None, "one": metrics.training_prior(labels)}.get(prior_kind)
    if prior_kind == "by row":
        prior = np.random.default_rng(0).uniform(0.1, 0.9, labels.shape)
    options = {} if threshold is None else {"threshold": threshold}
    result = metrics.evaluate_slices(
        labels, probabilities, label_names=NAMES, weights=WEIGHTS, prior=prior,
        selected=True, **options,
    )  # fmt: skip
    cut = threshold or 0.5
    columns = list(enumerate(NAMES))
    of_label = {
        "log_loss": metrics.log_loss,
        "auc": metrics.auc,
        "average_precision": metrics.average_precision,
        "ece": metrics.expected_calibration_error,
        "confusion": lambda y, p: metrics.confusion(y, p, cut),
    }
    for key, metric in of_label.items():
        expected = {name: metric(labels[:, k], probabilities[:, k]) for k, name in columns}
        assert result[key] == expected, key
    for rate in ("accuracy", "precision", "recall", "specificity"):
        rates = {n: metrics.confusion_rates(result["confusion"][n])[rate] for n in NAMES}
        assert result[rate] == rates
    assert result["threshold"] == cut and result["selected"] is True
    loss = metrics.weighted_log_loss(labels, probabilities, WEIGHTS)
    assert result["weighted_log_loss"] == loss
    if prior is None:
        assert result["prior_weighted_log_loss"] is None
    else:
        of_prior = metrics.weighted_log_loss(labels, prior + np.zeros(labels.shape), WEIGHTS)
        assert result["prior_weighted_log_loss"] == of_prior
    assert result["num_slices"] == 115


def test_confusion_and_rates_equal_sklearn_at_the_threshold():
    labels, probabilities = random_set(7, num_labels=1)
    y, p = labels[:, 0], probabilities[:, 0]
    counts = metrics.confusion(y, p, 0.3)
    tn, fp, fn, tp = reference.confusion_matrix(y, p >= 0.3).ravel()
    assert list(counts.values()) == [tp, fp, fn, tn]
    rates = metrics.confusion_rates(counts)
    assert rates["accuracy"] == pytest.approx(reference.accuracy_score(y, p >= 0.3))
    assert rates["precision"] == pytest.approx(reference.precision_score(y, p >= 0.3))
    assert rates["recall"] == pytest.approx(reference.recall_score(y, p >= 0.3))
    assert rates["specificity"] == pytest.approx(
        reference.recall_score(1 - y, (p < 0.3).astype(float))
    )


def test_calibration_error_of_a_loop_over_bins():
    labels, probabilities = random_set(3, num_labels=1, decimals=6)
    y, p = labels[:, 0], probabilities[:, 0]
    expected = 0.0
    for index in range(15):
        low, high = index / 15, (index + 1) / 15
        inside = (p >= low) & ((p < high) | (index == 14))
        if inside.any():
            expected += inside.mean() * abs(p[inside].mean() - y[inside].mean())
    assert metrics.expected_calibration_error(y, p) == pytest.approx(expected, abs=1e-12)


def test_bins_by_rank_hold_equally_many_rows_and_keep_the_means():
    labels, probabilities = random_set(3, num_rows=103, num_labels=1)
    y, p = labels[:, 0], probabilities[:, 0]
    mean_probability, share, counts = metrics.reliability_by_rank(y, p, 10)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(mean_probability) >= 0).all()
    assert np.dot(counts, mean_probability) == pytest.approx(p.sum())
    assert np.dot(counts, share) == pytest.approx(y.sum())
    assert [len(values) for values in metrics.reliability_by_rank([], [], 10)] == [0, 0, 0]


def test_undefined_is_none():
    zeros, halves = np.zeros(5), np.full(5, 0.5)
    assert metrics.auc(zeros, halves) is None
    assert metrics.auc(zeros + 1, halves) is None
    assert metrics.average_precision(zeros, halves) is None
    assert metrics.log_loss([], []) is None
    assert metrics.expected_calibration_error([], []) is None
    assert metrics.weighted_log_loss(np.empty((0, 2)), np.empty((0, 2)), (1, 2)) is None
    assert metrics.confusion_rates(metrics.confusion(zeros, zeros))["precision"] is None


def test_unknown_labels_count_for_nothing():
    labels, probabilities = random_set(1)
    more_labels = np.concatenate([labels, np.full((9, 6), np.nan)])
    more_probabilities = np.concatenate([probabilities, np.full((9, 6), 0.9)])
    for metric in (
        metrics.log_loss,
        metrics.auc,
        metrics.average_precision,
        metrics.expected_calibration_error,
        metrics.confusion,
    ):
        assert metric(more_labels[:, 0], more_probabilities[:, 0]) == metric(
            labels[:, 0], probabilities[:, 0]
        )


def test_training_prior_is_clipped_to_half_a_row():
    labels = np.zeros((50, 3))
    labels[:, 1] = 1
    labels[:10, 2] = 1
    np.testing.assert_allclose(metrics.training_prior(labels), [0.01, 0.99, 0.2])
    labels[:, 0] = np.nan
    assert metrics.training_prior(labels)[0] == 0.5


def test_a_study_takes_the_largest_of_its_slices():
    labels = np.array([[0, 1], [0, 0], [0, np.nan], [np.nan, 1]])
    probabilities = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4], [0.2, 0.1]])
    studies, y, p = metrics.max_by_study(labels, probabilities, ["s", "t", "s", "t"])
    assert list(studies) == ["s", "t"]
    np.testing.assert_array_equal(y, [[0, 1], [np.nan, 1]])
    np.testing.assert_array_equal(p, [[0.3, 0.9], [0.8, 0.2]])


def test_evaluate_slices_has_every_key_of_the_contract():
    labels, probabilities = random_set(2)
    result = metrics.evaluate_slices(
        labels,
        probabilities,
        label_names=NAMES,
        weights=WEIGHTS,
        prior=metrics.training_prior(labels),
    )
    assert result["num_slices"] == 200
    assert result["selected"] is False
    for key in ("log_loss", "auc", "average_precision", "ece"):
        assert list(result[key]) == list(NAMES)
    assert result["prior_weighted_log_loss"] < np.log(2)


def test_slices_without_labels_have_no_scores():
    _, probabilities = random_set(4, num_rows=30)
    result = metrics.evaluate_slices(
        np.full((30, 6), np.nan),
        probabilities,
        label_names=NAMES,
        weights=WEIGHTS,
        prior=np.full(6, 0.1),
    )
    assert result["weighted_log_loss"] is None
    assert result["prior_weighted_log_loss"] is None
    assert set(result["auc"].values()) == {None}
    assert result["num_slices"] == 0


probability = st.floats(0, 1)
rows = st.lists(st.tuples(st.booleans(), probability), min_size=1, max_size=40)


@given(rows)
def test_order_of_rows_changes_nothing(pairs):
    y, p = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    for metric in (metrics.auc, metrics.average_precision, metrics.log_loss):
        forward, backward = metric(y, p), metric(y[::-1], p[::-1])
        assert forward == backward or forward == pytest.approx(backward, abs=1e-12)


@given(rows)
def test_swapping_the_classes_keeps_the_auc(pairs):
    y, p = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    area = metrics.auc(y, p)
    if area is None:
        assert y.all() or not y.any()
    else:
        # Negated, not 1 - p, which would merge the smallest values into ties.
        assert metrics.auc(1 - y, -p) == pytest.approx(area, abs=1e-12)


@given(rows)
def test_no_constant_beats_the_prevalence(pairs):
    y = np.array([label for label, _ in pairs], dtype=float)
    own = metrics.log_loss(y, np.full(len(y), y.mean()))
    for constant in (0.01, 0.2, 0.5, 0.9, *(p for _, p in pairs[:3])):
        assert own <= metrics.log_loss(y, np.full(len(y), constant)) + 1e-12


def test_bins_by_rank_do_not_depend_on_the_order_of_equal_values():
    rng = np.random.default_rng(0)
    p = rng.choice([0.1, 0.2, 0.7], 90)
    y = (rng.random(90) < p).astype(float)
    found = metrics.reliability_by_rank(y, p, 10)
    ordered = np.sort(p)
    share = np.array([y[p == value].mean() for value in ordered])
    for place in range(10):
        rows = slice(9 * place, 9 * place + 9)
        assert found[0][place] == pytest.approx(ordered[rows].mean(), abs=1e-12)
        assert found[1][place] == pytest.approx(share[rows].mean(), abs=1e-12)
    for _ in range(5):
        order = rng.permutation(90)
        for one, other in zip(
            found, metrics.reliability_by_rank(y[order], p[order], 10), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    sorted_rows = np.lexsort((y, p))
    np.testing.assert_array_equal(
        metrics.reliability_by_rank(y[sorted_rows], p[sorted_rows], 10), found
    )


def test_log_losses_are_of_clipped_probabilities_each_on_its_own():
    y, p = [1, 1, 0, 0, np.nan], [0.0, 0.5, 1.0, 0.25, 0.9]
    expected = [15 * np.log(10), np.log(2), 15 * np.log(10), -np.log(0.75), np.nan]
    np.testing.assert_allclose(metrics.row_log_losses(y, p), expected, rtol=1e-2)
    floor = -np.log(1e-15)
    mean = (floor + np.log(2) - np.log1p(-(1 - 1e-15)) - np.log(0.75)) / 4
    assert metrics.log_loss(y, p) == pytest.approx(mean, abs=1e-12)


def test_areas_with_ties_equal_a_loop_over_pairs():
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 2, 60).astype(float), rng.integers(0, 5, 60) / 5
    pairs = [(a, b) for a in p[y == 1] for b in p[y == 0]]
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert metrics.auc(y, p) == pytest.approx(expected, abs=1e-12)


def test_prior_is_over_the_rows_that_know_the_label():
    labels = np.array([[1, 0], [np.nan, 1], [0, np.nan], [np.nan, np.nan], [0, 1], [0, 1]])
    expected = []
    for column in labels.T:
        known = [value for value in column if not np.isnan(value)]
        expected.append(sum(known) / len(known))
    np.testing.assert_allclose(metrics.training_prior(labels), expected, atol=1e-15)
    labels[0, 0] = 0
    np.testing.assert_allclose(metrics.training_prior(labels)[0], 1 / 8, atol=1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_probability_that_is_no_number_is_an_error(bad):
    labels, probabilities = random_set(5, num_rows=40)
    probabilities[3:6, 1] = bad
    labels[3:6, 1] = np.nan  # also where the label is unknown
    one = labels[:, 1], probabilities[:, 1]
    for metric in (
        metrics.row_log_losses,
        metrics.log_loss,
        metrics.auc,
        metrics.average_precision,
        metrics.roc_curve,
        metrics.precision_recall_curve,
        metrics.reliability,
        metrics.expected_calibration_error,
        metrics.confusion,
    ):
        with pytest.raises(ValueError, match="3 of 40 rows have a probability that is NaN"):
            metric(*one)
    with pytest.raises(ValueError, match="3 of 40 rows"):
        metrics.reliability_by_rank(*one, 10)
    with pytest.raises(ValueError, match=r"3 of 40 rows .* for label number 1$"):
        metrics.weighted_log_loss(labels, probabilities, WEIGHTS)
    with pytest.raises(ValueError, match="3 of 40 rows"):
        metrics.max_by_study(labels, probabilities, np.arange(40))
    probabilities[0, 5] = bad
    with pytest.raises(ValueError, match=r"4 of 40 rows .* for labels b, any$"):
        metrics.evaluate_slices(labels, probabilities, label_names=NAMES, weights=WEIGHTS)


def test_the_scored_prior_is_the_best_constant_of_the_rows():
    labels, probabilities = random_set(6)
    labels[:50, 2] = np.nan
    prior = np.full(6, 0.05)
    options = {"label_names": NAMES, "weights": WEIGHTS, "prior": prior}
    found = metrics.evaluate_slices(labels, probabilities, **options)
    shares = [np.nanmean(column) for column in labels.T]
    losses = [-(s * np.log(s) + (1 - s) * np.log(1 - s)) for s in shares]
    expected = np.dot(WEIGHTS, losses) / 7
    assert found["scored_prior_weighted_log_loss"] == pytest.approx(expected, abs=1e-12)
    assert expected < found["prior_weighted_log_loss"]
