"""What a predictor's folder says about itself: digests, name, and what it was trained on."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from common.experiment import ENGINE, JSON_FILE, read_predictor_json
from common.files import file_sha256
from common.slices.leakage import SOURCES, TRAINED_ON

# Keys of predictor.json that change no prediction.
_NO_SETTINGS = {"training", "source", "licence", "reference", "calibrated_on", "fitted_on"}
_NO_SETTINGS |= {"fitted_on_salt", "digests", "salt", ENGINE}


@dataclass(frozen=True)
class ModelRecord:
    """A predictor as result objects name it.

    Attributes:
        name: of its network or kind, with its experiment.
        weights_sha256: of its file of weights, as `sha256sum` prints it; of several files, that of
            metrics.json: of their names and digests.
        settings_sha256: of all else that a prediction follows from: calibration, operating points,
            transform and rules in predictor.json; the engine in use and its precision.
        sources: of the data that it, or what it started from or is made of, was trained on; names
            of datasets where predictor.json, of an earlier version, knows no sources.
        content: of predictor.json.
        parts: the content of each predictor.json in the folder, its own among them.
        precision: of the engine in use; None: torch predicts.
    """

    name: str
    weights_sha256: str
    settings_sha256: str
    sources: frozenset[str]
    content: Mapping[str, Any]
    parts: Sequence[Mapping[str, Any]]
    precision: str | None = None

    @classmethod
    def read(cls, folder: Path, precision: str | None = None) -> "ModelRecord":
        """Return the record of the predictor in a folder; InputError where there is none.

        Args:
            precision: of its engine, where that predicts.
        """
        content = read_predictor_json(folder)
        paths = sorted(folder.rglob(JSON_FILE))
        parts = [read_predictor_json(path.parent) for path in paths]
        named = [str(path.relative_to(folder)) for path in paths]
        settings: list[Any] = [named, [_settings(part) for part in parts]]
        if precision is not None:
            settings += [precision, [part.get(ENGINE, {}).get("files") for part in parts]]
        trainings = [each for part in parts for each in _trainings(part.get("training", {}))]
        known = (
            each.get(SOURCES) or [each.get("dataset", each.get(TRAINED_ON))] for each in trainings
        )
        return cls(
            _name(content),
            _weights_sha256(folder),
            _sha256(json.dumps(settings, sort_keys=True)),
            frozenset(str(name) for names in known for name in names if name),
            content,
            parts,
            precision,
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _name(content: Mapping[str, Any]) -> str:
    model, training = content.get("model") or {}, content.get("training") or {}
    experiment = training.get("experiment_id")
    name = str(model.get("name") or content.get("kind", "network"))
    return f"{name}, experiment {experiment}" if experiment else name


def holds_weights(name: PurePath) -> bool:
    """Return whether a file, by its path in a predictor's folder, holds weights.

    An engine is made of these.
    """
    is_text = name.suffix in (".json", ".md") or name.parts[0] == "evaluations"
    return not is_text and name.stem != ENGINE


def digest_of(hashes: Mapping[str, str]) -> str:
    """Return one digest of several files, by their names and digests."""
    return _sha256("".join(f"{name} {value}\n" for name, value in hashes.items()))


def _weights_sha256(folder: Path) -> str:
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*"))}
    hashes = {
        name.as_posix(): file_sha256(path)
        for name, path in files.items()
        if path.is_file() and holds_weights(name)
    }
    return next(iter(hashes.values())) if len(hashes) == 1 else digest_of(hashes)


def _settings(value: Any) -> Any:
    """Return a copy of plain types without what changes no prediction."""
    if isinstance(value, dict):
        return {key: _settings(one) for key, one in value.items() if key not in _NO_SETTINGS}
    return [_settings(one) for one in value] if isinstance(value, list) else value


def _trainings(training: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a training and those that its weights started from."""
    yield training
    for origin in training.get("started_from") or ():
        yield from _trainings(origin)
