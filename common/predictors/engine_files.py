"""Make engines of the networks in a predictor, keep them only where they agree with torch."""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError
from common.experiment import ENGINE, JSON_FILE, read_predictor_json
from common.files import file_sha256, write_json
from common.predictors.base import AbstractPredictor, PredictOptions, RowLogits
from common.predictors.composed import ComposedPredictor
from common.predictors.engine import (
    ENGINE_FILE,
    SCALING_FILE,
    EngineNetwork,
    Precision,
    has_bf16,
)
from common.predictors.sequence import StudyPredictor
from common.predictors.slices import SlicePredictor
from common.scoring.metrics import weighted_log_loss
from common.scoring.predictions import probabilities_of
from common.slices.table import SliceTable
from common.windows import AIR_HU
from common.words import first_line

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of a probability from that of torch in float32."""
# Each network inside a predictor is compared on so many slices, the predictor itself on all.
_SLICES_OF_PART = 256
_BATCH = 3  # of examples that a network is traced with; no other size of an image is


@dataclass(frozen=True)
class Measured:
    """How far an engine is from torch.

    Attributes:
        largest_difference: of a probability of a slice or of a series.
        log_loss, log_loss_in_torch: weighted, of the slices with labels; None where there are none.
    """

    largest_difference: float
    log_loss: float | None
    log_loss_in_torch: float | None


def export_engines(
    predictor: AbstractPredictor,
    folder: Path,
    table: SliceTable,
    dataset: str,
    options: PredictOptions,
) -> dict[Precision, Measured]:
    """Write an engine for each network of a predictor into its folder, and return what changed.

    Each is compared with torch on slices of a dataset, and the whole predictor on all of them. Its
    networks are those of the engine afterwards.

    Args:
        predictor: as it was loaded from `folder`, in torch.
        table: slices that can be read; those with labels make the log loss.
        dataset: the name of the table, to be kept.
        options: how the slices are predicted.

    Raises:
        InputError: OpenVINO can't run a network, or a probability is further than `TOLERANCE` off
            in float32; nothing is written then.
    """
    precisions: tuple[Precision, ...] = ("float32", "bf16") if has_bf16() else ("float32",)
    rows = np.flatnonzero(table.readable)
    parts = dict(_networks(predictor, folder))
    chosen = {home: rows[:_SLICES_OF_PART] for home in parts} | {folder: rows}
    predictors: dict[Path, AbstractPredictor] = {**parts, folder: predictor}

    def predicted() -> dict[Path, RowLogits]:
        return {
            home: p.predict_rows(table, chosen[home], options) for home, p in predictors.items()
        }

    with tempfile.TemporaryDirectory(prefix=".engine.", dir=folder) as scratch:
        in_torch = predicted()
        records = {
            home: _write_engine(part, home, Path(scratch) / str(number))
            for number, (home, part) in enumerate(parts.items())
        }
        measured: dict[Path, dict[Precision, Measured]] = {home: {} for home in predictors}
        for precision in precisions:
            for number, (home, part) in enumerate(parts.items()):
                place, content = Path(scratch) / str(number), {"model": None, ENGINE: records[home]}
                part.network = EngineNetwork(place, content, precision, lambda: nn.Identity())
            try:
                found = predicted()
            except RuntimeError as error:  # of an engine that runs with the traced batch alone
                raise _unusable(folder, error) from error
            for home in predictors:
                both = in_torch[home], found[home]
                result = _compared(predictors[home], table, chosen[home], *both)
                measured[home][precision] = result
                if precision == "float32" and not result.largest_difference <= TOLERANCE:
                    raise InputError(
                        f"{home}: a probability of the engine is {result.largest_difference:.2g} "
                        f"off that of torch, more than {TOLERANCE:g}: nothing was written; predict "
                        f"with torch"
                    )
        for number, home in enumerate(parts):
            for name in records[home]["files"]:
                shutil.move(Path(scratch) / str(number) / name, home / name)
    for home, results in measured.items():
        kept: dict[str, Any] = {name: asdict(result) for name, result in results.items()}
        kept |= {"dataset": dataset, "num_slices": len(chosen[home])}
        record = {**records.get(home, {}), "measured": kept}
        write_json(home / JSON_FILE, {**read_predictor_json(home), ENGINE: record})
    return measured[folder]


def _networks(predictor: AbstractPredictor, folder: Path) -> Iterator[tuple[Path, Any]]:
    """Yield each predictor with a network of its own, those inside others too, by folder.

    Raises:
        InputError: one is of a kind that no engine is made of.
    """
    if isinstance(predictor, ComposedPredictor):
        for name, part in predictor.parts.items():
            yield from _networks(part, folder / name)
    if isinstance(predictor, SlicePredictor | StudyPredictor):
        yield folder, predictor
    elif not isinstance(predictor, ComposedPredictor):
        raise InputError(
            f"{folder}: no engine is made of networks of the kind {predictor.kind!r}, which see "
            f"images of whole series: predict with torch"
        )


def _compared(
    predictor: AbstractPredictor,
    table: SliceTable,
    rows: NDArray[np.int64],
    in_torch: RowLogits,
    found: RowLogits,
) -> Measured:
    labels = table.labels(rows, predictor.label_names)
    p, q = (probabilities_of(one.logits, predictor.calibration) for one in (in_torch, found))
    largest = float(np.abs(p - q).max())
    if in_torch.series_logits is not None and found.series_logits is not None:
        of_series = probabilities_of(in_torch.series_logits), probabilities_of(found.series_logits)
        largest = max(largest, float(np.abs(of_series[0] - of_series[1]).max()))
    weights = predictor.label_weights
    losses = [weighted_log_loss(labels, values, weights) for values in (q, p)]
    return Measured(largest, *losses)


def _write_engine(predictor: Any, home: Path, folder: Path) -> dict[str, Any]:
    """Write the engine of one network into a folder, and return what predictor.json keeps of it."""
    folder.mkdir()
    network = predictor.network.eval().cpu()
    is_of_series = isinstance(predictor, StudyPredictor)
    module: nn.Module
    if is_of_series:
        given, module = _outputs_example(predictor), _OfOutputs(network)
        names = list(network.output_names)
        arrays: dict[str, Any] = {
            f"{n}": np.stack([scaling.mean, scaling.spread])
            for n, scaling in enumerate(predictor.scalings)
            if scaling is not None
        }
        np.savez(folder / SCALING_FILE, **arrays)
        size = None
    else:
        given, size = _image_example(predictor)
        module = OfImages(network)
        names = ["logits", "features"] if hasattr(network, "forward_features") else ["logits"]
    convert(module, given, size, home, folder / ENGINE_FILE)
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    return {
        "files": files,
        "weights_sha256": read_predictor_json(home)["weights_sha256"],
        "is_of_series": is_of_series,
        "outputs": names,
        "feature_dtype": np.dtype(getattr(network, "feature_dtype", np.float32)).name,
    }


@contextmanager
def _log_as_it_is() -> Iterator[None]:
    """Give the root logger back as it was: after a failure OpenVINO lets it pass errors alone."""
    root = logging.getLogger()
    level, filters = root.level, list(root.filters)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:] = filters


def convert(
    module: nn.Module,
    given: dict[str, Tensor],
    size: tuple[int, int] | None,
    home: Path,
    path: Path,
) -> None:
    """Write a module as OpenVINO keeps it, with names for its inputs."""
    import openvino
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = tuple(given.values())
    try:
        with torch.no_grad(), warnings.catch_warnings(), _log_as_it_is():
            # What comes out is compared: no warnings of tracing, and no tracing again to check it.
            warnings.simplefilter("ignore")
            traced = TorchScriptPythonDecoder(
                module, example_input=example, trace_kwargs={"check_trace": False}
            )
            model = openvino.convert_model(traced, example_input=example)
        for port, name in zip(model.inputs, given, strict=True):
            port.get_tensor().set_names({name})
        if size is not None:
            model.reshape([-1, next(iter(given.values())).shape[1], *size])
    except Exception as error:  # whatever a converter of any network may raise
        raise _unusable(home, error) from error
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # its streams do not say more
        raise InputError(
            f"{home}: the engine can't be written ({first_line(error)}), as on a full disk: free "
            f"some space, then run the same command again"
        ) from error


def _unusable(home: Path, error: BaseException) -> InputError:
    while error.__cause__ is not None:  # the first says more than what the converter made of it
        error = error.__cause__
    reason = str(error).strip().rpartition("\n")[2]
    return InputError(f"{home}: OpenVINO can't run this network ({reason}): predict with torch")


class OfImages(nn.Module):
    """Images (batch, channels, rows, columns) to logits and, where there are some, features."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        if not hasattr(self.network, "forward_features"):
            return self.network(image)
        features = self.network.forward_features(image)
        return self.network.forward_head(features), features


class _OfOutputs(nn.Module):
    """Outputs of slice networks for one series, none of it padded, to its logits."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        logits: Tensor,
        metadata: Tensor,
        position_mm: Tensor,
        lengths: Tensor,
        *features: Tensor,
    ) -> tuple[Tensor, ...]:
        inputs = {"logits": logits, "metadata": metadata, "position_mm": position_mm}
        outputs = self.network({**inputs, "lengths": lengths, "features": features})
        return tuple(outputs[name] for name in self.network.output_names)


def _image_example(predictor: SlicePredictor) -> tuple[dict[str, Tensor], tuple[int, int] | None]:
    """Return images to trace a network with, and their (rows, columns); None where these vary."""
    airs = [
        np.full((*shape, len(predictor.slice_offsets)), AIR_HU, np.int16)
        for shape in ((512, 512), (384, 640))
    ]
    images = [predictor.transform(air_hu, 0, None, (0.5, 0.5, 5.0)) for air_hu in airs]
    rows, columns = images[0].shape[1:]
    example = torch.from_numpy(images[0]).repeat(_BATCH, 1, 1, 1)
    return {"image": example}, (rows, columns) if images[0].shape == images[1].shape else None


def _outputs_example(predictor: StudyPredictor) -> dict[str, Tensor]:
    num_slices, num_labels = 9, len(predictor.label_names)
    features = [scaling for scaling in predictor.scalings if scaling is not None]
    return {
        "logits": torch.zeros(1, num_slices, num_labels * len(predictor.scalings)),
        "metadata": torch.zeros(1, num_slices, 5),
        "position_mm": torch.arange(num_slices, dtype=torch.float32)[None],
        "lengths": torch.tensor([num_slices]),
        **{
            f"features_{n}": torch.zeros(1, num_slices, len(scaling.mean))
            for n, scaling in enumerate(features)
        },
    }
