"""Loads a predictor from its folder, whatever its kind."""

from functools import partial
from pathlib import Path

from common.errors import InputError
from common.experiment import COPY_AGAIN, JSON_FILE, read_predictor_json
from common.predictors.base import AbstractPredictor, BuildModel, Networks
from common.predictors.blend import BlendPredictor
from common.predictors.engine import EngineNetworks, Precision
from common.predictors.folds import FoldsPredictor
from common.predictors.second_level import SecondLevelPredictor
from common.predictors.sequence import StudyPredictor
from common.predictors.series import BagPredictor, JointPredictor, VolumePredictor
from common.predictors.slices import SlicePredictor
from common.words import first_line

# By kind in predictor.json; a folder without a kind is of the first one.
PREDICTORS: dict[str, type[AbstractPredictor]] = {
    predictor.kind: predictor
    for predictor in (
        SlicePredictor,
        JointPredictor,
        VolumePredictor,
        BagPredictor,
        StudyPredictor,
        FoldsPredictor,
        BlendPredictor,
        SecondLevelPredictor,
    )
}


def load_predictor(
    folder: Path, build_model: BuildModel, engine: Precision | None = None
) -> AbstractPredictor:
    """Return the predictor in `folder`, of whatever kind, ready to predict on the CPU.

    Args:
        build_model: makes a network, with any weights, from the `model` dict of predictor.json.
        engine: the precision of its engines (`common.predictors.engine`); None: torch.

    Raises:
        InputError: the folder is no predictor, is damaged, or is of another version, or there is no
            engine of these weights.
    """
    if engine is not None:
        return _load(folder, EngineNetworks(engine, build_model))
    from common.predictors.torch_networks import TorchNetworks  # torch takes seconds

    return _load(folder, TorchNetworks(build_model))


def _load(folder: Path, networks: Networks) -> AbstractPredictor:
    content = read_predictor_json(folder)
    kind = str(content.get("kind", SlicePredictor.kind))
    if kind not in PREDICTORS:
        raise InputError(
            f"{folder / JSON_FILE} is a predictor of the kind {kind!r}: predict with the version "
            f"that wrote it"
        )
    load_part = partial(_load, networks=networks)
    try:
        return PREDICTORS[kind].from_folder(folder, content, networks, load_part)
    except InputError:
        raise
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__} {first_line(error)}"
        raise InputError(
            f"{folder / JSON_FILE} is not as this program writes it ({what}): {COPY_AGAIN}"
        ) from error
