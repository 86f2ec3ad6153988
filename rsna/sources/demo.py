"""Demo data: phantom heads written as the RSNA 2019 challenge lays out its files.

`write_demo` makes the folder; `DemoSource` makes it where it is missing and reads it as any other
RSNA folder, so that the demo runs the real path.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from tqdm import tqdm

from common.errors import InputError
from common.files import write_bytes, write_json, write_text
from common.preparation.workers.runner import TaskRunner
from common.words import count
from rsna.phantom.rsna_files import Family, draw_family, encode_study, names_of
from rsna.phantom.study import Study, generate_study, num_studies_of
from rsna.sources.rsna import RSNASource
from rsna_task import LABELS

logger = logging.getLogger(__name__)

# Raise it when the same parameters make other images, so that old folders are recognised.
GENERATOR_VERSION = 1


@dataclass(frozen=True)
class DemoParameters:
    """Parameters of a demo folder.

    Attributes:
        num_patients: patients with labels; test patients come on top.
        num_test_patients: patients of the test set, whose labels are not written.
        matrix: rows and columns of most images.
        seed: of all draws.
    """

    num_patients: int = 60
    num_test_patients: int = 3
    matrix: int = 256
    seed: int = 4667

    def studies(self) -> Iterator[tuple[int, int]]:
        """Yield the (patient, study) numbers of the whole demo."""
        for patient in range(self.num_patients + self.num_test_patients):
            for study in range(num_studies_of(patient, self.seed)):
                yield patient, study


def write_demo(folder: Path, parameters: DemoParameters | None = None, n_jobs: int = 1) -> None:
    """Write demo data into `folder` in the layout of the challenge.

    A finished folder is kept as it is and a half-made one is completed.

    Args:
        folder: gets stage_2_train/, stage_2_test/, stage_2_train.csv, and
            stage_2_sample_submission.csv.
        parameters: None stands for those the folder was begun with, else for the defaults.

    Raises:
        InputError: the folder holds a demo of other parameters, or something else.
    """
    parameters, finished = _begin(folder, parameters)
    if finished:
        logger.info("demo data in %s are kept as they are", folder)
        return
    for leftover in folder.rglob(".*.tmp"):  # of a run that was killed while it wrote
        leftover.unlink()
    missing = [key for key in parameters.studies() if not _record_path(folder, *key).exists()]
    logger.info("making %s in %s", count(len(missing), "phantom study"), folder)
    tasks = [(folder, parameters, *key) for key in missing]
    with (
        TaskRunner(n_jobs if min(n_jobs, len(missing)) > 1 else 0) as runner,
        tqdm(total=len(missing), desc="phantom studies", unit="study", disable=None) as bar,
    ):
        for outcome in runner.stream(_write_study, tasks):
            if outcome.result is None:
                _, _, patient, number = outcome.task
                raise RuntimeError(f"study {number} of phantom {patient} ended its process")
            bar.update()
    _write_tables(folder, parameters)
    write_json(folder / "demo.json", _manifest(parameters, finished=True))


class DemoSource(RSNASource):
    """Demo data: made where they are missing or half-made, then read as the challenge's.

    Raises:
        InputError: the folder holds something else.
    """

    name: ClassVar[str] = "demo"

    def __init__(self, folder: Path, n_jobs: int = 1) -> None:
        write_demo(Path(folder), n_jobs=n_jobs)
        super().__init__(folder)

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | _read_manifest(self.folder)


def _write_study(task: tuple[Path, DemoParameters, int, int]) -> bool:
    """Write the files of one study, then the record that says it is complete; return True."""
    cv2.setNumThreads(1)  # the work is shared by processes
    folder, parameters, patient, number = task
    study = generate_study(patient, number, parameters.seed, parameters.matrix)
    names = names_of(patient, number, len(study.image_hu), parameters.seed)
    rng = np.random.default_rng([parameters.seed, 6, patient, number])
    family, num_cut = draw_family(rng), 0
    if number == 0:
        study, family, num_cut = _with_quirk(patient, study, family)
    files = encode_study(study, names, family, num_cut, rng)
    if patient == 0 and number == 0:
        first = names.image_ids[0]  # the challenge has one file with too few pixels
        files[first] = files[first][: len(files[first]) // 2]
    is_test = patient >= parameters.num_patients
    for image_id, data in files.items():
        name = "stage_2_test" if is_test else "stage_2_train"
        write_bytes(folder / name / f"{image_id}.dcm", data)
    labels = np.column_stack([study.labels, study.labels.any(axis=1)]).astype(int)
    record = {"image_ids": list(names.image_ids), "labels": labels.tolist()}
    write_json(_record_path(folder, patient, number), record)
    return True


def _with_quirk(patient: int, study: Study, family: Family) -> tuple[Study, Family, int]:
    """Give the first patients the rare kinds of files, so that every demo has each of them."""
    if patient == 1:
        return study, Family(16, True, -1024), 2 * (study.image_hu.shape[2] // 16)
    if patient == 2:
        return study, Family(12, False, 0, wraps=True), 0
    if patient == 3:  # two slices at the same place
        study.protocol.positions[2] = study.protocol.positions[1]
        return study, Family(12, False, -1024), 0
    return study, family, 0


def _write_tables(folder: Path, parameters: DemoParameters) -> None:
    """Write the label table and the sample submission: six rows per image, `ID,Label`."""
    train, test = ["ID,Label"], ["ID,Label"]
    for patient, number in parameters.studies():
        record = json.loads(_record_path(folder, patient, number).read_text(encoding="utf-8"))
        for image_id, labels in zip(record["image_ids"], record["labels"]):
            ids = [f"{image_id}_{label}" for label in LABELS]
            if patient >= parameters.num_patients:
                test += [f"{row},0.5" for row in ids]
            else:
                train += [f"{row},{label}" for row, label in zip(ids, labels)]
    train += train[7:13]  # the challenge lists some images twice
    write_text(folder / "stage_2_sample_submission.csv", "\n".join(test) + "\n")
    write_text(folder / "stage_2_train.csv", "\n".join(train) + "\n")


def _begin(folder: Path, parameters: DemoParameters | None) -> tuple[DemoParameters, bool]:
    """Return the parameters of the folder and whether it is finished; mark a new one as begun."""
    path = folder / "demo.json"
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"--pre_folder {folder}: holds files that are not demo data; "
                "name an empty or a new folder"
            )
        parameters = parameters or DemoParameters()
        write_json(path, _manifest(parameters, finished=False))
        return parameters, False
    found = _read_manifest(folder)
    wanted = _manifest(parameters, False) if parameters else None
    same = found["generator_version"] == GENERATOR_VERSION
    if (wanted and wanted["parameters"] != found["parameters"]) or not (same or found["finished"]):
        raise InputError(
            f"--pre_folder {folder}: holds demo data made with other parameters or by another "
            "version; name a new folder or delete this one"
        )
    if not same:
        logger.warning("demo data in %s were made by another version of the generator", folder)
    return DemoParameters(**found["parameters"]), bool(found["finished"])


def _read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "demo.json").read_text(encoding="utf-8"))


def _manifest(parameters: DemoParameters, finished: bool) -> dict[str, Any]:
    return {
        "generator_version": GENERATOR_VERSION,
        "parameters": asdict(parameters),
        "finished": finished,
    }


def _record_path(folder: Path, patient: int, number: int) -> Path:
    return folder / "studies" / f"{patient:04d}_{number}.json"
