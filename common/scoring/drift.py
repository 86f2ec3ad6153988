"""Whether new studies are like those of a reference: a test with a known rate of false alarms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Self

import numpy as np
import pandas as pd

from common.errors import InputError
from common.statistics.permutation import permutation_test
from common.words import count

MOST_PATIENTS = 200
"""Patients that a reference keeps: some tens of kB."""
# Words that fewer patients have, of both sides together, are one: `other`.
_LEAST_OF_WORD = 3
_DIGITS = 4


@dataclass(frozen=True)
class Reference:
    """How studies of a predictor's own patients were, row by row.

    Attributes:
        source: of what, in words.
        num_patients: of how many patients the rows are a sample.
        rows: a row for each patient, numbers in float64 columns, words in others; without ids, and
            without columns of which nothing is known.
        unknown: the names of these columns.
    """

    source: str
    num_patients: int
    rows: pd.DataFrame
    unknown: Sequence[str] = ()

    @classmethod
    def of(cls, source: str, num_patients: int, rows: pd.DataFrame) -> Self:
        """Return the reference of the rows as they are kept: rounded, in no order of time."""
        unknown = [str(name) for name in rows if rows[name].isna().all()]
        rows = rows.drop(columns=unknown)
        order = np.random.default_rng(0).permutation(len(rows))
        return cls(source, num_patients, _rounded(rows).iloc[order].reset_index(drop=True), unknown)

    def to_json(self) -> dict[str, Any]:
        """Return plain types; a column of numbers is one text, which JSON keeps on one line."""
        numbers, words = {}, {}
        for name in self.rows:
            column = self.rows[name]
            if column.dtype == np.float64:
                numbers[name] = " ".join(f"{value:.{_DIGITS}g}" for value in column)
            else:
                codes, values = pd.factorize(column)
                words[name] = {"words": list(values), "codes": " ".join(map(str, codes))}
        about = {"source": self.source, "num_patients": self.num_patients}
        return {**about, "numbers": numbers, "words": words, "unknown": list(self.unknown)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return what `to_json` was of; InputError where it is damaged."""
        try:
            columns: dict[str, Any] = {
                name: np.array(text.split(), dtype=np.float64)
                for name, text in content["numbers"].items()
            }
            for name, part in content["words"].items():
                codes = [int(code) for code in part["codes"].split()]
                words = [part["words"][code] if code >= 0 else None for code in codes]
                columns[name] = pd.Series(words, dtype=object)
            # Earlier versions did not write what was unknown.
            known, unknown = pd.DataFrame(columns), content.get("unknown", ())
            return cls(content["source"], content["num_patients"], known, unknown)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"the reference in predictor.json is damaged ({error!r}): fit it anew (--dr_fit 1)"
            ) from None


@dataclass(frozen=True)
class Found:
    """The result of a comparison with a reference.

    Attributes:
        p_value: that nothing differs: at most the rate of false alarms in that share of samples of
            studies like the reference.
        columns: column, reference and new (medians; shares where `is_share`), p_value (NaN where it
            can't be compared), alarm; the least p-value first.
        reference, new: the numbers (patients, columns) that were compared.
    """

    p_value: float
    columns: pd.DataFrame
    reference: pd.DataFrame
    new: pd.DataFrame


def compare_with(
    reference: Reference, rows: pd.DataFrame, *, rate: float, num_permutations: int, seed: int
) -> Found:
    """Return how new patients differ from those of a reference, in the columns that both have.

    Args:
        rows: of new patients, one each.
        rate: of false alarms.

    Raises:
        InputError: patients are too few for any alarm at that rate.
    """
    old, new = reference.rows.reindex(columns=[*reference.rows, *reference.unknown]), _rounded(rows)
    sizes = len(old), len(new)
    if comb(sum(sizes), sizes[1]) * rate < 1:
        raise InputError(
            f"{count(sizes[1], 'new patient')} and {sizes[0]} of the reference can't give an alarm "
            f"at a rate of {rate:g}: compare more, or raise --dr_false_alarms"
        )
    shared = [name for name in old if name in new]
    both = pd.concat([old[shared], new[shared]], ignore_index=True)
    values = pd.DataFrame(dict(_numbers(both)))
    first, second = values.iloc[: sizes[0]], values.iloc[sizes[0] :]
    drift = permutation_test(first, second, num_permutations=num_permutations, seed=seed)
    is_share = np.array([": " in str(name) for name in values])
    sides = (np.where(is_share, part.mean(), part.median()) for part in (first, second))
    columns = pd.DataFrame(
        {
            "column": list(values),
            **dict(zip(("reference", "new"), sides, strict=True)),
            "is_share": is_share,
            "p_value": drift.p_values,
            "alarm": drift.p_values <= rate,
        }
    )
    order = columns["p_value"].fillna(2.0) - 1e-9 * np.abs(np.nan_to_num(drift.statistics))
    columns = columns.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)
    return Found(drift.p_value, columns, first, second)


def _numbers(both: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """Yield columns of numbers: shares of words, and of what is unknown, are 0 or 1.

    Both samples are looked at as one, or the test would not be exact.
    """
    for name in both:
        column = both[name]
        unknown = column.isna()
        if unknown.all():
            continue
        if column.dtype == np.float64:
            yield str(name), column
        else:
            counts = column.value_counts()
            common = counts.index[counts >= _LEAST_OF_WORD]
            for word in common:
                yield f"{name}: {word}", column.eq(word).astype(np.float64)
            if len(common) < len(counts):
                other = ~column.isin(common) & ~unknown
                yield f"{name}: other", other.astype(np.float64)
        if unknown.any():
            yield f"{name}: unknown", unknown.astype(np.float64)


def _rounded(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows as a reference keeps them; equal values stay equal."""
    columns: dict[Any, Any] = {}
    for name in rows:
        column = rows[name]
        if pd.api.types.is_numeric_dtype(column):
            columns[name] = [float(f"{value:.{_DIGITS}g}") for value in column.astype(np.float64)]
        else:
            words = column.astype(object).where(column.notna(), None)
            columns[name] = pd.Series(words.tolist(), dtype=object)
    return pd.DataFrame(columns)
