"""The benchmark of prediction by two processes, at toy size."""

import shutil

import numpy as np
import pandas as pd
import pytest
from predictor_factory import make_predictor

from benchmarks import predict_scaling
from common.slices.table import SliceTable
from rsna_model import RSNAModel


def test_ratios_are_medians_over_pairs():
    one = [{"wall": 10.0, "cpu": 8.0}, {"wall": 30.0, "cpu": 9.0}, {"wall": 12.0, "cpu": 8.0}]
    two = [{"wall": 5.0, "cpu": 4.0}, {"wall": 10.0, "cpu": 5.0}, {"wall": 12.0, "cpu": 8.0}]
    found = predict_scaling.ratios({1: one, 2: two})
    assert found == {"ratio_two_processes": 2.0, "ratio_processor_time": 1.8}


@pytest.mark.long
def test_two_processes_are_measured_on_the_same_slices(tmp_path):
    dataset = predict_scaling.make_dataset(tmp_path / "dataset", 40)
    table = SliceTable.load(dataset)
    assert table.readable.all() and len(table.groups_of(np.arange(40))) == 2
    network = RSNAModel("test_resnet")
    make_predictor(network=network, model=network.specification).save(tmp_path / "predictor")
    outputs = [tmp_path / f"{num}.json" for num in (1, 2)]
    for num, output in zip((1, 2), outputs, strict=True):
        spent = predict_scaling.run(num, tmp_path / "predictor", dataset, output)
        assert spent["cpu"] > 0 and spent["wall"] > 0
    tables = [path.with_suffix(".parquet") for path in outputs]
    assert predict_scaling.largest_difference(tables) < predict_scaling.TOLERANCE
    other = tmp_path / "other.parquet"
    shutil.copy(tables[0], other)
    frame = pd.read_parquet(other)
    frame.loc[3, "any"] += 0.25
    frame.to_parquet(other)
    assert predict_scaling.largest_difference([tables[0], other]) == pytest.approx(0.25)
    frame[::-1].reset_index(drop=True).to_parquet(other)
    assert predict_scaling.largest_difference([tables[0], other]) == float("inf")
