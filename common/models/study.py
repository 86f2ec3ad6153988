"""The sequence networks by name."""

import difflib
from typing import Any

from common.errors import InputError
from common.models.base import SeriesModel
from common.models.pooled import PooledModel
from common.models.sequence import LinearModel, RecurrentModel, SequenceModel, TransformerModel
from common.models.two_stage import TwoStageModel

SEQUENCE_MODELS: dict[str, type[SequenceModel]] = {
    "study-linear": LinearModel,
    "study-bigru": RecurrentModel,
    "study-lstm": RecurrentModel,
    "study-first_place": TwoStageModel,
    "study-transformer": TransformerModel,
}

# Of published weights; not trained here.
POOLED = "study-pooled"


def build_series_model(specification: dict[str, Any]) -> SeriesModel:
    """Return the network of a study predictor, trained here or imported, with random weights."""
    is_pooled = specification["name"] == POOLED
    return PooledModel(**specification) if is_pooled else build_sequence_model(specification)


def build_sequence_model(specification: dict[str, Any]) -> SequenceModel:
    """Return the network that `SequenceModel.specification` describes, with random weights."""
    name = specification["name"]
    if name not in SEQUENCE_MODELS:
        near = difflib.get_close_matches(name, SEQUENCE_MODELS, 1) or list(SEQUENCE_MODELS)
        raise InputError(f"--net_model {name}: no such study network; there is {', '.join(near)}")
    return SEQUENCE_MODELS[name](**specification)
