"""The folder of one experiment: its id, its lock, its log and its configuration."""

import contextlib
import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import held, write_text

logger = logging.getLogger(__name__)

PREDICTOR_FOLDER = "predictor"
JSON_FILE, WEIGHTS_FILE = "predictor.json", "model.pt"
ENGINE = "engine"
"""Key of predictor.json, and name of the files, of the engine made of the weights."""
FORMAT_VERSION = 1
"""Version of predictor.json."""
COPY_AGAIN = "copy the whole predictor folder again"


class ScoredFolder:
    """A folder with scores and a page about them.

    Args:
        folder: its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def metrics_file(self) -> Path:
        """The scores."""
        return self.folder / "metrics.json"

    @property
    def report_file(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    @property
    def flow_file(self) -> Path:
        """Drawing of what was scored, and why the rest was not."""
        return self.folder / "flow.svg"

    @property
    def failures(self) -> Path:
        """Folder of the pages of studies with a wrong call."""
        return self.folder / "failures"

    @property
    def studies_file(self) -> Path:
        """The studies that were scored, which pages name by their row."""
        return self.folder / "studies.csv"


class Evaluated(ScoredFolder):
    """The folder of an experiment evaluated on another dataset."""

    @property
    def predictions_file(self) -> Path:
        """Table of predictions."""
        return self.folder / "predictions.parquet"


class PredictorHome(ScoredFolder):
    """A predictor, and the folder that its evaluations on other datasets go to: here its own."""

    @property
    def id(self) -> str:
        """What it is called on pages and in messages."""
        return self.folder.resolve().name

    @property
    def title(self) -> str:
        """The id, with what it is of."""
        return f"Predictor {self.id}"

    @property
    def predictor(self) -> Path:
        """Folder of the weights with all that is needed to use them."""
        return self.folder

    @property
    def has_predictor(self) -> bool:
        """Whether there is one: an experiment has it once it has been trained to its end."""
        return (self.predictor / JSON_FILE).is_file()

    def evaluation(self, dataset: str) -> Evaluated:
        """Folder of the evaluation on another dataset."""
        return Evaluated(self.evaluations / dataset)

    @property
    def evaluations(self) -> Path:
        """Folder of the evaluations on other datasets, and of the table of a validation."""
        return self.folder / "evaluations"

    @property
    def config_file(self) -> Path:
        """All flags as resolved; a predictor alone has none."""
        return self.folder / "config.yaml"


class Experiment(PredictorHome):
    """A folder in results/ that one process at a time writes to.

    It owns the names of all files in it: no other module joins them.

    Args:
        folder: the experiment folder; its name is the experiment's id.
    """

    @property
    def id(self) -> str:
        """The id, such as 0001, or 0001/fold_2 for one of all folds."""
        return experiment_id_of(self.folder)

    @property
    def title(self) -> str:
        """The id, with what it is of."""
        return f"Experiment {self.id}"

    @property
    def exists(self) -> bool:
        """Whether there is such an experiment, finished or not."""
        return self.config_file.is_file()

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """Checkpoint that a resumed training goes on from."""
        return self.checkpoints / "last.pt"

    @property
    def predictions(self) -> Path:
        """Folder of prediction tables."""
        return self.folder / "predictions"

    def predictions_file(self, name: str) -> Path:
        """Table of predictions called `name`: valid, valid_best, oof, oof_best, test or studies."""
        return self.predictions / f"{name}.parquet"

    @property
    def studies_file(self) -> Path:
        """The studies that were scored, which pages name by their row."""
        return self.predictions / "studies.csv"

    @property
    def out_of_fold_file(self) -> Path:
        """Predictions of the rows that were not trained on: of all folds, or of the one."""
        of_all_folds = self.predictions_file("oof")
        return of_all_folds if of_all_folds.is_file() else self.predictions_file("valid")

    @property
    def features(self) -> Path:
        """Folder of the features of slices."""
        return self.folder / "features"

    def features_file(self, name: str) -> Path:
        """Table of the features called `name`: oof or test."""
        return self.features / f"{name}.parquet"

    @property
    def predictor(self) -> Path:
        """Folder of the weights with all that is needed to use them."""
        return self.folder / PREDICTOR_FOLDER

    def predictor_of(self, fold: int) -> Path:
        """Folder of the predictor of one fold, in an experiment of all folds or of this one."""
        inner = self.fold(fold).predictor
        return inner if inner.is_dir() else self.predictor

    @property
    def blend_file(self) -> Path:
        """What was blended, and what each member adds."""
        return self.folder / "blend.json"

    @property
    def metrics_log(self) -> Path:
        """Values by iteration, a JSON object a line."""
        return self.folder / "metrics.jsonl"

    @property
    def outputs(self) -> Path:
        """Folder of example outputs (--cb_outputs_num)."""
        return self.folder / "outputs"

    def fold(self, number: int) -> "Experiment":
        """Experiment of one fold, in the folder of that of all folds."""
        return Experiment(self.folder / f"fold_{number}")

    @property
    def folds(self) -> "dict[int, Experiment]":
        """The experiments of the folds that have begun, by number."""
        return {
            int(folder.name.removeprefix("fold_")): Experiment(folder)
            for folder in fold_folders(self.folder)
        }

    @classmethod
    def create(cls, results: Path, experiment_id: str | None, config_yaml: str) -> "Experiment":
        """Make a new experiment, with the next free id where none is asked for.

        Raises:
            InputError: the id asked for exists, or nothing can be written there.
        """
        try:
            results.mkdir(parents=True, exist_ok=True)
            folder = _take(results, experiment_id)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"--output_dir {results.parent}: no folder can be made there ({error.strerror}): "
                f"give another"
            ) from error
        experiment = cls(folder)
        try:
            write_text(experiment.config_file, config_yaml)
        except OSError:
            folder.rmdir()
            raise
        return experiment

    @staticmethod
    def refuse_existing(results: Path, experiment_id: str) -> None:
        """Raise InputError if there is an experiment of this id."""
        if (results / experiment_id).exists():
            raise InputError(
                f"--experiment_id {experiment_id} exists: go on with it by --tr_resume 1 "
                f"(train.py), remove it, or leave the flag out to get a new id"
            )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Hold the lock and write the log to train.log inside the block.

        Raises:
            InputError: another process is running this experiment.
        """
        refusal = (
            f"--experiment_id {self.id}: another process is running it: wait for it, or stop it "
            f"first"
        )
        with held(self.folder / ".lock", refusal):
            handler = logging.FileHandler(self.folder / "train.log", encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            root = logging.getLogger()
            root.addHandler(handler)
            try:
                yield
            except Exception:
                # To the file alone: the script tells the console.
                handler.handle(_record_of_error())
                raise
            finally:
                root.removeHandler(handler)
                handler.close()


def evaluations_of(folder: Path) -> dict[str, Evaluated]:
    """Return the evaluations on other datasets in an experiment's folder, by dataset."""
    files = sorted((folder / "evaluations").glob("*/metrics.json"))
    return {path.parent.name: Evaluated(path.parent) for path in files}


def results_folder(output_dir: str | Path) -> Path:
    """Return the folder of all experiments."""
    return Path(output_dir) / "results"


def experiment_id_of(folder: Path) -> str:
    """Return the id of the experiment in a folder: its name, below that of all folds if it is one.

    A fold's folder is `fold_<k>` in that of the experiment with all folds.
    """
    path = folder.resolve()
    if re.fullmatch(r"fold_\d+", path.name) and Experiment(path.parent).exists:
        return f"{path.parent.name}/{path.name}"
    return folder.name


def fold_folders(folder: Path) -> list[Path]:
    """Return the folders `fold_<k>` of an experiment with all folds, by k."""
    found = [path for path in folder.glob("fold_*") if path.name.removeprefix("fold_").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("fold_")))


def _record_of_error() -> logging.LogRecord:
    error = sys.exc_info()
    return logger.makeRecord(
        logger.name, logging.ERROR, __file__, 0, "stopped by: %s", (error[1],), error
    )


def _take(results: Path, experiment_id: str | None) -> Path:
    """Make the folder of `experiment_id`, or of the next free number; one process gets it."""
    if experiment_id is not None:
        folder = results / experiment_id
        Experiment.refuse_existing(results, experiment_id)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
        Experiment.refuse_existing(results, experiment_id)  # another process was quicker
    taken = [int(name) for name in os.listdir(results) if name.isdecimal()]
    number = max(taken, default=0)
    while True:
        number += 1
        folder = results / f"{number:04d}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def find_predictor(folder: Path, flag: str = "--pr_predictor") -> PredictorHome:
    """Return the predictor in a folder; of an experiment, or of its predictor/, the experiment.

    Raises:
        InputError: there is none; it names the flag.
    """
    inside = Experiment(folder)
    if inside.exists and inside.has_predictor:
        return inside
    above = Experiment(folder.resolve().parent)
    if (folder / JSON_FILE).is_file():
        is_own = above.exists and folder.resolve() == above.predictor
        return above if is_own else PredictorHome(folder)
    if not folder.is_dir():
        raise InputError(f"{flag} {folder}: no such folder: give one that holds {JSON_FILE}")
    if inside.has_predictor:
        return PredictorHome(inside.predictor)
    reason = "an experiment that is not trained to its end" if inside.exists else f"no {JSON_FILE}"
    raise InputError(
        f"{flag} {folder}: {reason}: give a predictor folder, such as output/results/0001/predictor"
    )


def weights_file(path: Path) -> Path:
    """Return the file of weights that a path names: itself, or that in a predictor folder.

    Raises:
        InputError: a folder that holds no network.
    """
    if not path.is_dir():
        return path
    folder = find_predictor(path, "--net_weight_file").predictor
    parts = sorted(part.parent for part in folder.glob(f"*/**/{WEIGHTS_FILE}"))
    if parts:
        raise InputError(
            f"--net_weight_file {path}: is made of several networks: give the folder of one, such "
            f"as {parts[0]}"
        )
    return folder / WEIGHTS_FILE


def read_predictor_json(folder: Path) -> dict[str, Any]:
    """Return the content of a predictor's JSON file; InputError where there is none of use."""
    path = folder / JSON_FILE
    if not path.is_file():
        raise InputError(f"no predictor at {folder} (no {JSON_FILE}): train the experiment first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON ({error}): restore it") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: "
            f"predict with the version that wrote it"
        )
    return content
