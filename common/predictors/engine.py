"""Networks that OpenVINO runs in place of torch: files beside the weights, made of them.

    engine.xml, engine.bin   the network, float32
    engine.npz               of a sequence network: mean and spread of the features that it sees
    predictor.json           under `engine`: digests of these files and of the weights, what the
                             network gives, and how far it was found to be from torch

`common.predictors.engine_files` writes them. Nothing here needs torch, which takes seconds to
import, nor timm.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.experiment import COPY_AGAIN, ENGINE, JSON_FILE
from common.features.slice_outputs import Scaling
from common.files import file_sha256
from common.machine import end_with_parent
from common.predictors.base import BuildModel, PredictOptions, checked_weights
from common.requirements import install_command

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["float32", "bf16"]
ENGINE_FILE = "engine.xml"
SCALING_FILE = "engine.npz"
_HINTS = {"float32": "f32", "bf16": "bf16"}
_EXPORT_AGAIN = "export it again (scripts/export.py)"


class EngineNetwork:
    """A network of one folder in OpenVINO, compiled for this processor at its first batch.

    Args:
        precision: of the arithmetic; bf16 keeps 8 bits of a mantissa.
        in_torch: opens the network in torch, for what an engine can't do.

    Attributes:
        output_names: what it gives, in this order.
        feature_dtype: of the features that it sees, if any; see `common.models.base.SeriesModel`.
    """

    def __init__(
        self,
        folder: Path,
        content: Mapping[str, Any],
        precision: Precision,
        in_torch: "Callable[[], nn.Module]",
    ) -> None:
        record = content[ENGINE]
        self.specification = content["model"]
        self.in_torch = in_torch
        self.output_names: tuple[str, ...] = tuple(record["outputs"])
        self.feature_dtype = np.dtype(record["feature_dtype"])
        self._is_of_series = bool(record["is_of_series"])
        self._file, self._precision = folder / ENGINE_FILE, precision
        self._compiled: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.in_torch().state_dict())

    def run(
        self, dataset: Any, batch_size: int, options: PredictOptions
    ) -> dict[str, NDArray[Any]]:
        """Return the outputs for all samples of a dataset, by name, in its order, and `index`.

        Series go through it one by one, so that none is padded; `batch_size` is of slices.
        """
        parts: dict[str, list[NDArray[Any]]] = {}
        size = 1 if self._is_of_series else batch_size
        for batch in _batches(dataset, size, options.num_workers):
            outputs = self._outputs(batch)
            for name, values in {**outputs, "index": batch["index"]}.items():
                parts.setdefault(name, []).append(values)
            if options.on_batch is not None:
                options.on_batch(int((batch["index"] >= 0).sum()))
        joined = {name: np.concatenate(values) for name, values in parts.items()}
        if options.with_features and "features" not in joined:
            raise InputError(f"{self._file} gives no features: predict with --pr_engine torch")
        return joined

    def _outputs(self, batch: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """Return the outputs of a batch of slices, or of a series, one row per slice."""
        if self._compiled is None:
            self._compiled = _compiled(self._file, self._precision)
        names = [port.get_any_name() for port in self._compiled.inputs]
        found = self._compiled({name: batch[name] for name in names}).values()
        outputs = dict(zip(self.output_names, found, strict=True))
        if not self._is_of_series:
            return outputs
        is_slice = batch["index"] >= 0
        of_slices = {name: values[0] for name, values in outputs.items()}
        for name in {"series_logits"} & of_slices.keys():
            of_slices[name] = np.tile(of_slices[name], (len(is_slice), 1))
        batch["index"] = batch["index"][is_slice]
        return {name: values[is_slice] for name, values in of_slices.items()}


class EngineNetworks:
    """Opens the engines in predictor folders; see `common.predictors.base.Networks`.

    Args:
        precision: bf16 where the processor has it and an export measured what it changes.
        build_model: makes a network of torch, for what an engine can't do.

    Raises:
        InputError: OpenVINO is not installed, or the processor lacks the precision.
    """

    def __init__(self, precision: Precision, build_model: BuildModel) -> None:
        if not has_bf16() and precision == "bf16":
            raise InputError("--pr_precision bf16: this processor has none: leave the flag out")
        self.precision, self.build_model = precision, build_model

    def slice_network(self, folder: Path, content: dict[str, Any]) -> EngineNetwork:
        self._check(folder, content)
        in_torch = partial(_network_in_torch, self.build_model, folder, content)
        return EngineNetwork(folder, content, self.precision, in_torch)

    def sequence_network(
        self, folder: Path, content: dict[str, Any]
    ) -> tuple[EngineNetwork, list[Scaling | None]]:
        network = self.slice_network(folder, content)
        with np.load(folder / SCALING_FILE, allow_pickle=False) as arrays:
            scalings = [
                Scaling(*arrays[f"{n}"]) if f"{n}" in arrays else None
                for n in range(content["num_slice_predictors"])
            ]
        return network, scalings

    def _check(self, folder: Path, content: dict[str, Any]) -> None:
        """Raise InputError unless the engine is as it was exported, of the weights beside it."""
        record = content.get(ENGINE)
        if record is None:
            raise InputError(
                f"--pr_engine openvino: {folder} has no engine: make one by scripts/export.py"
            )
        checked_weights(folder, content)
        if record["weights_sha256"] != content["weights_sha256"]:
            raise InputError(
                f"{folder / ENGINE_FILE} was made of other weights than {JSON_FILE} is of: "
                f"{_EXPORT_AGAIN}"
            )
        for name, digest in record["files"].items():
            if not (folder / name).is_file() or file_sha256(folder / name) != digest:
                raise InputError(
                    f"{folder / name} is missing, damaged or of another export: {COPY_AGAIN}, or "
                    f"{_EXPORT_AGAIN}"
                )
        if self.precision not in record["measured"]:
            raise InputError(
                f"--pr_precision {self.precision}: what it changes was not measured when {folder} "
                f"was exported: {_EXPORT_AGAIN} on a processor that has it"
            )


def _network_in_torch(
    build_model: BuildModel, folder: Path, content: dict[str, Any]
) -> "nn.Module":
    from common.predictors.torch_networks import TorchNetworks

    networks = TorchNetworks(build_model)
    if SCALING_FILE in content[ENGINE]["files"]:
        return networks.sequence_network(folder, content)[0]
    return networks.slice_network(folder, content)


def has_bf16() -> bool:
    """Return whether this processor computes in bf16; InputError where OpenVINO is missing."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise InputError(f"OpenVINO is not installed: {install_command('engine')}") from error
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _core() -> Any:
    """Return the one core of this process, which it keeps.

    Each sets a stack for signals and gives the one before back at its end: of several, one that is
    freed can be left, and the next signal, as when a process ends, kills this one.
    """
    import openvino

    return openvino.Core()


def outputs_of(
    network: Any, sees: str, dataset: Any, batch_size: int, options: PredictOptions
) -> dict[str, NDArray[Any]]:
    """Return the outputs of a network, in whatever runs it; see `torch_networks.run_network`."""
    if isinstance(network, EngineNetwork):
        return network.run(dataset, batch_size, options)
    from common.predictors.torch_networks import run_network  # torch takes seconds

    return run_network(network, sees, dataset, batch_size, options)


def batches_for(
    network: Any, dataset: Any, batch_size: int, num_workers: int
) -> Iterable[dict[str, Any]]:
    """Return the batches of a dataset, as whatever runs the network takes them."""
    if isinstance(network, EngineNetwork):
        return _batches(dataset, batch_size, num_workers)
    from common.datasets.loading import make_loader  # torch takes seconds

    return make_loader(dataset, batch_size, num_workers)


def _compiled(path: Path, precision: Precision) -> Any:
    # OpenVINO takes bf16 by itself where the processor has it: never unless asked for.
    options = {"INFERENCE_PRECISION_HINT": _HINTS[precision], **_threads()}
    return _core().compile_model(path, "CPU", options)


def _threads() -> dict[str, Any]:
    """Return how many threads OMP_NUM_THREADS allows, as torch takes it; all without it."""
    number = os.environ.get("OMP_NUM_THREADS", "")
    return {"INFERENCE_NUM_THREADS": int(number)} if number.isdecimal() and int(number) else {}


def _batches(dataset: Any, batch_size: int, num_workers: int) -> Iterator[dict[str, Any]]:
    """Yield the samples of a dataset as arrays, made by so many processes; 0: by this one."""
    rows = range(len(dataset))
    places = [rows[start : start + batch_size] for start in rows[::batch_size]]
    if num_workers == 0 or len(places) < 2:
        yield from (_batch(dataset, part) for part in places)
        return
    context = multiprocessing.get_context("fork")
    number = min(num_workers, len(places))
    with ProcessPoolExecutor(number, context, _start_worker, (dataset,)) as pool:
        waiting: deque[Future[dict[str, Any]]] = deque()
        for part in places:
            waiting.append(pool.submit(_batch_of_worker, part))
            if len(waiting) > 2 * number:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batch(dataset: Any, places: range) -> dict[str, Any]:
    """Return samples stacked by name; `features_<n>` are those of the n-th slice network."""
    samples = [dataset.sample(place) for place in places]
    for sample in samples:
        for number, features in enumerate(sample.pop("features", ())):
            sample[f"features_{number}"] = features
    batch = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    if batch["index"].ndim == 2:  # one series
        batch["index"] = batch["index"][0]
        batch["lengths"] = np.array([len(batch["index"])])
    return batch


_dataset: Any = None


def _start_worker(dataset: Any) -> None:
    global _dataset
    _dataset = dataset
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by it the pool ends those that are left
    cv2.setNumThreads(0)
    end_with_parent()


def _batch_of_worker(places: range) -> dict[str, Any]:
    return _batch(_dataset, places)
