"""One process of a shared prediction; torchrun starts several. The main one writes what it found.

    torchrun --nproc_per_node 3 tests/helpers/shared_prediction.py <dataset> <folder> <what>

`what` is `all` (every kind of predictor), or `fail` (the last process can't load the predictor).
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from predictor_factory import build_network, make_predictor

from common.cli import run_script
from common.distributed import Processes, connected
from common.ensembling.smoothing import Smoothing
from common.errors import InputError
from common.features.slice_outputs import Scaling
from common.features.store import FeatureTable, writing_features
from common.models import build_series_model
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.predictors.extraction import extract
from common.predictors.folds import FoldsPredictor
from common.predictors.second_level import SecondLevelPredictor
from common.predictors.sequence import StudyPredictor
from common.predictors.sharing import share_rows, together
from common.slices.table import SliceTable
from rsna_model import RSNAModel
from rsna_task import LABEL_WEIGHTS, LABELS

OWNERS = {"views": "slices", "extracted": "slices", "one_series": "study", "unreadable": "folds"}
MODEL = {"name": "tiny", "num_classes": 6, "in_chans": 3}


def make_all() -> dict[str, AbstractPredictor]:
    """Return a predictor of each kind, with the same weights in every process."""
    torch.manual_seed(3)
    network = RSNAModel("test_resnet").eval()
    slices = make_predictor(network=network, model=network.specification)
    shared = {"label_names": LABELS, "label_weights": LABEL_WEIGHTS, "prior": np.full(6, 0.2)}
    folds = FoldsPredictor(
        {k: make_predictor(network=build_network({**MODEL, "seed": k})) for k in (0, 1)}
    )
    study = StudyPredictor(
        **shared,
        network=build_series_model(
            {
                "name": "study-bigru",
                "num_labels": 6,
                "dim": 8,
                "feature_dims": [network.feature_dim],
            }
        ).eval(),
        slice_predictors=[slices],
        scalings=[
            Scaling(
                np.zeros(network.feature_dim, np.float32), np.ones(network.feature_dim, np.float32)
            )
        ],
        slice_views=[(("plain",), "logits")],
    )
    smoothing = Smoothing("uniform", "slices", "logits", (0.5,) * 6)
    second = SecondLevelPredictor(members=[folds], levels={0: smoothing}, **shared)
    return {"slices": slices, "folds": folds, "study": study, "second": second}


def predict_each(
    predictors: dict[str, AbstractPredictor],
    table: SliceTable,
    folder: Path,
    options: PredictOptions,
) -> dict[str, Callable[[], RowLogits]]:
    """Return what predicts, by name: rows in any order, some twice, some unreadable."""
    rows = np.random.default_rng(0).permutation(len(table))
    rows = np.concatenate([rows, rows[:3]])
    views = replace(options, views=("plain", "flip_lr"))

    def extracted() -> RowLogits:
        with writing_features(folder, "test", {}) as writer:
            return extract(predictors["slices"], table, np.arange(len(table)), views, writer=writer)

    found = {
        name: partial(predictor.predict_rows, table, rows, options)
        for name, predictor in predictors.items()
    }
    found["views"] = lambda: predictors["slices"].predict_rows(
        table, rows, replace(views, with_features=True)
    )
    found["one_series"] = lambda: predictors["study"].predict_rows(table, rows[:1], options)
    found["unreadable"] = lambda: predictors["folds"].predict_rows(
        table, np.flatnonzero(~table.readable), options
    )
    found["extracted"] = extracted
    return found


def arrays(found: dict[str, RowLogits], folder: Path) -> dict[str, np.ndarray]:
    """Return all that was found, by name."""
    named = {
        f"{name} {field}": value
        for name, result in found.items()
        for field, value in vars(result).items()
        if value is not None
    }
    table = FeatureTable.load(folder, "test")
    keys = (table.frame["image_id"].astype(str) + table.frame["view"].astype(str)).to_numpy(str)
    return {**named, "stored": table.read(table.frame["row"])[np.argsort(keys)]}


def main() -> None:
    dataset, folder, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    processes, predictors = Processes.from_environment(), make_all()
    table = SliceTable.load(dataset)
    options = PredictOptions(batch_size=8, share=share_rows)

    def load(name: str) -> AbstractPredictor:
        if what == "fail" and processes.rank == processes.num - 1:
            raise InputError("model.pt is missing here")
        return predictors[name]

    with connected(processes, torch.device("cpu")):
        found = {}
        for name, predict in predict_each(predictors, table, folder, options).items():
            result = together(processes, predict, partial(load, OWNERS.get(name, name)))
            if result is not None:
                found[name] = result
    if processes.is_main:
        np.savez(folder / "found.npz", **arrays(found, folder))
    else:
        assert not found


if __name__ == "__main__":
    run_script(main)
