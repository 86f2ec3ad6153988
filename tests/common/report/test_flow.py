"""The flow of a dataset adds up, unit by unit, whatever was left out and why."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from predictor_factory import make_dataset
from prepared import prepare_dicom

from common.preparation import prepare_dataset
from common.report.flow import NO_LABEL, NO_STUDY, NOTHING_USABLE, ScoredIds, flow_svg, study_flow
from common.slices.table import SliceTable
from rsna.sources.ct_ich import CtIchSource
from rsna_task import LABELS


def check_adds_up(stages: list[dict], table: SliceTable, num_scored: int) -> None:
    """Compare with a loop over the files, and the stages with each other."""
    for stage in stages:
        assert stage["found"] == stage["kept"] + sum(stage["excluded"].values())
    files, volumes, studies = stages
    status_of: dict[str, set[str]] = {}
    for row, name in enumerate(table.frame["source_file"]):
        kept = "kept" if table.readable[row] else str(table.frame["status"].iloc[row])
        status_of.setdefault(name, set()).add(kept)
    kept = [name for name, statuses in status_of.items() if "kept" in statuses]
    assert (files["found"], files["kept"]) == (len(status_of), len(kept))
    for reason, number in files["excluded"].items():
        lost = [of for of in status_of.values() if "kept" not in of]
        assert number == sum(reason.replace(" ", "_") in of for of in lost)
    assert volumes["found"] == len(set(table.frame["store_file"][table.readable]))
    assert studies["found"] == len(set(table.frame["study_id"].dropna()))
    assert volumes["kept"] == studies["found"] - studies["excluded"].get(NOTHING_USABLE, 0)
    assert studies["kept"] == num_scored
    for counts in studies["outcome"].values():
        assert sum(counts.values()) == num_scored


def check_drawing(stages: list[dict]) -> None:
    """The drawing is sound XML, names every reason with its number, and nothing lies outside."""
    root = ElementTree.fromstring(flow_svg(stages))
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    for stage in stages:
        assert f"{stage['found']:,} {stage['unit']}" in texts
        for reason, number in stage["excluded"].items():
            assert f"{number:,} {reason}" in [" ".join(text.split()) for text in texts]
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, wide, high = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + wide <= width and 0 <= y < y + high <= height


def test_made_data_with_every_kind_of_loss(tmp_path: Path) -> None:
    frame = make_dataset(tmp_path, num_patients=8).frame
    frame.loc[frame["study_id"] == "study7", ["status", "store_index"]] = ["not_ct", None]
    frame.loc[frame["series_id"] == "p6r0", "study_id"] = None
    # One file of many frames, of which one can't be used: the file is.
    frame.loc[frame["series_id"] == "p5r0", "source_file"] = "p5/all.dcm"
    frame.loc[frame.index[frame["series_id"] == "p5r0"][0], "status"] = "truncated"
    frame["grouping"] = "by number (no positions)"  # a remark that is no reason of its own
    table = SliceTable(frame, tmp_path)
    scored = ScoredIds(["study0", "study1"], np.eye(2, 6), {f"study{n}" for n in range(4)}, "other")
    stages = study_flow(table, scored, LABELS)
    check_adds_up(stages, table, 2)
    check_drawing(stages)
    assert stages[0]["excluded"] == {"not ct": 6, "truncated": 1}
    assert stages[1]["excluded"] == {"covers less brain": 1, NO_STUDY: 1}
    assert stages[2]["excluded"] == {NOTHING_USABLE: 1, NO_LABEL: 2, "other": 2}
    assert stages[2]["outcome"]["epidural"] == {"positive": 1, "negative": 1, "unknown": 0}


def test_a_dataset_of_which_nothing_is_scored(tmp_path: Path) -> None:
    table = make_dataset(tmp_path, num_patients=2)
    stages = study_flow(table, ScoredIds([], np.empty((0, 6)), (), "other"), LABELS)
    check_adds_up(stages, table, 0)
    check_drawing(stages)


def test_odd_files_add_up(test_data: Path, tmp_path: Path) -> None:
    prepare_dicom(test_data / "odd_dicom", tmp_path / "odd")
    table = SliceTable.load(tmp_path / "odd")
    usable = table.frame["study_id"][table.readable].unique()
    labels = np.full((len(usable), 6), np.nan)
    stages = study_flow(table, ScoredIds(usable, labels, usable, "other"), LABELS)
    check_adds_up(stages, table, len(usable))
    check_drawing(stages)
    # Files whose study can't be read are files alone.
    assert len(stages[0]["excluded"]) > 10


@pytest.mark.long
def test_ct_ich_adds_up(test_data: Path, tmp_path: Path) -> None:
    prepare_dataset(CtIchSource(test_data / "ct_ich"), tmp_path / "ct_ich", n_jobs=0)
    table = SliceTable.load(tmp_path / "ct_ich")
    of_studies = table.frame.groupby("study_id")[list(LABELS)].max()
    scored = of_studies.iloc[:40]
    ids = ScoredIds(list(scored.index), scored.to_numpy(), set(of_studies.index), "other")
    stages = study_flow(table, ids, LABELS)
    check_adds_up(stages, table, 40)
    assert stages[2]["excluded"] == {"other": len(of_studies) - 40}
    table_of = pd.read_csv(test_data / "ct_ich" / "hemorrhage_diagnosis.csv")
    assert stages[0]["found"] >= len(table_of["PatientNumber"].unique())
