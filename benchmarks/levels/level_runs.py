"""Trainings and blends as commands: what is done is skipped, what was cut off goes on.

What `levels.py`, `ct_ich_levels.py` and `nested_stacking.py` share. Every stage is a command that a
user would type; it runs in a process of its own, with one thread, as many at once as asked for.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.slices.table import SLICES_FILE

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("oof", "valid")
"""Predictions of a training of all folds, and of one."""
DEFAULT_SEED = 4667


@dataclass(frozen=True)
class Stage:
    """One command that makes one experiment.

    Attributes:
        places: --data_input_folder and --output_dir, which a resumed training gets too.
        needs: ids of the experiments that have to be there before.
    """

    script: str
    experiment_id: str
    flags: tuple[str, ...]
    places: tuple[str, ...]
    output_dir: Path
    needs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.output_dir / "results" / self.experiment_id

    @property
    def is_done(self) -> bool:
        """Whether its predictions and what predicts as they do are there."""
        finished = self.folder / "predictor" / "predictor.json"
        folder = self.folder / "predictions"
        return finished.is_file() and any((folder / f"{name}.parquet").is_file() for name in TABLES)

    def command(self) -> list[str]:
        """Return the command to type, without the interpreter: it begins anew or goes on."""
        names = ("--experiment_id", self.experiment_id, *self.places)
        has_begun = self.script == "train.py" and (self.folder / "config.yaml").is_file()
        # Scripts in scripts/ are started as modules.
        is_module = self.script.startswith("scripts/")
        script = ["-m", self.script[:-3].replace("/", ".")] if is_module else [self.script]
        return [*script, *names, *(("--tr_resume", "1") if has_begun else self.flags)]


@dataclass(frozen=True)
class Plan:
    """Makes the stages of one dataset and seed.

    Attributes:
        seed: added to the project's default seed, and to the end of each id.
    """

    work: Path
    dataset: str
    seed: int = 0

    @property
    def output_dir(self) -> Path:
        return self.work / "output"

    def id_of(self, name: str) -> str:
        return f"{name}_{self.seed}"

    def train(
        self,
        name: str,
        *flags: object,
        needs: Sequence[str] = (),
        input_name: str = "input",
        fold: str = "all",
    ) -> Stage:
        """A training, of all folds by default; `input_name` is the folder in `work` to read."""
        common: tuple[object, ...] = ("--data_fold", fold, "--seed", DEFAULT_SEED + self.seed)
        common += ("--n_jobs", 0, "--tr_iteration_valid", 0, "--tr_valid_raw", 0)
        common += ("--mlflow_enabled", 0)
        return self._stage("train.py", name, (*common, *flags), needs, input_name)

    def blend(self, name: str, members: Sequence[str], *flags: object) -> Stage:
        ids = ",".join(map(self.id_of, members))
        return self._stage("ensemble.py", name, ("--ens_experiments", ids, *flags), members)

    def second_level(self, name: str, members: Sequence[str], *flags: object) -> Stage:
        ids = ",".join(map(self.id_of, members))
        return self._stage(
            "scripts/second_level.py", name, ("--sl_experiments", ids, *flags), members
        )

    def _stage(
        self,
        script: str,
        name: str,
        flags: Sequence[object],
        needs: Sequence[str],
        input_name: str = "input",
    ) -> Stage:
        places = ("--data_input_folder", self.work / input_name, "--output_dir", self.output_dir)
        return Stage(
            script=script,
            experiment_id=self.id_of(name),
            flags=tuple(map(str, ("--data_dataset", self.dataset, *flags))),
            places=tuple(map(str, places)),
            output_dir=self.output_dir,
            needs=tuple(map(self.id_of, needs)),
        )


def prepare(input_folder: Path, dataset: str, n_jobs: int, *flags: str) -> None:
    """Prepare a dataset where it is missing, from the source of the same name."""
    if (input_folder / "datasets" / dataset / SLICES_FILE).is_file():
        return
    places = ("--data_dataset", dataset, "--data_input_folder", str(input_folder))
    source = ("--pre_source", dataset, "--n_jobs", str(n_jobs))
    run_command("preprocessing.py", *source, *places, *flags)


def run_command(*command: object) -> None:
    """Run a script of the project with these arguments; InputError where it fails."""
    words = [sys.executable, *map(str, command)]
    result = subprocess.run(words, cwd=ROOT, stdout=sys.stderr, check=False)
    if result.returncode:
        raise InputError(f"`{' '.join(words)}` ended with status {result.returncode}: see above")


def run_stages(stages: Sequence[Stage], num_at_once: int, log_folder: Path) -> float:
    """Run what is not done, each stage after those it needs; return the seconds it took.

    Args:
        stages: in the order in which they should begin.
        log_folder: gets what each command says, <experiment_id>.log.

    Raises:
        InputError: a command failed; the message says which, and where its log is.
    """
    started = time.perf_counter()
    log_folder.mkdir(parents=True, exist_ok=True)
    waiting = [stage for stage in stages if not stage.is_done]
    if len(waiting) < len(stages):
        logger.info("%d of %d stages are done already", len(stages) - len(waiting), len(stages))
    running: dict[Future[None], Stage] = {}
    with ThreadPoolExecutor(num_at_once) as pool:
        while waiting or running:
            pending = {stage.experiment_id for stage in [*waiting, *running.values()]}
            for stage in [s for s in waiting if not pending & set(s.needs)]:
                if len(running) < num_at_once:
                    waiting.remove(stage)
                    running[pool.submit(_run, stage, log_folder)] = stage
            assert running, "stages need each other"
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                running.pop(future)
                future.result()
    return time.perf_counter() - started


def _run(stage: Stage, log_folder: Path) -> None:
    started = time.perf_counter()
    log = log_folder / f"{stage.experiment_id}.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, *stage.command()]
        result = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False
        )
    if result.returncode or not stage.is_done:
        raise InputError(
            f"{stage.experiment_id}: `{' '.join(stage.command())}` ended with status "
            f"{result.returncode}: see {log}"
        )
    logger.info("%s: %.0f s", stage.experiment_id, time.perf_counter() - started)
