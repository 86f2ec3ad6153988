"""The benchmark of heat maps, on spots that a network sees by its making."""

import re
from pathlib import Path

import numpy as np
import pytest
from spot_network import spot_predictor
from turned_heads import head, spot_mask, write_head

from benchmarks import heat_maps as benchmark
from common.preparation import prepare_dataset
from common.slices.table import SliceTable
from rsna.phantom.study import generate_study
from rsna.sources.dicom import DicomSource


def numbers(lines: list[str], name: str) -> list[float]:
    (line,) = [line for line in lines if line.strip().startswith(name)]
    return [float(value) for value in re.findall(r"-?\d+\.\d+", line)]


def test_a_network_that_sees_spots_is_measured_so(tmp_path: Path) -> None:
    for patient in range(3):
        turn = (bool(patient % 2), False, False)
        write_head(tmp_path / "in" / str(patient), turn, 0.0, [1.0, 1.0], patient)
    prepare_dataset(DicomSource(tmp_path / "in"), tmp_path / "out", n_jobs=0)
    table = SliceTable.load(tmp_path / "out")
    rows = np.flatnonzero(table.readable)
    blood = {}
    for row in rows:
        number = int(table.image_id(row)[-1])
        blood[table.image_id(row)] = spot_mask(number), head(number) == 1054
    lines = list(benchmark.measure(spot_predictor(), table, rows, blood))
    deletion = lines.index("deletion, 9 slices of 3 patients: fall of the logit")
    fall, *_ = numbers(lines[deletion : deletion + 4], "heat map")
    at_random, *_ = numbers(lines, "random blobs")
    factor, low, high = numbers(lines, "factor")
    assert factor == pytest.approx(fall / at_random, rel=0.2) and low <= factor <= high
    assert fall > 0.9 and factor > 3
    pointing = lines.index("pointing, 9 slices of 3 phantoms: peak on blood")
    assert numbers(lines[pointing:], "heat map") == [1.0, 1.0, 1.0]
    assert 0.01 < numbers(lines[pointing:], "chance")[0] < 0.2
    # A network that sees nothing there hits no better than chance.
    blind = list(benchmark.measure(spot_predictor(sign=-1.0), table, rows, blood))
    assert numbers(blind[pointing:], "heat map")[0] < 0.5


@pytest.mark.long
def test_blood_of_phantoms_is_bright_and_in_labelled_slices() -> None:
    study = generate_study(1, 0, benchmark.SEED)
    patient = 1
    while not study.labels.any():
        patient += 1
        study = generate_study(patient, 0, benchmark.SEED)
    assert study.is_blood.shape == study.image_hu.shape
    positive = study.labels.any(axis=1)
    assert study.is_blood[positive].any(axis=(1, 2)).all()
    mask = study.is_blood & positive[:, None, None]
    around = (study.image_hu > 0) & (study.image_hu < 90) & ~study.is_blood
    assert np.median(study.image_hu[mask]) > np.median(study.image_hu[around]) + 15
