"""The installed package `ich`: its folder holds the modules of the checkout and goes on the path.

The wheel has this folder as ich/ and everything else within it (pyproject.toml), so that nothing
named common or config lies in site-packages.
"""

import os
import sys
from pathlib import Path

FOLDER = str(Path(__file__).resolve().parent)


def main() -> None:
    """Run the command of the arguments, here and in child processes with this package's modules."""
    if FOLDER not in sys.path:
        sys.path.insert(0, FOLDER)
    # For children that are started by name: torchrun's, Dask's workers, the trackers' processes.
    # They take no modules from the folder that the user happens to be in.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if FOLDER not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([FOLDER, *filter(None, paths)])
    os.environ["PYTHONSAFEPATH"] = "1"
    from scripts.ich import main as run

    run()
