"""The release of i-pan/ct-head-hemorrhage-detection (2026): slice and sequence network.

Trained on 661,118 slices of the RSNA 2019 challenge; MIT licence. Its localization decoders are
left out. Published scores, on 989 patients of RSNA kept apart: AUC of any .983 by slice, .980 by
series.

    config.json                     shares of the blend, and what the input is
    classifier/model.safetensors    MaxViT-tiny on three slices in three windows
    sequence/model.safetensors      GRUs over the pooled features of the slices of a series
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import InputError
from common.features.slice_outputs import Scaling
from common.models import build_series_model
from common.models.study import POOLED
from common.predictors.sequence import StudyPredictor
from common.predictors.slices import SlicePredictor
from common.slices.leakage import TRAINED_ON
from common.transforms.views import PLAIN
from rsna_dataset import find_transform
from rsna_model import build_model
from rsna_task import CHALLENGE, LABELS

CONFIG_FILE = "config.json"
SLICE_WEIGHTS = "classifier/model.safetensors"
SEQUENCE_WEIGHTS = "sequence/model.safetensors"
FILES = (CONFIG_FILE, SLICE_WEIGHTS, SEQUENCE_WEIGHTS)

# What the predictor and a training that starts from its slice network have in common.
TRANSFORM = "ipan2026_valid"
FLAGS = {
    "net_model": "maxvit_tiny_tf_512.in1k",
    "net_pooling": "avg",
    "data_neighbors": 1,
    "data_neighbor_end": "air",
    "data_train_transform": "ipan2026_train",
    "data_valid_transform": TRANSFORM,
    "data_test_transform": "ipan2026_train",
}
ORIGIN = {
    "source": "https://github.com/i-pan/ct-head-hemorrhage-detection",
    "licence": "MIT",
    TRAINED_ON: "rsna",
}
# Positive slices among the 674,258 of the challenge's training set (stage 1), by label.
PRIOR = np.array([2_761, 32_564, 23_766, 32_122, 42_496, 97_103]) / 674_258

_FEATURE_DIM, _HIDDEN, _LAYERS, _POOL_HIDDEN = 512, 256, 2, 128
# Names of the release -> ours, by what they begin with; None: not used.
_SLICE_NAMES = {"linear.": "classifier."}
_SEQUENCE_NAMES = {"sequence.": "sequence.rnn.", "sequence_pool.": "pool.", "mil_pool.": None}


def read_release(folder: Path, training: Mapping[str, Any]) -> StudyPredictor:
    """Return the predictor of the release in `folder`.

    Args:
        folder: holds `FILES`.
        training: what predictor.json records of the origin, beside `ORIGIN`.

    Raises:
        InputError: a file is missing, damaged or of another architecture.
    """
    settings = _read_settings(folder / CONFIG_FILE)
    origin = {**training, **ORIGIN}
    shared: dict[str, Any] = {
        "label_names": CHALLENGE.label_names,
        "label_weights": CHALLENGE.label_weights,
        "prior": PRIOR,
        "training": origin,
    }
    model = build_model(
        {"name": FLAGS["net_model"], "in_chans": 9, "pooling": FLAGS["net_pooling"]}
    )
    _load(model, folder / SLICE_WEIGHTS, _SLICE_NAMES)
    slices = SlicePredictor(
        network=model.eval(),
        model=model.specification,
        transform=find_transform("data_valid_transform", TRANSFORM, 0, (0.5,), (0.5,)),
        slice_offsets=(-1, 0, 1),
        past_end="air",
        **shared,
    )
    network = build_series_model(
        {
            "name": POOLED,
            "num_labels": len(LABELS),
            "feature_dim": _FEATURE_DIM,
            "hidden": _HIDDEN,
            "num_layers": _LAYERS,
            "pool_hidden": _POOL_HIDDEN,
            **settings,
        }
    )
    _load(network, folder / SEQUENCE_WEIGHTS, _SEQUENCE_NAMES)
    as_it_is = Scaling(np.zeros(_FEATURE_DIM, np.float32), np.ones(_FEATURE_DIM, np.float32))
    return StudyPredictor(
        network=network.eval(),
        slice_predictors=[slices],
        scalings=[as_it_is],
        slice_views=[((PLAIN,), "logits")],
        **shared,
    )


def _read_settings(path: Path) -> dict[str, Any]:
    """Return what the sequence network takes from config.json."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels = [str(name).lower() for name in content["labels"]]
        settings = {
            "most_slices": int(content["training_max_sequence_length"]),
            "slice_shares": _shares(content["slice_blend_alphas"], labels),
            "series_shares": _shares(content["series_blend_alphas"], labels),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not the config.json of this release ({type(error).__name__}: {error}): "
            f"get the whole release again"
        ) from error
    if labels != list(LABELS):
        raise InputError(
            f"{path} has the labels {', '.join(labels)}, wanted are {', '.join(LABELS)}: it is "
            f"another release"
        )
    return settings


def _shares(values: Sequence[float] | Mapping[str, float], labels: Sequence[str]) -> list[float]:
    """Return one share per label, from 0 to 1, of a list or of a dict by label."""
    if isinstance(values, Mapping):
        by_label = {str(name).lower(): value for name, value in values.items()}
        values = [by_label[name] for name in labels]
    shares = [float(value) for value in values]
    if len(shares) != len(LABELS) or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"{values} are not {len(LABELS)} shares from 0 to 1")
    return shares


def _load(network: nn.Module, path: Path, names: Mapping[str, str | None]) -> None:
    """Load a file of the release into `network`, its keys renamed.

    Raises:
        InputError: it can't be read, or its keys, shapes or values are not those of the network.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} can't be read ({error}): get the release again") from error
    state: dict[str, Tensor] = {}
    for name, value in weights.items():
        start = next((start for start in names if name.startswith(start)), "")
        renamed = names.get(start, "")
        if renamed is not None:
            state[renamed + name.removeprefix(start)] = value
    own = network.state_dict()
    wrong = sorted(state.keys() ^ own.keys())
    wrong += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    wrong += [name for name, value in state.items() if not torch.isfinite(value).all()]
    if wrong:
        raise InputError(
            f"{path} is not of this release: {len(wrong)} tensors are missing, unknown, of another "
            f"shape or not finite, such as {wrong[0]}"
        )
    network.load_state_dict(state)
