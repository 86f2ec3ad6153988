"""Writes a predictor small enough to be passed on."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from common.errors import InputError
from common.experiment import JSON_FILE, WEIGHTS_FILE, read_predictor_json
from common.files import file_sha256, replacing, write_json
from common.predictors.base import AbstractPredictor

CARD_FILE, HALF_FILE = "model_card.md", "model.safetensors"


def write_half(predictor: AbstractPredictor, folder: Path) -> str:
    """Write a predictor of one network with float16 weights; return their SHA-256.

    Raises:
        InputError: the predictor holds several networks, or a weight that float16 can't hold.
    """
    predictor.save(folder)
    found = sorted(folder.rglob(WEIGHTS_FILE))
    if len(found) != 1:
        raise InputError(f"{folder}: {len(found)} networks: only a predictor of one is passed on")
    inner = found[0].parent
    weights = torch.load(found[0], map_location="cpu", weights_only=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    if not all(bool(v.isfinite().all()) for v in half.values()):
        raise InputError(f"{found[0]} holds weights that float16 can't hold")
    with replacing(inner / HALF_FILE) as temporary:
        save_file({name: value.contiguous() for name, value in half.items()}, temporary)
        # It is written for its owner alone, and is to be read by all, as the rest of the folder.
        temporary.chmod(found[0].stat().st_mode)
    sha256 = file_sha256(inner / HALF_FILE)
    content = read_predictor_json(inner)
    write_json(inner / JSON_FILE, {**content, "weights": HALF_FILE, "weights_sha256": sha256})
    found[0].unlink()
    return sha256
