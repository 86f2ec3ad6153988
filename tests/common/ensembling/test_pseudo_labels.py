import numpy as np

from common.ensembling.pseudo_labels import pseudo_labels, rows_to_use

HIGH, LOW = (0.9, 0.8, 0.9), (0.1, 0.1, 0.1)
N = np.nan


def test_hard_labels_agree_with_the_union():
    p = [
        [0.95, 0.05, 0.97],  # all sure
        [0.85, 0.05, 0.5],  # a subtype and the union unsure
        [0.05, 0.85, 0.5],  # a sure subtype makes the union 1
        [0.5, 0.05, 0.05],  # no union, no subtype
        [0.05, 0.05, 0.95],  # a union without a subtype: which one is unknown
        [0.95, 0.5, 0.05],  # a sure subtype against a sure union: the subtype counts
        [N, N, 0.95],  # a model of the union alone
    ]
    expected = [[1, 0, 1], [N, 0, N], [0, 1, 1], [0, 0, 0], [N, N, 1], [1, N, 1], [N, N, 1]]
    found = pseudo_labels(p, "hard", HIGH, LOW)
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))
    assert rows_to_use(found, False).tolist() == [True, False, True, True, False, False, False]
    assert rows_to_use(found, True).all()


def test_soft_labels_are_the_probabilities_and_the_union_their_largest():
    p = np.array([[0.95, 0.3, 0.92], [0.02, 0.01, 0.05]])
    found = pseudo_labels(p, "soft", HIGH, LOW)
    np.testing.assert_allclose(found, [[0.95, N, 0.95], [0.02, 0.01, 0.05]], rtol=1e-6)
    every = pseudo_labels(p, "soft", [0.5] * 3, [0.5] * 3)
    np.testing.assert_allclose(every, [[0.95, 0.3, 0.95], [0.02, 0.01, 0.05]], rtol=1e-6)


def test_a_study_without_a_label_has_no_slice_with_it():
    p = [[0.95, 0.95, 0.95], [0.5, 0.95, 0.95]]
    studies = [[0, 1, 1], [N, 0, N]]
    found = pseudo_labels(p, "hard", HIGH, LOW, study_labels=studies)
    np.testing.assert_array_equal(found, np.array([[0, 1, 1], [N, N, 1]], dtype=np.float32))
    clear = pseudo_labels([[0.5, 0.5, 0.5]], "soft", HIGH, LOW, study_labels=[[0, 0, 0]])
    assert clear.tolist() == [[0, 0, 0]]
