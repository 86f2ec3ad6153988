"""The sequence networks by name."""

import difflib
from typing import Any

from common.errors import InputError
from common.models.sequence import RecurrentModel, SequenceModel, TransformerModel
from common.models.two_stage import TwoStageModel

SEQUENCE_MODELS: dict[str, type[SequenceModel]] = {
    "study-bigru": RecurrentModel,
    "study-lstm": RecurrentModel,
    "study-first_place": TwoStageModel,
    "study-transformer": TransformerModel,
}


def build_sequence_model(specification: dict[str, Any]) -> SequenceModel:
    """Return the network that `SequenceModel.specification` describes, with random weights."""
    name = specification["name"]
    if name not in SEQUENCE_MODELS:
        near = difflib.get_close_matches(name, SEQUENCE_MODELS, 1) or list(SEQUENCE_MODELS)
        raise InputError(f"--net_model {name}: no such study network; there is {', '.join(near)}")
    return SEQUENCE_MODELS[name](**specification)
