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
    context = multiprocessing.get_context("fork")
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


def test_an_output_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output_dir .*file: no folder can be made"):
        Experiment.create(tmp_path / "file" / "results", None, "")


def test_two_processes_asking_for_one_id_get_it_once(tmp_path, monkeypatch):
    Experiment.create(tmp_path, "mine", "")
    refuse = Experiment.refuse_existing
    calls = []

    def too_early(results, experiment_id):
        calls.append(experiment_id)
        if len(calls) > 1:
            refuse(results, experiment_id)

    monkeypatch.setattr(Experiment, "refuse_existing", staticmethod(too_early))
    with pytest.raises(InputError, match="--experiment_id mine exists"):
        Experiment.create(tmp_path, "mine", "")


def test_the_log_of_the_experiment_holds_the_traceback(tmp_path):
    experiment = Experiment.create(tmp_path, None, "")
    with pytest.raises(ZeroDivisionError), experiment.running():
        1 / 0  # noqa: B018
    text = (experiment.folder / "train.log").read_text()
    assert "Traceback" in text
    assert "ERROR stopped by: division by zero" in text
