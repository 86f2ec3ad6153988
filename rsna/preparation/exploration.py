"""Report and export of a prepared dataset, for preprocessing.py."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from config import Config
from flags.preprocessing import PreprocessingConfig
from rsna_task import LABELS

if TYPE_CHECKING:
    from common.report.exploration.dataset import ExploredDataset

logger = logging.getLogger(__name__)

# Flags that may be given for a dataset that is only reported or exported.
_LOOKING = {"pre_check", "pre_report", "pre_export", "pre_export_folder", "pre_export_windows"}


def is_only_explored(config: Config) -> bool:
    """Return whether a prepared dataset is only reported or exported, not prepared.

    That is where a report or an export is asked for and no source is given.
    """
    flags = config.preprocessing
    wanted = bool(flags.pre_report) or flags.pre_export is not None
    only = wanted and not config.given & {"pre_source", "pre_folder"}
    if only:
        preparing = set(PreprocessingConfig.__dataclass_fields__) - _LOOKING
        for name in sorted(config.given & preparing):
            logger.warning("--%s has no effect without --pre_source or --pre_folder", name)
    return only


def explore(config: Config) -> Iterator[str]:
    """Write what the flags ask for of the prepared dataset, and yield a line about each.

    Raises:
        InputError: no such dataset, or a folder that holds another export.
    """
    flags = config.preprocessing
    if flags.pre_report:
        yield f"report: {write_report(config.dataset_folder)}"
    if flags.pre_export is not None:
        yield _export(config)


def open_dataset(name: str | Path) -> "ExploredDataset":
    """Return a prepared dataset for notebooks: by its name in input/datasets, or by its folder."""
    from common.report.exploration.dataset import ExploredDataset

    folder = Path(name)
    if not folder.is_absolute():
        folder = Path(__file__).resolve().parents[2] / "input" / "datasets" / folder
    return ExploredDataset.load(folder, LABELS, overall=LABELS[-1])


def write_report(dataset_folder: Path) -> Path:
    """Write the page about a prepared dataset into its folder, and return its path."""
    from common.report.dataset import REPORT_FILE, DatasetReport

    path = dataset_folder / REPORT_FILE
    DatasetReport(open_dataset(dataset_folder.resolve())).write(path)
    return path


def _export(config: Config) -> str:
    from common.preparation.export import ExportOptions, export_images
    from common.slices.table import SliceTable

    flags = config.preprocessing
    assert flags.pre_export is not None
    default = config.dataset_folder / f"export_{flags.pre_export}"
    folder = default if flags.pre_export_folder is None else Path(flags.pre_export_folder)
    options = ExportOptions(flags.pre_export, tuple(flags.pre_export_windows))
    table = SliceTable.load(config.dataset_folder)
    return export_images(table, folder, options, config.general.n_jobs).line()
