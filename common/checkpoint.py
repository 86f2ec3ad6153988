"""Checkpoint files: a dict of tensors and plain types, written whole, loaded safely."""

import hashlib
import io
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.files import write_bytes
from common.words import count

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` to `path` in one step.

    It is serialised in memory first: torch's own writer turns a full disk into a RuntimeError.
    """
    save_weights(path, {**state, "format_version": FORMAT_VERSION})


def save_weights(path: Path, state: Mapping[str, Any]) -> str:
    """Write a dict of tensors and plain types to `path` in one step; return its SHA-256."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def load_checkpoint(path: Path, flag: str = "checkpoint") -> dict[str, Any]:
    """Return the dict in `path`, on the CPU; nothing but tensors and plain types is unpickled.

    Raises:
        InputError: the file is missing, damaged, of a later format or not a dict.
    """
    if not path.is_file():
        raise InputError(f"{flag} {path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load it unsafely.
        raise InputError(
            f"{flag} {path}: not a checkpoint that can be read safely (it is no torch file, or "
            f"holds more than tensors and plain types)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        # A file that ends too early is an OSError for torch.
        reason = (str(error).strip().splitlines() or ["unknown"])[0][:200]
        raise InputError(
            f"{flag} {path}: not a checkpoint that can be read safely ({reason})"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{flag} {path}: holds a {type(state).__name__}, not a dict of tensors")
    if state.get("format_version", 0) > FORMAT_VERSION:
        raise InputError(f"{flag} {path}: written by a newer version: update the program")
    return state


def inference_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights to predict with: the first average that has begun, else the model.

    A dict that is itself a plain state dict is returned as it is.
    """
    for average in state.get("averages", {}).values():
        if average["num_updates"]:
            return average["model"]
    for key in ("model", "model_state_dict", "state_dict"):
        if isinstance(state.get(key), dict):
            return state[key]
    return dict(state)


def load_weights(model: nn.Module, path: Path, flag: str = "--net_weight_file") -> None:
    """Load the weights of a checkpoint or a plain state dict into `model`.

    Raises:
        InputError: keys or shapes differ; all of them are listed, and nothing is loaded.
    """
    weights = inference_weights(load_checkpoint(path, flag))
    weights = {_without_prefix(name): value for name, value in weights.items()}
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [
        f"{name} has shape {_shape(weights[name])} instead of {_shape(own[name])}"
        for name in own
        if name in weights and _shape(weights[name]) != _shape(own[name])
    ]
    if problems:
        for problem in problems:
            logger.error("%s: %s", path.name, problem)
        shown = "; ".join(problems[:5]) + ("; ... (all are in the log)" if problems[5:] else "")
        raise InputError(
            f"{flag} {path}: does not match the network of --net_model and --net_num_classes in "
            f"{count(len(problems), 'key')}: {shown}"
        )
    model.load_state_dict(weights)


def _without_prefix(name: str) -> str:
    """Remove the prefixes that wrappers for many devices and compilation add to names."""
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
