"""Do features help a study network whose folds have feature spaces of their own?

Prints the weighted log loss, out-of-fold over all patients of a prepared dataset, of slice networks
and of a BiGRU over their outputs: logits alone, or features too. The slice networks are small heads
on one frozen ImageNet network (tf_efficientnet_lite0), so that a fold takes seconds: `shared` takes
the frozen network's own features, which are the same for all folds, `own` the hidden layer of each
fold's head, which starts at random and is as different from fold to fold as can be. Fine-tuned
networks lie between the two. The last line is JSON.

    python benchmarks/study_inputs.py input/datasets/ct_ich
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.callbacks import WeightAverage
from common.datasets import EpochSampler, ImageClassificationDataset, make_loader
from common.datasets.sequence import SequenceDataset
from common.datasets.series import SeriesAugmentation
from common.features.slice_outputs import (
    FeaturesInMemory,
    Scaling,
    SliceOutputs,
    measure_scaling,
)
from common.models import build_sequence_model
from common.networks import FitSettings, SequenceClassifierNetwork
from common.networks.losses import weighted_bce_sum
from common.optim import Schedule, make_optimizer, make_schedule
from common.scoring.metrics import row_log_losses
from common.slices.folds import read_folds, split_rows
from common.slices.table import SliceTable
from rsna_dataset import find_transform
from rsna_model import RSNAModel
from rsna_task import LABEL_WEIGHTS, LABELS

NUM_ITERATIONS = 150
SIZE = 96


@dataclass(frozen=True)
class Variant:
    """Inputs of a sequence network: features of `space` (none), standardised per fold or not."""

    space: str | None = None
    standardised: bool = True
    drop: float = 0.5


VARIANTS = {
    "sequence, logits": Variant(),
    "sequence, logits and shared features": Variant("shared"),
    "sequence, logits and own features": Variant("own"),
    "sequence, logits and own features, not standardised": Variant("own", standardised=False),
    "sequence, logits and own features, no dropout of features": Variant("own", drop=0.0),
}


def frozen_features(table: SliceTable, rows: np.ndarray) -> np.ndarray:
    """Return what the ImageNet network says of slices, float32 (rows, dim)."""
    model = RSNAModel("tf_efficientnet_lite0", pretrained=True).eval()
    transform = find_transform("transform", "valid_small", SIZE, model.mean, model.std)
    dataset = ImageClassificationDataset(table, rows, transform, ())
    with torch.inference_mode():
        parts = [model.forward_features(b["image"]) for b in make_loader(dataset, 64, 0)]
    return torch.cat(parts).numpy()


def head_outputs(
    features: np.ndarray, labels: np.ndarray, is_train: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and hidden layer of all rows, of a head trained on some."""
    torch.manual_seed(seed)
    head = nn.Sequential(
        nn.Dropout(0.3), nn.Linear(features.shape[1], 128), nn.ReLU(), nn.Linear(128, len(LABELS))
    )
    mean, spread = features[is_train].mean(0), features[is_train].std(0) + 1e-3
    x, y = torch.from_numpy((features - mean) / spread), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=0.1)
    draw = np.random.default_rng(seed)
    train = np.flatnonzero(is_train)
    for _ in range(200):
        batch = draw.choice(train, 64)
        loss, terms = weighted_bce_sum(head(x[batch]), y[batch], torch.tensor(LABEL_WEIGHTS))
        optimizer.zero_grad()
        (loss / terms).backward()
        optimizer.step()
    with torch.inference_mode():
        hidden = head.eval()[:3](x)
        return head[3](hidden).numpy(), hidden.numpy()


def study_logits(
    outputs: SliceOutputs,
    table: SliceTable,
    train: np.ndarray,
    valid: np.ndarray,
    drop: float,
    seed: int,
) -> np.ndarray:
    """Return the logits of the validation rows, in their order, of a BiGRU."""
    torch.manual_seed(seed)
    dims = [outputs.features.dim] if outputs.features else []
    model = build_sequence_model(
        {
            "name": "study-bigru",
            "num_labels": len(LABELS),
            "feature_dims": dims,
            "dim": 64,
            "hidden": 48,
            "drop_rate": 0.2,
            "feature_drop": drop,
        }
    )
    optimizer = make_optimizer("adamw", model, 1e-3, 0.05)
    network = SequenceClassifierNetwork(
        model,
        FitSettings(iteration_num=NUM_ITERATIONS, clip_norm=1.0),
        LABEL_WEIGHTS,
        optimizer=optimizer,
        scheduler=make_schedule(optimizer, Schedule("one_cycle_lr", NUM_ITERATIONS, 1e-3)),
        callbacks=[WeightAverage(model, 0.97)],
    )
    augmentation = SeriesAugmentation(thin=0.25, reverse=0.5)
    data = SequenceDataset(table, train, [outputs], LABELS, augmentation, seed)
    network.fit(make_loader(data, 16, 0, EpochSampler(len(data), seed)))
    scored = SequenceDataset(table, valid, [outputs], LABELS)
    with network.averaged():
        logits = network.predict(make_loader(scored, 64, 0))["logits"]
    by_row = dict(zip(scored.rows.tolist(), logits, strict=True))
    return np.stack([by_row[row] for row in valid.tolist()])


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    folder, num_seeds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    table, folds = SliceTable.load(folder), read_folds(folder / "folds.csv")
    numbers = sorted(int(fold) for fold in folds["fold"].unique())
    splits = {fold: split_rows(table, folds, fold, LABELS) for fold in numbers}
    rows = np.sort(np.concatenate([valid for _, valid in splits.values()]))
    labels = table.labels(rows, LABELS)
    features = frozen_features(table, rows)
    places = np.full(len(table), -1, np.int64)
    places[rows] = np.arange(len(rows))
    losses: dict[str, list[np.ndarray]] = {}
    for seed in range(num_seeds):
        oof, hidden = np.full((len(rows), 6), np.nan, np.float32), np.zeros((len(rows), 128), "f4")
        made_by = np.full(len(table), -1, np.int64)
        for fold, (train, valid) in splits.items():
            is_train = np.isin(rows, train)
            own = places[valid]
            logits, layer = head_outputs(features, labels, is_train, 10 * seed + fold)
            oof[own], hidden[own], made_by[valid] = logits[own], layer[own], fold
        losses.setdefault("slice", []).append(_row_loss(labels, oof))
        table_logits = np.full((len(table), 6), np.nan, np.float32)
        table_logits[rows] = oof
        for name, variant in VARIANTS.items():
            outputs = SliceOutputs("benchmark", table_logits, made_by)
            if variant.space is not None:
                values = features if variant.space == "shared" else hidden
                near = FeaturesInMemory(values.astype(np.float16))
                same = Scaling(np.array([values.mean()], "f4"), np.array([values.std()], "f4"))
                scaling = {
                    f: measure_scaling(near, places[made_by == f]) if variant.standardised else same
                    for f in numbers
                }
                outputs = SliceOutputs("benchmark", table_logits, made_by, near, places, scaling)
            found = np.full((len(rows), 6), np.nan, np.float32)
            for train, valid in splits.values():
                found[places[valid]] = study_logits(
                    outputs, table, train, valid, variant.drop, seed
                )
            losses.setdefault(name, []).append(_row_loss(labels, found))
            print(f"seed {seed}  {name:<60} {losses[name][-1].mean():.4f}", flush=True)
    _print_result(losses, table.frame["patient_id"].to_numpy(dtype=object)[rows].astype(str))


def _row_loss(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    weights = np.array(LABEL_WEIGHTS) / sum(LABEL_WEIGHTS)
    return row_log_losses(labels, expit(logits.astype(np.float64))) @ weights


def _print_result(losses: dict[str, list[np.ndarray]], patients: np.ndarray) -> None:
    """Means, and the difference to logits alone with its 95 % interval by patient bootstrap."""
    _, codes = np.unique(patients, return_inverse=True)
    counts = np.bincount(codes).astype(np.float64)
    draw = np.random.default_rng(0)
    chosen = draw.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), 2000)
    result = {}
    base = np.mean(losses["sequence, logits"], axis=0)
    for name, runs in losses.items():
        loss = np.mean(runs, axis=0)
        sums = np.bincount(codes, weights=loss - base)
        low, high = np.percentile(chosen @ sums / (chosen @ counts), [2.5, 97.5])
        result[name] = {
            "weighted_log_loss": round(float(loss.mean()), 4),
            "minus_logits": round(float((loss - base).mean()), 4),
            "interval": [round(float(low), 4), round(float(high), 4)],
        }
        print(
            f"{name:<60} {loss.mean():.4f}  {(loss - base).mean():+.4f} ({low:+.4f}, {high:+.4f})"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
