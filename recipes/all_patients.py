"""Splits a merged dataset so that all that came in is trained on, and one fold is validated on.

    python recipes/all_patients.py input/datasets/ct_ich_all ct_ich

ct_ich_all is the demo, with folds, and all of ct_ich (scripts.pseudo_label --pl_labels given): of
the demo, fold 0 is validated on, the rest is left out, and what is trained is of ct_ich alone.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd

from common.cli import run_script
from common.errors import InputError
from common.files import write_text
from common.slices.folds import FOLDS_FILE, read_folds
from common.slices.table import SLICES_FILE


def split(folder: Path, source: str) -> pd.DataFrame:
    """Return image_id and sample_type: `train` for slices of the source, `valid` for fold 0."""
    slices = pd.read_parquet(folder / SLICES_FILE, columns=["image_id", "label_source"])
    added = slices.loc[slices["label_source"].eq(f"given:{source}"), "image_id"]
    folds = read_folds(folder / FOLDS_FILE)
    validated = folds.loc[folds["fold"].eq(0), "image_id"]
    if added.empty or validated.empty:
        raise InputError(
            f"{folder} has no slices labelled by {source}, or no fold 0: make it by "
            f"scripts.pseudo_label --pl_labels given --pl_source {source}"
        )
    sides = [added.to_frame().assign(sample_type="train")]
    return pd.concat([*sides, validated.to_frame().assign(sample_type="valid")])


def main() -> None:
    """Write dataset_<name>_fold_0.csv into the dataset folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the merged dataset")
    parser.add_argument("source", help="the dataset that came in")
    flags = parser.parse_args()
    frame = split(flags.folder, flags.source)
    path = flags.folder / f"dataset_{flags.folder.resolve().name}_fold_0.csv"
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    run_script(main)
