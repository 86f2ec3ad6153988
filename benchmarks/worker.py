"""Measure the worker between two Orthancs: studies from several senders at once, none lost.

    python benchmarks/worker.py PREDICTOR [--studies 200] [--senders 8] [--slices 28]

Needs Orthanc and storescu (apt), and the extra clinic. The studies are copies of five phantoms
under new UIDs. Printed: the time from a cold start to a study in the PACS, that of a warm worker
from stable to sent, then the throughput of all studies, the most memory of the worker and its
child, and what the PACS has; it fails where that is not each set once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

import numpy as np
import psutil
import pydicom
from orthanc import Orthanc
from pydicom.uid import CTImageStorage, generate_uid

from common.dicom.part10 import quiet_pydicom
from rsna.phantom.rsna_files import FAMILIES, encode_study, names_of
from rsna.phantom.study import generate_study
from rsna.worker.journal import JOURNAL_FILE, OPEN_STATES, Journal

ROOT = Path(__file__).resolve().parent.parent
NUM_PHANTOMS, SEED, STABLE_S = 5, 4667, 2


def phantoms(most_slices: int) -> list[list[pydicom.FileDataset]]:
    """Return the slices of the phantoms, with what DICOM wants and the challenge lacks."""
    found = []
    for patient in range(NUM_PHANTOMS):
        study = generate_study(patient, 0, SEED)
        names = names_of(patient, 0, len(study.image_hu), SEED)
        rng = np.random.default_rng(patient)
        files = encode_study(study, names, FAMILIES[0][0], 0, rng)
        slices = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)) for data in files.values()]
        found.append(slices[-most_slices:])
    return found


def write_copy(slices: list[pydicom.FileDataset], folder: Path, number: int) -> None:
    """Write a copy of a phantom under new UIDs."""
    folder.mkdir()
    study, series, frame = (generate_uid() for _ in range(3))
    for place, one in enumerate(slices):
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid()
        one.PatientID, one.InstanceNumber = f"phantom-{number}", place + 1
        one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.save_as(folder / f"{place}.dcm", enforce_file_format=True)


def wait_for(journal: Path, num_studies: int, process: psutil.Process) -> int:
    """Wait until that many studies are in the PACS; return the most memory, in bytes."""
    most = 0
    while True:
        assert process.is_running() and process.status() != psutil.STATUS_ZOMBIE, "it ended"
        own = [process, *process.children()]
        most = max(most, sum(one.memory_info().rss for one in own))
        opened = Journal(journal, read_only=True)
        counts = opened.counts()
        opened.close()
        if sum(counts.values()) >= num_studies and not any(counts[s] for s in OPEN_STATES):
            assert counts["committed"] == num_studies, counts
            return most
        time.sleep(0.2)


def main() -> None:
    quiet_pydicom()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictor", type=Path)
    for name, value in (("studies", 200), ("senders", 8), ("slices", 28)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        heads = phantoms(given.slices)
        for number in range(given.studies + 2):
            write_copy(heads[number % NUM_PHANTOMS], folder / str(number), number)
        front = Orthanc(folder / "front", "FRONT", STABLE_S).start()
        pacs = Orthanc(folder / "pacs", "PACS").start()
        work = folder / "work"
        command = [sys.executable, "-m", "scripts.worker", "--pr_predictor", str(given.predictor)]
        command += ["--wk_orthanc", front.address, "--wk_work", str(work), "--dl_force", "1"]
        command += ["--wk_send", f"dicom:PACS@127.0.0.1:{pacs.dicom}", "--dl_heat_map", "none"]
        start = time.monotonic()
        with open(folder / "log.txt", "wb") as log:
            own = [*command, "--wk_stable_s", str(STABLE_S)]
            process = subprocess.Popen(own, cwd=ROOT, stderr=log)
        try:
            front.storescu(folder / "0")
            while not (work / "index.csv").is_file():
                time.sleep(0.1)
            watched = psutil.Process(process.pid)
            wait_for(work / JOURNAL_FILE, 1, watched)
            print(f"cold: {time.monotonic() - start:.1f} s from the start to a study in the PACS")
            front.storescu(folder / "1")
            wait_for(work / JOURNAL_FILE, 2, watched)
            start = time.monotonic()
            with ThreadPoolExecutor(given.senders) as senders:
                numbers = range(2, given.studies + 2)
                list(senders.map(lambda number: front.storescu(folder / str(number)), numbers))
            print(f"{given.studies} studies received in {time.monotonic() - start:.1f} s")
            most = wait_for(work / JOURNAL_FILE, given.studies + 2, watched)
            seconds = time.monotonic() - start
            lines = next(work.glob("audit-*.jsonl")).read_text().splitlines()
            events = [json.loads(line) for line in lines]
            alone = [one["seconds"] for one in events if one["event"] == "sent"][1]
            found = pacs.statistics()
            print(f"warm, one study alone: {alone:.2f} s from stable to sent")
            print(f"{seconds:.1f} s, {60 * given.studies / seconds:.0f} studies a minute")
            print(f"most memory {most / 1e6:.0f} MB; in the PACS {found}")
            assert found["CountStudies"] == given.studies + 2
            assert found["CountInstances"] == 3 * (given.studies + 2)
        finally:
            process.terminate()
            process.wait(20)
            front.stop()
            pacs.stop()


if __name__ == "__main__":
    main()
