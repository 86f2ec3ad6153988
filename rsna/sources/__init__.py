"""Sources: files and labels of each dataset, one module each; `make_source` chooses by name."""

from pathlib import Path

from rsna.sources.base import AbstractSource
from rsna.sources.cq500 import Cq500Source
from rsna.sources.ct_ich import CtIchSource
from rsna.sources.dicom import DicomSource
from rsna.sources.rsna import RSNASource

_SOURCES = {kind.name: kind for kind in (RSNASource, CtIchSource, Cq500Source, DicomSource)}


def make_source(name: str, folder: Path, n_jobs: int) -> AbstractSource:
    """Return the source called `name` (rsna, ct_ich, cq500, dicom or demo) in `folder`.

    Args:
        folder: its files; the demo makes them there where they are missing.
        n_jobs: processes that make the demo.

    Raises:
        InputError: the folder does not hold what the source expects.
    """
    if name == "demo":
        from rsna.sources.demo import DemoSource  # scipy takes a while to import

        return DemoSource(folder, n_jobs=n_jobs)
    return _SOURCES[name](folder)
