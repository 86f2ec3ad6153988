"""scripts/worker.py: what it refuses, its status, and a head through the whole of it."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from delivered import PERSON, write_head, write_predictor
from pacs import Pacs

from common.cli import status_of
from config import Config
from rsna.worker.journal import Journal
from rsna.worker.setup import open_worker
from scripts import worker as script


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Path:
    return write_predictor(tmp_path_factory.mktemp("predictor") / "net")


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs().start()
    yield made
    made.stop()


def refusal(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["worker.py", *arguments])
    assert status_of(script.main) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "--wk_work is missing"),
        (["--wk_work", "{w}"], "--wk_orthanc or --wk_watch is missing"),
        (["--wk_work", "{w}", "--wk_orthanc", "http://u:pw@h"], "without user or password"),
        (["--wk_work", "{w}", "--wk_orthanc", "http://h", "--wk_watch", "x"], "one source"),
        (["--wk_work", "{w}", "--wk_orthanc", "http://h"], "--wk_send is missing"),
        (["--wk_work", "{w}", "--wk_orthanc", "http://h", "--wk_send", "pacs"], "--wk_send pacs"),
        (["--wk_work", "{w}", "--wk_watch", "{w}x", "--wk_shadow", "1"], "no such folder"),
        (["--wk_work", "{w}/in", "--wk_watch", "{w}", "--wk_shadow", "1"], "lies in --wk_watch"),
        (["--wk_work", "{w}", "--wk_watch", "{w}/in", "--wk_shadow", "1", "--wk_admit", "x"],
         "--wk_admit x"),
        (["--wk_work", "{w}", "--wk_status", "1"], "no worker has worked there"),
        (["--wk_work", "{w}/home", "--wk_watch", "{w}/in", "--wk_shadow", "1"], "holds jobs and"),
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_refused(
    monkeypatch, capsys, tmp_path, predictor, arguments, words
):
    for name in ("in", "home/jobs"):
        (tmp_path / name).mkdir(parents=True)
    given = [part.replace("{w}", str(tmp_path)) for part in arguments]
    line = refusal(monkeypatch, capsys, "--pr_predictor", str(predictor), *given)
    assert words in line
    assert "pw" not in line.replace("password", "")


def test_a_predictor_of_phantoms_is_refused(monkeypatch, capsys, tmp_path):
    demo = write_predictor(tmp_path / "net", training={"dataset": "demo"})
    given = ["--wk_work", str(tmp_path / "w"), "--wk_orthanc", "http://h", "--wk_shadow", "1"]
    assert "phantoms" in refusal(monkeypatch, capsys, "--pr_predictor", str(demo), *given)


def test_simple_mistakes_are_refused_before_torch_is_imported(tmp_path, project_root, predictor):
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_module('scripts.worker', run_name='__main__')\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    given = ["--pr_predictor", str(predictor), "--wk_work", str(tmp_path), "--wk_watch", "none"]
    command = [sys.executable, "-c", code, "worker.py", *given, "--wk_shadow", "1"]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "False"], done.stderr


def config_of(predictor: Path, root: Path, address: str | None, **flags) -> Config:
    (root / "in").mkdir(exist_ok=True)
    values = {
        "pr_predictor": str(predictor),
        "wk_watch": str(root / "in"),
        "wk_work": str(root / "work"),
        "wk_send": address,
        "wk_stable_s": 1.0,
        "wk_disk_mb": 0.0,
        "dl_heat_map": "none",
        **flags,
    }
    return Config().with_flags(**values)


def test_a_head_goes_through_the_network_into_the_pacs(tmp_path, predictor, pacs):
    write_head(tmp_path / "in" / "head")
    late = tmp_path / "in" / "head" / "5.dcm"
    shutil.move(late, tmp_path / "late.dcm")
    with open_worker(config_of(predictor, tmp_path, pacs.address)) as worker:
        states = worker.journal.counts

        def is_over() -> bool:
            if states()["committed"] == 1 and not late.exists():
                shutil.copy(tmp_path / "late.dcm", late)
            return states()["committed"] == 2

        worker.run(is_over)
        first, second = worker.journal.in_states(["committed"])
    assert second.predecessor == first.key
    assert len(pacs.stored) == 6
    reports = [one for one in pacs.stored.values() if "PredecessorDocumentsSequence" in one]
    named = {
        item.ReferencedSOPInstanceUID
        for report in reports
        for study in report.PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named <= set(first.objects)
    assert len(named) == len(reports) == 2
    assert list((tmp_path / "work" / "outbox").iterdir()) == []
    written = b"".join(p.read_bytes() for p in (tmp_path / "work").iterdir() if p.is_file())
    for value in (*PERSON.values(), *(one.StudyInstanceUID for one in reports)):
        assert len(value) < 2 or value.encode() not in written, value


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip 20 bytes of the header, or cut the file."""
    if rng.random() < 0.3:
        return data[: int(rng.integers(140, len(data)))]
    found = bytearray(data)
    for place in rng.integers(140, 1200, 20):
        found[place] = int(rng.integers(256))
    return bytes(found)


@pytest.mark.long
def test_damaged_files_cost_themselves_alone(tmp_path, predictor, pacs):
    """Every third study is whole and gets through; of the others half or all files are not."""
    rng = np.random.default_rng(5)
    for number in range(12):
        folder = write_head(tmp_path / "in" / str(number), number + 1)
        if number % 3:
            for path in sorted(folder.iterdir())[:: 1 + number % 2]:
                path.write_bytes(damaged(path.read_bytes(), rng))
    config = config_of(predictor, tmp_path, pacs.address, wk_time_s=30.0, wk_memory_mb=4000.0)
    end = threading.Timer(150, lambda: None)
    end.start()
    with open_worker(config) as worker:
        worker.run(
            lambda: (
                not end.is_alive()
                or (
                    sum(worker.journal.counts().values()) >= 12
                    and not worker.journal.waiting()
                    and not worker.journal.in_states(["predicted", "sent"])
                )
            )
        )
        end.cancel()
        jobs = worker.journal.in_states(["committed", "rejected", "left_out"])
    assert all(job.reason for job in jobs if job.state != "committed")
    whole = {f"1.2.826.0.1.3680043.8.498.{number + 1}" for number in range(0, 12, 3)}
    assert whole <= {str(one.StudyInstanceUID) for one in pacs.stored.values()}


def test_the_status_is_3_where_a_person_is_needed(monkeypatch, capsys, tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    job = journal.add("s", ["1"], "p", "new")
    journal.move(job, "rejected", "no slice can be read")
    monkeypatch.setattr(sys, "argv", ["worker.py", "--wk_work", str(tmp_path), "--wk_status", "1"])
    assert status_of(script.main) == 3
    shown = capsys.readouterr()
    assert f"{job.short} rejected: no slice can be read" in shown.out
    assert shown.err == "no worker is running\n"
