"""scripts/export.py: engines for the networks of a predictor, compared with torch on a dataset."""

from collections.abc import Iterator

from common.errors import InputError
from common.predictors.base import PredictOptions
from common.predictors.engine_files import Measured, export_engines
from common.slices.pixel_steps import require_same_steps
from common.slices.table import SliceTable
from common.words import count
from config import Config
from rsna.evaluation.model_card import write_card
from rsna.opening import open_predictor


def export(config: Config) -> Iterator[str]:
    """Write engines into the predictor's folder, and yield what they change.

    Raises:
        InputError: flags that can't be used, nothing to compare on, or an engine that differs.
    """
    home, name = config.predictor_home(recorded=False), config.data.data_dataset
    table, predictor = SliceTable.load(config.dataset_folder), open_predictor(home.predictor)
    require_same_steps(predictor.training, table.folder)
    if not table.readable.any():
        raise InputError(f"--data_dataset {name}: no slice can be read: prepare it again")
    general = config.with_flags(device="cpu").resolved("prediction").general
    options = PredictOptions(general.tr_batch_size_valid, general.n_jobs)
    measured = export_engines(predictor, home.predictor, table, name, options)
    write_card(home)
    for precision, found in measured.items():
        yield f"{precision}: {_line(found)} ({count(int(table.readable.sum()), 'slice')} of {name})"
    yield f"predict with --pr_engine openvino: {home.predictor}"


def _line(found: Measured) -> str:
    text = f"probabilities differ from those of torch by {found.largest_difference:.2g} at most"
    if found.log_loss is None or found.log_loss_in_torch is None:
        return f"{text}, no log loss as there are no labels of slices"
    change = found.log_loss - found.log_loss_in_torch
    return f"{text}, log loss {found.log_loss:.5f} ({change:+.1e})"
