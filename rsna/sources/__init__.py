"""Sources: files and labels of each dataset, one module each; `make_source` chooses by name."""

from pathlib import Path

from rsna.sources.base import AbstractSource


def make_source(name: str, folder: Path, n_jobs: int) -> AbstractSource:
    """Return the source called `name` (rsna, ct_ich, cq500, dicom or demo) in `folder`.

    Args:
        name: of the source.
        folder: its files; the demo makes them there where they are missing.
        n_jobs: processes that make the demo.

    Raises:
        InputError: the folder does not hold what the source expects.
    """
    if name == "demo":
        from rsna.sources.demo import DemoSource

        return DemoSource(folder, n_jobs=n_jobs)
    if name == "rsna":
        from rsna.sources.rsna import RSNASource

        return RSNASource(folder)
    if name == "ct_ich":
        from rsna.sources.ct_ich import CtIchSource

        return CtIchSource(folder)
    if name == "cq500":
        from rsna.sources.cq500 import Cq500Source

        return Cq500Source(folder)
    if name == "dicom":
        from rsna.sources.dicom import DicomSource

        return DicomSource(folder)
    raise ValueError(f"no source {name!r}")
