"""Counts and durations as messages show them."""

from collections.abc import Mapping, Sequence


def count(number: int, noun: str) -> str:
    """Return the number with its noun: `1 slice`, `28 slices`, `2 studies`, `3 series`."""
    if number == 1 or noun.endswith("series"):
        return f"{number} {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{number} {noun[:-1]}ies"
    return f"{number} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def line_of_counts(
    num_files: int, num_slices: int, num_series: int, rejected: Mapping[str, int]
) -> str:
    """Return the counts of a preparation in one line: read, stored, rejected by reason."""
    reasons = ", ".join(f"{number} {status}" for status, number in rejected.items())
    return (
        f"read {count(num_files, 'file')}, stored {count(num_slices, 'slice')} in {num_series} "
        f"series, rejected {sum(rejected.values())}" + (f" ({reasons})" if reasons else "")
    )


def shown(value: float | None, digits: int = 3) -> str:
    """Return a number as a table shows it; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def spread(interval: Sequence[float] | None, digits: int = 3) -> str:
    """Return an interval to stand behind its value, ` (0.85 to 0.91)`; empty for None."""
    return f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})" if interval else ""


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it: `20 ms`, `45 s`, `5 min`, `1.9 h`."""
    if seconds < 1:
        return f"{max(1, round(1000 * seconds))} ms" if seconds > 0 else "0 s"
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def first_line(error: BaseException | str, most: int = 160) -> str:
    """Return the first line of an error; a longer one than `most` ends with a sentence or word."""
    line = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    if len(line) <= most:
        return line
    sentence, end, _ = line[:most].rpartition(". ")
    return sentence if end else f"{line[:most].rpartition(' ')[0] or line[:most]} ..."
