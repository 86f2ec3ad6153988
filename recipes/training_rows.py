"""Prints how many slices and studies of a dataset fold 0 trains on.

python recipes/training_rows.py input/datasets/rsna
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli import run_script
from common.errors import InputError
from common.slices.folds import folds_path, read_folds, split_rows
from common.slices.table import SliceTable
from rsna_task import LABELS


def main() -> None:
    """Print two numbers."""
    if len(sys.argv) != 2:
        raise InputError("give the folder of one dataset")
    folder = Path(sys.argv[1])
    table = SliceTable.load(folder)
    rows, _ = split_rows(table, read_folds(folds_path(folder, 0)), 0, LABELS)
    print(len(rows), table.frame["study_id"].iloc[rows].nunique())


if __name__ == "__main__":
    run_script(main)
