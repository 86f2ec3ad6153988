import multiprocessing

import pytest

from common.errors import InputError
from common.experiment import Experiment


def _take(results, queue):
    queue.put(Experiment.create(results, None, "").id)


def test_ids_are_free_numbers(tmp_path):
    assert Experiment.create(tmp_path / "results", None, "a: 1\n").id == "0001"
    (tmp_path / "results" / "0007").mkdir()
    (tmp_path / "results" / "mine").mkdir()
    assert Experiment.create(tmp_path / "results", None, "").id == "0008"
    assert (tmp_path / "results" / "0001" / "config.yaml").read_text() == "a: 1\n"


def test_processes_at_once_get_different_ids(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_take, args=(tmp_path, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    ids = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert ids == {"0001", "0002", "0003", "0004"}


def test_existing_id_is_refused(tmp_path):
    Experiment.create(tmp_path, "mine", "")
    with pytest.raises(InputError, match="--experiment_id mine exists"):
        Experiment.create(tmp_path, "mine", "")


def test_one_process_at_a_time(tmp_path):
    experiment = Experiment.create(tmp_path, None, "")
    other = Experiment(experiment.folder)
    with experiment.running(), pytest.raises(InputError, match="another process"), other.running():
        pass
    with experiment.running():
        pass
