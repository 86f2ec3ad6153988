"""The notebooks hold pictures and nothing of the machine, and run on the demo dataset."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from common.preparation import prepare_dataset
from rsna.sources.demo import DemoParameters, DemoSource, write_demo

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ("headers", "images", "labels")
NUM_PICTURES = {"headers": 2, "images": 7, "labels": 5}


def outputs_of(cells: list) -> list:
    return [output for cell in cells for output in cell.get("outputs", [])]


def pictures(cells: list) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs_of(cells))


def test_there_are_these_notebooks():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == list(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_its_pictures_and_nothing_of_the_machine(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    assert path.stat().st_size < 1_500_000
    notebook = json.loads(path.read_text())
    cells = notebook["cells"]
    assert pictures(cells) == NUM_PICTURES[name]
    assert {output["output_type"] for output in outputs_of(cells)} <= {"execute_result"}
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["metadata"] == {} for cell in cells)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    texts = [str(output.get("data", {}).get("text/plain")) for output in outputs_of(cells)]
    texts += [str(output.get("data", {}).get("text/html")) for output in outputs_of(cells)]
    words = "\n".join([*texts, *("".join(cell["source"]) for cell in cells)])
    assert not re.search(
        r"/(home|root|tmp|usr|work|Users)/|\d{4}-\d{2}-\d{2}T|patient_id\b=", words
    )
    assert not re.search(r"0x[0-9a-f]{6,}", words)


@pytest.mark.long
def test_the_notebooks_run_on_the_demo(tmp_path):
    specification = importlib.util.spec_from_file_location(
        "refresh", ROOT / "notebooks" / "refresh.py"
    )
    refresh = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(refresh)
    parameters = DemoParameters(num_patients=6, num_test_patients=1, matrix=64)
    write_demo(tmp_path / "demo", parameters)
    folder = tmp_path / "datasets" / "demo"
    prepare_dataset(DemoSource(tmp_path / "demo"), folder, n_jobs=0, num_folds=2)
    for name in NOTEBOOKS:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        notebook = refresh.execute(path, dataset=str(folder))
        assert pictures(notebook.cells) == NUM_PICTURES[name]
        texts = [output["data"].get("text/plain", "") for output in outputs_of(notebook.cells)]
        assert " at 0x" not in "".join(texts)
        kept = json.loads(path.read_text())["cells"]
        assert [cell.source for cell in notebook.cells if cell.cell_type == "markdown"] == [
            "".join(cell["source"]) for cell in kept if cell["cell_type"] == "markdown"
        ]
