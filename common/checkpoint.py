"""Checkpoint files: a dict of tensors and plain types, written whole, loaded safely."""

import contextlib
import hashlib
import io
import logging
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import InputError
from common.experiment import JSON_FILE, read_predictor_json, weights_file
from common.files import write_bytes
from common.words import count, first_line

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1

# A zip archive ends with the length of its comment, two bytes, and the comment.
_NO_COMMENT = b"\0\0"
_MARK = b"sha256:"
_DIGEST_LENGTH = 64


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` to `path` in one step.

    It is serialised in memory first: torch's own writer turns a full disk into a RuntimeError.
    """
    save_weights(path, {**state, "format_version": FORMAT_VERSION})


def save_weights(path: Path, state: Mapping[str, Any]) -> str:
    """Write a dict of tensors and plain types to `path` in one step; return its SHA-256.

    The file is a zip archive, as torch writes it, whose comment holds the digest of all else. Any
    program that reads torch files reads it.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    assert content.endswith(_NO_COMMENT), "torch writes a zip archive without a comment"
    comment = _MARK + hashlib.sha256(content).hexdigest().encode()
    content = content[: -len(_NO_COMMENT)] + struct.pack("<H", len(comment)) + comment
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def load_checkpoint(path: Path, flag: str = "checkpoint") -> dict[str, Any]:
    """Return the dict in `path`, on the CPU; nothing but tensors and plain types is unpickled.

    Raises:
        InputError: the file is missing, damaged, of a later format or not a dict. Of a damaged one
            the message names the newest sound checkpoint beside it.
    """
    if not path.is_file():
        raise InputError(f"{flag} {path}: no such file")
    try:
        state = _load_sound(path)
    except InputError as error:
        raise InputError(f"{flag} {path}: {error}: {_way_out(path, flag)}") from error
    if state.get("format_version", 0) > FORMAT_VERSION:
        raise InputError(f"{flag} {path}: written by a newer version: update the program")
    return state


def load_weights_file(path: Path) -> dict[str, Any]:
    """Return the dict in a file of weights whose digest has been compared, as `load_checkpoint`.

    Raises:
        InputError: it can't be read; the message is the reason alone.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load it unsafely.
        raise InputError(
            "not a checkpoint that can be read safely (it is no torch file, or holds more than "
            "tensors and plain types)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        # A file that ends too early is an OSError for torch.
        raise InputError(
            f"cut off, damaged or not a checkpoint that can be read safely ({first_line(error)})"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"holds a {type(state).__name__}, not a dict of tensors")
    return state


def _load_sound(path: Path) -> dict[str, Any]:
    """Return the dict in a file; InputError with the reason where it is not what was written."""
    if not path.stat().st_size:
        raise InputError("empty, not a checkpoint that can be read")
    stated, found = _digests(path)
    if stated not in (None, found):
        raise InputError("damaged: its bytes are not those that were written (SHA-256)")
    state = load_weights_file(path)
    if stated is None:
        logger.info("%s has no digest: an earlier version or another program wrote it", path.name)
        values = [v for v in inference_weights(state).values() if isinstance(v, Tensor)]
        if not all(bool(v.isfinite().all()) for v in values if v.is_floating_point()):
            raise InputError("damaged: it holds weights that are not finite")
    return state


def _digests(path: Path) -> tuple[str | None, str | None]:
    """Return the digest that a file states of its content, and the one that this has."""
    num_bytes, length = path.stat().st_size, len(_MARK) + _DIGEST_LENGTH
    with open(path, "rb") as file:
        file.seek(max(num_bytes - length, 0))
        comment = file.read()
        if num_bytes < length + len(_NO_COMMENT) or not comment.startswith(_MARK):
            return None, None
        file.seek(0)
        digest, num_left = hashlib.sha256(), num_bytes - length - len(_NO_COMMENT)
        while num_left:
            block = file.read(min(num_left, 2**24))
            digest.update(block)
            num_left -= len(block)
    digest.update(_NO_COMMENT)
    return comment[len(_MARK) :].decode("ascii", "replace"), digest.hexdigest()


def newest_sound(folder: Path, besides: str) -> tuple[int, Path] | None:
    """Return iteration and path of the newest checkpoint to go on from, but that named `besides`;
    None where there is none.
    """
    sound: list[tuple[int, Path]] = []
    for path in folder.glob("*.pt"):
        with contextlib.suppress(InputError, OSError):
            if path.name != besides and "optimizer" in (state := _load_sound(path)):
                sound.append((int(state["iteration"]), path))
    return max(sound, default=None)


def _way_out(damaged: Path, flag: str) -> str:
    """Return what to do about a damaged checkpoint: the newest sound one beside it, if any."""
    sound = newest_sound(damaged.parent, besides=damaged.name)
    if sound is None:
        return "restore it from a copy, or train anew"
    iteration, path = sound
    found = f"the newest sound one there is {path}, of iteration {iteration}: "
    if flag.startswith("--"):
        return f"{found}give that one"
    return f"{found}copy it to {damaged.name} and run the same command again"


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
    """Load the weights of a checkpoint, a plain state dict or a predictor folder into `model`.

    Raises:
        InputError: keys or shapes differ; all of them are listed, and nothing is loaded.
    """
    path = weights_file(path)
    weights = inference_weights(load_checkpoint(path, flag))
    weights = {unwrapped_name(name): value for name, value in weights.items()}
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [
        f"{name} has shape {_shape(weights[name])} instead of {_shape(own[name])}"
        for name in own
        if name in weights and _shape(weights[name]) != _shape(own[name])
    ]
    if problems:
        raise misfit(
            f"{flag} {path}{_architecture(path)}: does not match the network of --net_model and "
            f"--net_num_classes in {count(len(problems), 'key')}",
            problems,
        )
    model.load_state_dict(weights)


def misfit(what: str, problems: Sequence[str]) -> InputError:
    """Return the error about weights that do not fit, with the first problems; log all."""
    for problem in problems:
        logger.error("%s", problem)
    shown = "; ".join(problems[:5]) + ("; ... (all are in the log)" if problems[5:] else "")
    return InputError(f"{what}: {shown}")


def _architecture(path: Path) -> str:
    """Return what predictor.json beside the weights says of their network, if there is one."""
    if not (path.parent / JSON_FILE).is_file():
        return ""
    model = read_predictor_json(path.parent).get("model", {})
    known = {name: model[name] for name in ("in_chans", "num_classes", "head") if name in model}
    described = ", ".join(f"{name} {value}" for name, value in known.items())
    return f" ({model.get('name')}, {described})"


def unwrapped_name(name: str) -> str:
    """Return a name without what wrappers for many devices and compilation put before it."""
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
