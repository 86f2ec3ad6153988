"""Measure what a study costs with a predictor that is open: from a folder of DICOM to the tables.

Prints seconds, wall and of the processor, which matter where other programs run: the median and the
least of the repeats. `predicting` is the part of `study` after its files are prepared, `network`
the part of that until there are logits; `volume` is the same head from memory. Without --predictor
it is the default network with random weights, which takes as long.

    python benchmarks/predictor.py --folder ../shared/data/ge_head [--predictor FOLDER]
"""

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.figures import print_figures  # noqa: E402


def make_predictor(folder: Path) -> Path:
    """Write the default network, at the size of images of the demo, and return its folder."""
    from common.predictors.slices import SlicePredictor
    from common.transforms import load_transform
    from rsna_model import RSNAModel
    from rsna_task import LABEL_WEIGHTS, LABELS

    network = RSNAModel("tf_efficientnet_lite0").eval()
    SlicePredictor(
        network=network,
        model=network.specification,
        label_names=LABELS,
        label_weights=LABEL_WEIGHTS,
        prior=np.full(len(LABELS), 0.1),
        transform=load_transform(ROOT / "transforms" / "valid_simple_512.json").with_size(192),
    ).save(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--predictor", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.stderr.write(f"error: --folder {arguments.folder}: no such folder\n")
        sys.exit(2)
    times: dict[str, list[tuple[float, float]]] = {}

    def timed(part: str, work: Callable[..., Any], *arguments: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work(*arguments)
        spent = time.perf_counter() - wall, time.process_time() - cpu
        times.setdefault(part, []).append(spent)
        return result

    module = timed("import", importlib.import_module, "rsna.predictor")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.predictor or make_predictor(Path(temporary))
        predictor = timed("open", module.Predictor.open, folder)
        timed("first study", predictor.predict_folder, arguments.folder)
        for _ in range(arguments.repeats):
            table = timed("study", predictor.predict_folder, arguments.folder).table
            timed("predicting", predictor.predict_table, table)
            rows, options = module.image_rows(table), predictor.options
            timed("network", predictor.loaded.predict_rows, table, rows, options)
            first = np.flatnonzero(table.readable)[0]
            hu = np.stack([table.image_hu(row) for row in table.group_rows(first)])
            spacing = np.roll(table.spacings_mm(np.array([first]))[0], 1)
            timed("volume", predictor.predict_volume, hu, spacing.tolist())
    print(f"{int(table.readable.sum())} slices, the volume {hu.shape}, {os.cpu_count()} cores")
    print(f"{'':<12} {'wall':>7} {'least':>7} {'cpu':>7} {'least':>7}")
    figures = {}
    for part, spent in times.items():
        wall, cpu = zip(*spent, strict=True)
        figures[part] = [statistics.median(wall), min(wall), statistics.median(cpu), min(cpu)]
        print(f"{part:<12} {' '.join(f'{seconds:7.3f}' for seconds in figures[part])}")
    print_figures(figures)


if __name__ == "__main__":
    main()
