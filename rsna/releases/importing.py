"""An experiment made of a published release, from a folder or from the model hub."""

import logging
from pathlib import Path

from common.errors import InputError
from common.experiment import Experiment, results_folder
from common.models.hub import without_retries
from common.slices.leakage import TRAINED_ON
from common.words import first_line
from config import Config
from rsna.evaluation.model_card import write_card
from rsna.releases import ipan2026

logger = logging.getLogger(__name__)


def import_release(config: Config) -> Experiment:
    """Make an experiment of the release that --im_source names; return it.

    Raises:
        InputError: there is no such release, it can't be had, or it is damaged.
    """
    source = config.releases.im_source
    if source is None:
        raise InputError("--im_source is missing: give the folder of a release, or its hub address")
    folder = _release_folder(source)
    predictor = ipan2026.read_release(folder, {})
    flags = config.with_flags(**ipan2026.FLAGS, data_dataset=ipan2026.ORIGIN[TRAINED_ON])
    results = results_folder(config.general.output_dir)
    experiment = Experiment.create(results, config.general.experiment_id, flags.to_yaml())
    for part in (predictor, *predictor.slice_predictors):
        part.training["experiment_id"] = experiment.id
    predictor.save(experiment.predictor)
    write_card(experiment, new=True)
    logger.info("%s: licence %s", ipan2026.ORIGIN["source"], ipan2026.ORIGIN["licence"])
    return experiment


def _release_folder(source: str) -> Path:
    """Return the folder of a release; one on the hub is fetched into the hub's own cache."""
    folder = Path(source)
    if folder.is_dir():
        missing = [name for name in ipan2026.FILES if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"--im_source {source}: {missing[0]} is missing: give the folder of a whole release"
            )
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise InputError(
            f"--im_source {source}: no such folder; give one, or a hub address such as "
            f"ianpan/ct-head-hemorrhage-detection"
        )
    # Imported late: takes a second, and a local folder does without.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with without_retries():
            return Path(snapshot_download(source, allow_patterns=list(ipan2026.FILES)))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"--im_source {source}: can't be had from the model hub ({first_line(error)}): "
            f"connect to it, or give a folder with {', '.join(ipan2026.FILES)}"
        ) from error
