"""Runs the notebooks beside it and keeps their pictures: python notebooks/refresh.py

It needs the demo dataset (python preprocessing.py) and requirements/notebooks.txt. Times, the
names of the machine's folders and whatever else differs from run to run are left out.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path, dataset: str | None = None) -> nbformat.NotebookNode:
    """Return the notebook at `path`, run anew, with nothing in it that tells of the machine.

    Args:
        path: of the notebook, which lies in this folder.
        dataset: a folder to show in place of the demo dataset.
    """
    notebook = nbformat.read(path, as_version=4)
    if dataset is not None:
        for cell in notebook.cells:
            cell.source = cell.source.replace('open_dataset("demo")', f"open_dataset({dataset!r})")
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=resources, record_timing=False
    ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


if __name__ == "__main__":
    for found in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(found), found)
