"""Parts of a dataset that a study predictor holds at once."""

from typing import Any

import numpy as np

from common.predictors import sequence
from common.predictors.sequence import _parts


def test_parts_are_whole_series_and_each_is_counted_once(monkeypatch):
    monkeypatch.setattr(sequence, "_SLICES_AT_ONCE", 7)
    counted = []

    class Series(list):
        def __len__(self):
            counted.append(self)
            return super().__len__()

    rows = iter(range(100))
    groups: list[Any] = [Series(next(rows) for _ in range(size)) for size in (3, 3, 3, 9, 1, 1, 1)]
    parts = list(_parts(groups))
    assert [len(part) for part in parts] == [9, 9, 3]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(21))
    # np.concatenate looks at each once or twice itself.
    assert len(counted) <= 4 * len(groups)
