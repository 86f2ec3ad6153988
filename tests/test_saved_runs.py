"""A dataset and experiments that an earlier version made load, predict and resume as they did."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.predictors.loading import load_predictor
from common.slices.table import SliceTable
from rsna_model import build_model

HERE = Path(__file__).resolve().parent / "saved_runs"
sys.path.insert(0, str(HERE))
import make  # noqa: E402
import tiny_network  # noqa: E402, F401


@pytest.mark.parametrize("name", [name for name in make.EXPERIMENTS if name != "stopped"])
def test_predictors_give_what_they_gave(name: str, tmp_path: Path) -> None:
    shutil.copytree(HERE / "runs", tmp_path, dirs_exist_ok=True)
    table = SliceTable.load(tmp_path / "input" / "datasets" / make.DATASET)
    predictor = load_predictor(tmp_path / "output" / "results" / name / "predictor", build_model)
    expected = pd.read_csv(HERE / "expected" / f"{name}.predictions.csv")
    found = predictor.predict_rows(table, table.rows_of(expected["image_id"]))
    columns = [f"logit_{label}" for label in predictor.label_names]
    np.testing.assert_allclose(found.logits, expected[columns], atol=1e-5)


@pytest.mark.long
def test_scripts_resume_evaluate_and_predict_as_they_did() -> None:
    assert make.compare(1e-5) == []
