"""Experiments of all folds on a small dataset, as what is blended: predictions, no training."""

from pathlib import Path

import numpy as np
import pandas as pd
from predictor_factory import make_dataset, make_predictor

from common.scoring.metrics import training_prior
from common.scoring.predictions import build_predictions, write_predictions
from common.slices.table import SliceTable
from common.tables import write_parquet
from config import Config
from rsna_model import RSNAModel
from rsna_task import LABELS

DATASET = "own"
NUM_FOLDS = 3


def make_fold_dataset(
    folder: Path, num_patients: int = 11, num_slices: int = 6, num_test: int = 2
) -> SliceTable:
    """A dataset whose last patients are test, without labels; the others have a fold each."""
    table = make_dataset(folder, num_patients, num_slices)
    frame = table.frame
    number = frame["patient_id"].str.rsplit("-", n=1).str[-1].astype(int)
    is_test = number >= num_patients - num_test
    frame["split"] = frame["split"].mask(is_test, "test")
    frame.loc[is_test, list(LABELS)] = np.nan
    frame.loc[is_test, "label_source"] = None
    write_parquet(folder / "slices.parquet", frame)
    folds = frame.loc[~is_test, ["image_id", "patient_id"]].assign(fold=number % NUM_FOLDS)
    folds.to_csv(folder / "folds.csv", index=False)
    return SliceTable.load(folder)


def make_members(root: Path, num_members: int = 2, **options: int) -> Path:
    """Write experiments 0001, ... below root/output; returns the folder of results."""
    table = make_fold_dataset(root / "input" / "datasets" / DATASET, **options)
    network = RSNAModel("test_resnet")
    for number in range(num_members):
        write_member(root, table, f"{number + 1:04d}", number, network)
    return root / "output" / "results"


def write_member(
    root: Path, table: SliceTable, name: str, seed: int, network: RSNAModel | None = None
) -> None:
    """An experiment whose predictions are its labels with noise, too far from 0."""
    folder = root / "output" / "results" / name
    folder.mkdir(parents=True)
    config = Config().with_flags(
        data_dataset=DATASET, data_input_folder=str(root / "input"), data_fold="all"
    )
    (folder / "config.yaml").write_text(config.to_yaml())
    labels = table.labels(np.arange(len(table)), LABELS)
    if network is not None:
        make_predictor(
            network=network,
            model=network.specification,
            prior=training_prior(labels),
            training={"dataset": DATASET, "fold": "all", "iterations": 10},
        ).save(folder / "predictor")
    folds = pd.read_csv(table.folder / "folds.csv").set_index("image_id")["fold"]
    rng = np.random.default_rng(seed)
    is_test = table.frame["split"].eq("test").to_numpy()
    for part, chosen in (("oof", ~is_test), ("test", is_test)):
        rows = np.flatnonzero(chosen & table.readable)
        noise = rng.normal(0, 2.5, (len(rows), len(LABELS)))
        logits = 4 * np.nan_to_num(labels[rows], nan=0.5) - 2 + noise
        frame = build_predictions(table.frame.iloc[rows], logits, LABELS, None, name)
        if part == "oof":
            frame["fold"] = folds.loc[frame["image_id"]].astype("Int64").to_numpy()
        # Tables need not be in one order.
        frame = frame.sample(frac=1, random_state=seed)
        write_predictions(folder / "predictions" / f"{part}.parquet", frame, LABELS)
