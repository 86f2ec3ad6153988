"""Prints accuracy, precision and recall of each label from a metrics.json.

python recipes/rates.py output/results/0001/metrics.json
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli import run_script
from common.errors import InputError

RATES = ("accuracy", "precision", "recall")


def rates_table(values: Mapping[str, Any]) -> str:
    """Return a line per label; what is undefined is a dash."""
    head = f"at {values['threshold']:g}"
    lines = [f"{head:<18}" + "".join(f"{rate:>12}" for rate in RATES)]
    for label in values["accuracy"]:
        cells = (values[rate][label] for rate in RATES)
        shown = ("-" if cell is None else f"{cell:.3f}" for cell in cells)
        lines.append(f"{label:<18}" + "".join(f"{cell:>12}" for cell in shown))
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        raise InputError("give one metrics.json, such as output/results/0001/metrics.json")
    print(rates_table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    run_script(main)
