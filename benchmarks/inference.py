"""Networks in the engine of `ich export` against torch, per slice: float32, and bf16 where it is.

Both run a whole batch loop of the product on images that are ready: torch in float32,
channels-last, the engine as predict.py uses it, with the same number of threads, in interleaved
rounds. Weights are random. The ratios are of processor time, which a busy machine changes least;
with one thread that is the time of a core.

    python benchmarks/inference.py                     # both networks, one thread, a few minutes
    python benchmarks/inference.py --rounds 1 --network test_efficientnet:64:8

Ends with one line of JSON; status 3 where a ratio is below LIMITS.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import print_figures
from common.datasets.base import AbstractDataset

# Times that torch takes over those of the engine, for every network.
LIMITS = {"float32": 1.6, "bf16": 3.0}
# name:pixels:batch
NETWORKS = ("tf_efficientnet_lite0:192:28", "rsna-seresnext-50.32.4d:512:4")


class Images(AbstractDataset):
    """Images that are ready."""

    def __init__(self, num: int, pixels: int) -> None:
        super().__init__()
        self.images = np.random.default_rng(0).normal(0, 1, (num, 3, pixels, pixels))
        self.images = self.images.astype(np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        return {"image": self.images[index], "index": index}


def measure(spec: str, rounds: int, precisions: list[Any], folder: Path) -> dict[str, Any]:
    """Return ms a slice by way, ratios, and how far logits are from those of torch."""
    import torch

    from common.experiment import ENGINE
    from common.predictors.base import PredictOptions
    from common.predictors.engine import ENGINE_FILE, EngineNetwork
    from common.predictors.engine_files import OfImages, convert
    from common.predictors.torch_networks import run_network
    from rsna_model import RSNAModel

    name, pixels, batch = spec.split(":")
    torch.manual_seed(0)
    network = RSNAModel(name).eval()
    example = {"image": torch.zeros(2, 3, int(pixels), int(pixels))}
    folder.mkdir()
    convert(OfImages(network), example, (int(pixels), int(pixels)), folder, folder / ENGINE_FILE)
    record = {"outputs": ["logits", "features"], "feature_dtype": "float32", "is_of_series": False}
    content = {"model": None, ENGINE: record}
    images, options = Images(int(batch), int(pixels)), PredictOptions()
    ways: dict[str, Callable[[], Any]] = {
        "torch": lambda: run_network(network, "slices", images, int(batch), options)
    }
    for precision in precisions:
        engine = EngineNetwork(folder, content, precision, lambda: network)
        ways[precision] = partial(engine.run, images, int(batch), options)
    logits = {way: run()["logits"] for way, run in ways.items()}  # compiles, too
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    wall: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            start_cpu, start = time.process_time(), time.perf_counter()
            run()
            cpu[way].append(time.process_time() - start_cpu)
            wall[way].append(time.perf_counter() - start)
    ms = {way: float(np.median(values)) * 1000 / int(batch) for way, values in cpu.items()}
    return {
        "cpu_ms_a_slice": {way: round(value, 2) for way, value in ms.items()},
        "wall_ms_a_slice": {
            way: round(float(np.median(values)) * 1000 / int(batch), 2)
            for way, values in wall.items()
        },
        "ratio": {
            way: round(float(np.median(np.array(cpu["torch"]) / cpu[way])), 2) for way in precisions
        },
        "largest_difference_of_logits": {
            way: float(np.abs(logits[way] - logits["torch"]).max()) for way in precisions
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", nargs="+", default=NETWORKS, help="name:pixels:batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch is imported

    from common.predictors.engine import has_bf16

    precisions = ["float32", "bf16"] if has_bf16() else ["float32"]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, spec in enumerate(arguments.network):
            place = Path(folder) / str(number)
            found[spec] = measure(spec, arguments.rounds, precisions, place)
            print(spec, json.dumps(found[spec]), flush=True)
    lowest = {way: min(one["ratio"][way] for one in found.values()) for way in precisions}
    result = {
        "benchmark": "inference",
        "ratio_engine": lowest["float32"],
        "ratio_bf16": lowest.get("bf16"),
        "limits": LIMITS,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "load": round(os.getloadavg()[0], 1),
        "networks": found,
    }
    print_figures(result)
    if any(lowest[way] < LIMITS[way] for way in precisions):
        sys.exit(3)


if __name__ == "__main__":
    main()
