"""The script: flags that are refused, phantoms, a full disk, a kill."""

import json
import re
import signal
import sys
from pathlib import Path

import pytest
import warm
from delivered import START, contents, make_deliverer, write_head, write_predictor
from small_disk import files_up_to
from spot_network import node, transform_of

import deliver
import rsna.delivery
from common.cli import status_of
from rsna_model import RSNAModel

TIME = START.isoformat()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_predictor(root / "net")
    demo = {"experiment_id": "demo_start", "dataset": "demo", "fold": 0}
    write_predictor(root / "demo", training=demo)
    write_predictor(root / "tuned", training={**demo, "dataset": "mine", "started_from": [demo]})
    write_head(root / "in")
    return root


def run(monkeypatch, root: Path, *arguments: str, predictor: str = "net") -> int:
    common = ["--pr_predictor", str(root / predictor), "--n_jobs", "0"]
    monkeypatch.setattr(sys, "argv", ["deliver.py", *common, *arguments])
    return status_of(deliver.main)


def test_a_folder_of_dicom_becomes_a_folder_of_results(monkeypatch, capsys, root, tmp_path):
    folders = ["--dl_input", str(root / "in"), "--dl_output", str(tmp_path / "out")]
    assert run(monkeypatch, root, *folders, "--dl_time", TIME) == 0
    printed = capsys.readouterr().out.splitlines()
    (study,) = (tmp_path / "out").iterdir()
    assert re.fullmatch(r"[0-9a-f]{16}", study.name)
    record = json.loads((study / "result.json").read_text())
    assert f"{study}: delivered: any {record['probabilities']['any']:.3f}, subdural" in printed[0]
    assert printed[1] == f"1 study delivered, 0 not: {tmp_path / 'out'}"
    before = contents(tmp_path / "out")
    assert run(monkeypatch, root, *folders, "--dl_time", TIME) == 0
    assert contents(tmp_path / "out") == before
    assert record["time"] == TIME


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--dl_input is missing: say which folder or zip archive"),
        (["--dl_input", ""], "--dl_input is missing"),
        (["--dl_input", "nowhere"], "--dl_input nowhere: no such folder"),
        (["--dl_input", "{in}", "--dl_output", ""], "--dl_output is missing"),
        (["--dl_input", "{in}"], "--dl_output is missing: say which folder the results go to"),
        (["--dl_input", "{in}", "--dl_output", "{in}/out"], "lies in --dl_input"),
        (["--dl_time", "yesterday"], "--dl_time yesterday: must be a time such as 2026-01-01T00"),
        (["--dl_time", "2026-13-01T00:00:00"], "--dl_time 2026-13-01T00:00:00: must be a time"),
        (["--dl_time", "0001-01-01T00:00:00"], "--dl_time 0001-01-01T00:00:00: must be a time"),
        (["--dl_uid_root", "1.1\u0663"], "must be numbers with dots"),
        (["--dl_uid_root", "1.02"], "--dl_uid_root 1.02: must be numbers with dots"),
        (["--dl_uid_root", "1" + 19 * ".2"], "must be numbers with dots"),
        (["--dl_uid_root", "2.25"], "--dl_uid_root 2.25: must be your own, not that of UUIDs"),
        (["--dl_uid_root", "2.25.7"], "must be your own, not that of UUIDs"),
        (["--dl_uid_root", "1.2.840.10008"], "must be your own, not that of DICOM itself"),
        (["--dl_uid_root", "1.2.840.10008.5.1"], "must be your own, not that of DICOM itself"),
        (["--dl_heat_map", "seg"], "--dl_heat_map seg"),
    ],
)
def test_flags_that_can_not_be_used_are_refused(monkeypatch, capsys, root, arguments, message):
    given = [text.replace("{in}", str(root / "in")) for text in arguments]
    assert run(monkeypatch, root, *given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_predictor_of_phantoms_alone_is_refused_unless_forced(
    monkeypatch, capsys, root, tmp_path
):
    folders = ["--dl_input", str(root / "in"), "--dl_output", str(tmp_path / "out")]
    folders += ["--dl_heat_map", "none"]
    assert run(monkeypatch, root, *folders, predictor="demo") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the predictor was trained on phantoms alone")
    assert not (tmp_path / "out").exists()
    assert run(monkeypatch, root, *folders, "--dl_force", "1", predictor="demo") == 0
    for name, content in contents(tmp_path / "out").items():
        assert b"trained on phantoms alone" in content.replace(b"PHANTOM-TRAINED", b""), name
        if name.endswith(".dcm"):
            assert b"RESEARCH, PHANTOM-TRAINED" in content
    assert run(monkeypatch, root, *folders, predictor="tuned") == 0
    results = {name: each for name, each in contents(tmp_path / "out").items() if "dcm" in name}
    assert results
    assert not [name for name, each in results.items() if b"phantom" in each.lower()]


@pytest.mark.parametrize("without", ["layer of cells", "matrix"])
def test_a_predictor_without_maps_is_refused_before_it_predicts(
    monkeypatch, capsys, root, tmp_path, without
):
    if without == "matrix":
        network = RSNAModel("test_resnet", in_chans=1)
        tilting = node("GantryTilt", degrees_range=[9, 9])
        changes = {"transform": transform_of(tilting, node("Resize", height=32, width=32))}
        reason = "no map can be laid over the slice, as no matrix says where GantryTilt"
    else:
        network = RSNAModel("test_vit")
        changes = {}
        reason = "no heat map: the layers of test_vit are tokens without a grid"
    changes |= {"network": network, "model": network.specification}
    write_predictor(tmp_path / "net", **changes)
    folders = ["--dl_input", str(root / "in"), "--dl_output", str(tmp_path / "out")]
    predictor = str(tmp_path / "net")
    assert run(monkeypatch, root, *folders, predictor=predictor) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: --dl_heat_map sc: ") and reason in line
    assert line.endswith("; or give --dl_heat_map none")
    assert not (tmp_path / "out").exists()
    flags = (*folders, "--dl_heat_map", "none")
    assert run(monkeypatch, root, *flags, predictor=predictor) == 0


def test_a_folder_without_a_head_leaves_its_reasons(monkeypatch, capsys, root, tmp_path):
    write_head(tmp_path / "in", BodyPartExamined="ABDOMEN", SeriesDescription="abdomen")
    folders = ["--dl_input", str(tmp_path / "in"), "--dl_output", str(tmp_path / "out")]
    assert run(monkeypatch, root, *folders) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "nothing to deliver: " in line
    assert "another part of the body" in line
    (study,) = (tmp_path / "out").iterdir()
    record = json.loads((study / "result.json").read_text())
    assert (record["status"], record["probabilities"]) == ("unusable", None)
    assert "another part of the body" in record["reason"]
    assert [path.name for path in study.iterdir()] == ["result.json"]


def test_a_full_disk_gives_one_line_and_leaves_nothing(monkeypatch, capsys, root, tmp_path):
    folders = ["--dl_input", str(root / "in"), "--dl_output", str(tmp_path / "out")]
    made, write = [], rsna.delivery.write_objects

    def on_a_small_disk(folder, objects, start):
        made.append(folder)
        with files_up_to(30_000):  # the reports fit, an image does not
            write(folder, objects, start)

    monkeypatch.setattr(rsna.delivery, "write_objects", on_a_small_disk)
    assert run(monkeypatch, root, *folders) == 2
    assert made
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1
    assert "larger than the disk or ulimit -f allows" in error[0]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "call", [5, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2, 8, 9, 10, 11))]
)
def test_a_killed_delivery_leaves_whole_folders_and_goes_on(root, tmp_path, project_root, call):
    write_head(tmp_path / "in" / "a", 1)
    write_head(tmp_path / "in" / "b", 2, PatientID="other")
    output, whole = tmp_path / "out", tmp_path / "whole"
    script = project_root / "tests" / "helpers" / "killed_delivery.py"
    arguments = [str(call), str(root / "net"), str(tmp_path / "in"), str(output)]
    found = warm.run([script, *arguments])
    assert found.returncode == -signal.SIGKILL, found.stderr
    deliverer = make_deliverer(root / "net")
    deliverer.deliver(tmp_path / "in", whole, START)
    expected = contents(whole)
    for folder in (path for path in output.iterdir() if not path.name.startswith(".")):
        own = {f"{folder.name}/{name}": each for name, each in contents(folder).items()}
        assert own == {name: expected[name] for name in expected if name.startswith(folder.name)}
    deliverer.deliver(tmp_path / "in", output, START)
    assert contents(output) == expected
    assert sorted(path.name for path in output.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )
