"""Measure whether heat maps show where a network looked, and whether it looked at blood.

    python benchmarks/heat_maps.py output/results/0001/predictor [--patients 20] [--stride 32]
    python benchmarks/heat_maps.py output/results/0001/predictor --dataset input/datasets/ct_ich

Phantom heads that no demo holds are made, written as DICOM and prepared as the predictor needs
them, or the labelled slices of a prepared dataset are taken. On slices with blood:

* Deletion: the 5 % most activated pixels are blurred (Gaussian of 1/20 of the side, HU cut to the
  brain window), and the slice is predicted again. Printed: the mean fall of the logit of `any`,
  that for random smooth blobs of the same area on the head, and the factor between both.
* Pointing, on phantoms alone, whose blood is known pixel by pixel: how often the peak of the map is
  on blood, dilated by half of a cell of the map, against the share of the cavity of the skull that
  this covers: how often chance would hit.

Intervals are of 95 %, from patients drawn again 2,000 times.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from common.cli import run_script
from common.dicom.upright import turn_image
from common.errors import InputError
from common.models import layer_cam
from common.predictors.base import AbstractPredictor
from common.predictors.heat_maps import HeatMaps, heat_maps
from common.predictors.loading import load_predictor
from common.preparation import prepare_dataset
from common.slices.pixel_steps import require_same_steps, steps_of
from common.slices.regions import HEAD_HU, skull_and_cavity
from common.slices.source_grid import SourceGrid, source_grids
from common.slices.table import SliceTable
from rsna.phantom.rsna_files import draw_family, encode_study, names_of
from rsna.phantom.study import generate_study
from rsna.sources.dicom import DicomSource
from rsna_model import build_model
from rsna_task import ANY_ONLY

SEED, SHARE, DRAWS, NUM_BLOBS = 1604, 0.05, 2000, 3
BRAIN_HU = (0, 80)
(ANY,) = ANY_ONLY.label_names
Blood = dict[str, tuple[np.ndarray, np.ndarray]]


class Blurred(SliceTable):
    """A dataset in which chosen pixels of some slices, by row, are blurred when they are read."""

    chosen: dict[int, np.ndarray]

    def image_hu(self, row: int) -> np.ndarray:
        image_hu = super().image_hu(row)
        if row not in self.chosen:
            return image_hu
        sigma = max(image_hu.shape) / 20
        soft = cv2.GaussianBlur(np.clip(image_hu, *BRAIN_HU).astype(np.float32), (0, 0), sigma)
        return np.where(self.chosen[row], np.rint(soft).astype(np.int16), image_hu)


def make_phantoms(
    folder: Path, num_patients: int, predictor: AbstractPredictor
) -> tuple[SliceTable, Blood]:
    """Return prepared phantoms; of their positive slices the blood and the cavity, by image id."""
    blood: Blood = {}
    (folder / "dicom").mkdir()
    for patient in range(num_patients):
        study = generate_study(patient, 0, SEED)
        rng = np.random.default_rng([SEED, patient])
        names = names_of(patient, 0, len(study.image_hu), SEED)
        for name, data in encode_study(study, names, draw_family(rng), 0, rng).items():
            (folder / "dicom" / f"{name}.dcm").write_bytes(data)
        positive = study.labels.any(axis=1)
        for index in np.flatnonzero(positive):
            spacing_mm = (study.protocol.spacing,) * 2
            _, cavity = skull_and_cavity(study.image_hu[index], spacing_mm)
            if cavity is not None:
                blood[names.image_ids[index]] = study.is_blood[index], cavity
    steps = steps_of(predictor.training)
    prepare_dataset(DicomSource(folder / "dicom"), folder / "dataset", n_jobs=0, steps=steps)
    return SliceTable.load(folder / "dataset"), blood


def falls(
    predictor: AbstractPredictor, table: SliceTable, rows: np.ndarray, chosen: list[np.ndarray]
) -> np.ndarray:
    """Return by how much the logit of `any` falls where the chosen pixels of each row are blurred.

    Slices are read one by one, so that neighbours in a sample stay as they are.
    """
    k = list(predictor.label_names).index(ANY)
    before = predictor.predict_rows(table, rows).logits[:, k]
    changed, after = Blurred(table.frame, table.folder), []
    for row, pixels in zip(rows.tolist(), chosen, strict=True):
        changed.chosen = {row: pixels}
        after.append(predictor.predict_rows(changed, [row]).logits[0, k])
    return before - np.array(after)


def most_activated(values: np.ndarray) -> np.ndarray:
    """Return the `SHARE` of pixels with the largest values."""
    number = round(SHARE * values.size)
    return values >= np.partition(values.ravel(), -number)[-number]


def on_stored(values: np.ndarray, grid: SourceGrid, shape: tuple[int, int]) -> np.ndarray:
    """Return values on the grid of the source, at the pixels of the stored slice."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    upright = np.ascontiguousarray(turn_image(values, grid.turn))
    return cv2.warpAffine(upright, grid.matrix[:2], shape[::-1], flags=flags)


def random_blobs(image_hu: np.ndarray, cell: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise, as coarse as the map, above 0 on the head and 0 elsewhere."""
    noise = rng.normal(size=image_hu.shape).astype(np.float32)
    noise[:] = cv2.GaussianBlur(noise, (0, 0), cell)
    return np.where(image_hu > HEAD_HU, noise - noise.min() + 1e-6, 0)


def interval(statistic: Callable[..., float], patients: np.ndarray, *values: np.ndarray) -> str:
    """Return a statistic of values (n,) and its interval, as text."""
    rng = np.random.default_rng(SEED)
    of_patient = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    drawn = []
    for _ in range(DRAWS):
        chosen = rng.integers(len(of_patient), size=len(of_patient))
        rows = np.concatenate([of_patient[patient] for patient in chosen])
        drawn.append(statistic(*(value[rows] for value in values)))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{statistic(*values):.2f} ({low:.2f} to {high:.2f})"


def deletion(
    predictor: AbstractPredictor, table: SliceTable, rows: np.ndarray, maps: HeatMaps
) -> Iterator[str]:
    rng = np.random.default_rng(SEED)
    grids = source_grids(table, rows)
    by_map: list[np.ndarray] = []
    by_blobs: list[list[np.ndarray]] = [[] for _ in range(NUM_BLOBS)]
    for index, row in enumerate(rows.tolist()):
        image_hu = table.image_hu(row)
        cell = maps.resolution(index) / grids[index].matrix[0, 0]
        by_map.append(most_activated(on_stored(maps[index], grids[index], image_hu.shape)))
        for masks in by_blobs:
            masks.append(most_activated(random_blobs(image_hu, cell, rng)))
    fall = falls(predictor, table, rows, by_map)
    at_random = np.mean([falls(predictor, table, rows, masks) for masks in by_blobs], axis=0)
    patients = table.frame["patient_id"].to_numpy()[rows]
    yield f"deletion, {len(rows)} slices of {len(np.unique(patients))} patients: fall of the logit"
    yield f"  heat map      {interval(np.mean, patients, fall)}"
    yield f"  random blobs  {interval(np.mean, patients, at_random)}"
    factor = interval(lambda one, other: one.mean() / other.mean(), patients, fall, at_random)
    yield f"  factor        {factor}"


def pointing(table: SliceTable, rows: np.ndarray, maps: HeatMaps, blood: Blood) -> Iterator[str]:
    hits, chances = [], []
    for index, row in enumerate(rows.tolist()):
        mask, cavity = blood[table.image_id(row)]
        radius = max(1, round(maps.resolution(index) / 2))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        near = cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
        hits.append(near[np.unravel_index(maps[index].argmax(), near.shape)])
        chances.append((near & cavity).sum() / cavity.sum())
    patients = table.frame["patient_id"].to_numpy()[rows]
    yield f"pointing, {len(rows)} slices of {len(np.unique(patients))} phantoms: peak on blood"
    yield f"  heat map      {interval(np.mean, patients, np.array(hits, dtype=float))}"
    yield f"  chance        {interval(np.mean, patients, np.array(chances))}"


def measure(
    predictor: AbstractPredictor, table: SliceTable, rows: np.ndarray, blood: Blood
) -> Iterator[str]:
    if not len(rows):
        raise InputError(f"{table.folder}: no readable slice is labelled {ANY}")
    started = time.perf_counter()
    maps = heat_maps(predictor, table, rows, ANY, probabilities=np.ones(len(rows)))
    seconds = (time.perf_counter() - started) / len(rows)
    yield f"{maps.description}; a cell is {maps.resolution(0):.1f} pixels of the file wide"
    yield f"{seconds:.3f} s a slice, without its prediction"
    yield from deletion(predictor, table, rows, maps)
    if blood:
        yield from pointing(table, rows, maps, blood)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("predictor", type=Path)
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--stride", type=int, default=layer_cam.STRIDE, help="of the layer")
    arguments = parser.parse_args()
    layer_cam.STRIDE = arguments.stride
    predictor = load_predictor(arguments.predictor, build_model)
    with tempfile.TemporaryDirectory() as folder:
        blood: Blood = {}
        if arguments.dataset is None:
            table, blood = make_phantoms(Path(folder), arguments.patients, predictor)
            is_wanted = table.frame["image_id"].isin(list(blood))
        else:
            require_same_steps(predictor.training, arguments.dataset)
            table = SliceTable.load(arguments.dataset)
            is_wanted = table.frame[ANY].eq(1)
        rows = np.flatnonzero(is_wanted & table.readable)
        for line in measure(predictor, table, rows, blood):
            print(line, flush=True)


if __name__ == "__main__":
    run_script(main)
