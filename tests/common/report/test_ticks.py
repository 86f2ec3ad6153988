"""Boxes to tick in the page of a study, in a browser: what they do, and the csv they save."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import BROWSER, NO_BROWSER, Browser, browser

from common.report.study_page import Ticks, study_html
from rsna_task import LABELS

pytestmark = pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
NUM_SLICES = 4


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Browser]:
    chromium.save_to(tmp_path / "saved")
    chromium.errors.clear()
    yield chromium
    assert not chromium.errors


def show(opened: Browser, folder: Path, labels: object = None, study: object = None) -> None:
    rng = np.random.default_rng(0)
    p = rng.random((NUM_SLICES, len(LABELS)))
    given = np.full(len(LABELS), np.nan) if study is None else np.asarray(study)
    html = study_html(
        rng.integers(-100, 100, (NUM_SLICES, 20, 20)).astype(np.int16),
        (1.0, 1.0),
        5.0 * np.arange(NUM_SLICES),
        p,
        p.max(axis=0),
        LABELS,
        number=7,
        labels=None if labels is None else np.asarray(labels, dtype=float),
        reasons={2: "a reason"},
        ticks=Ticks("page_0123", given),
    )
    (folder / "study.html").write_text(str(html), "utf-8")
    opened.open(folder / "study.html")
    opened.run("ready")


def box(name: str, place: str = "slice", kind: str = "input") -> str:
    return f"{kind}[data-of={place}][data-label='{LABELS.index(name)}']"


def shown(opened: Browser, place: str = "slice") -> list[float]:
    """1 for a tick, 0 for an empty box, NaN for a dash."""
    script = f"[...document.querySelectorAll('input[data-of={place}]')]"
    script += ".map((one) => one.indeterminate ? null : Number(one.checked))"
    return [np.nan if value is None else value for value in opened.run(script)]


def save(opened: Browser, folder: Path) -> pd.DataFrame:
    path = folder / "saved" / "ticks_study_7.csv"
    path.unlink(missing_ok=True)
    opened.click("[data-do=save]")
    for _ in range(100):
        if path.is_file():
            return pd.read_csv(path)
        time.sleep(0.1)
    raise AssertionError("nothing is saved")


def test_ticks_stay_while_slices_change_and_are_saved(opened: Browser, tmp_path: Path) -> None:
    show(opened, tmp_path)
    assert opened.run("state.slice") == 2  # that of the reason
    assert np.isnan(shown(opened)).all() and np.isnan(shown(opened, "study")).all()
    opened.click(box("subdural"))
    np.testing.assert_array_equal(shown(opened), [np.nan, np.nan, np.nan, np.nan, 1, 1])
    opened.key("ArrowUp")  # the focus is on the box: keys still change the slice
    assert opened.run("state.slice") == 3 and np.isnan(shown(opened)).all()
    opened.click("[data-do=rest]")
    assert shown(opened) == [0] * 6
    opened.key("Home")
    opened.click(box("epidural"))
    opened.click(box("epidural"))  # unticked on purpose: no, and not unknown
    np.testing.assert_array_equal(shown(opened), [0, *[np.nan] * 5])
    opened.key("ArrowUp")
    opened.click("[data-do=copy]")
    opened.click(box("any"))
    np.testing.assert_array_equal(shown(opened, "study"), [*[np.nan] * 4, 1, 1])
    table = save(opened, tmp_path)
    assert table.columns.tolist() == ["page", "study", "reader", "save", "slice", *LABELS]
    assert table["page"].unique().tolist() == ["page_0123"] and set(table["study"]) == {7}
    expected = {1: [0, *[np.nan] * 5], 2: [0, *[np.nan] * 4, 1], 3: [*[np.nan] * 4, 1, 1]}
    expected[4] = [0] * 6
    assert table["slice"].tolist() == [1, 2, 3, 4]  # the study follows from the slices
    np.testing.assert_array_equal(table[list(LABELS)].to_numpy(), list(expected.values()))
    assert "(saved)" in opened.run("get('changes').textContent")


def test_boxes_begin_with_the_labels_and_only_changes_are_saved(
    opened: Browser, tmp_path: Path
) -> None:
    labels = np.zeros((NUM_SLICES, len(LABELS)))
    labels[1, [1, 5]] = 1
    labels[3] = np.nan
    show(opened, tmp_path, labels)
    assert opened.run("get('changes').textContent") == "nothing is changed"
    opened.key("Home")
    opened.key("ArrowUp")
    assert shown(opened) == [0, 1, 0, 0, 0, 1]
    disabled = opened.run(f'document.querySelector("{box("any", "study")}").disabled')
    assert disabled  # a slice says yes
    opened.click(box("intraparenchymal"))
    assert shown(opened) == [0] * 6
    opened.key("End")
    opened.click("[data-do=all]")
    table = save(opened, tmp_path)
    assert table["slice"].tolist() == [2, 4]
    assert (table[list(LABELS)] == 0).all(axis=None)
    opened.key("Home")
    opened.key("ArrowUp")
    opened.click(box("intraparenchymal"))
    opened.key("End")
    opened.click(box("any", kind="button"))
    again = save(opened, tmp_path)
    assert again["slice"].tolist() == ["none"]  # undone: the later file says so
    assert again["reader"].tolist() == table["reader"].unique().tolist()
    assert (table["save"].unique().tolist(), again["save"].tolist()) == ([1], [2])


def test_the_study_has_boxes_of_its_own(opened: Browser, tmp_path: Path) -> None:
    show(opened, tmp_path, study=[0, 1, 0, 0, 0, 1])
    assert shown(opened, "study") == [0, 1, 0, 0, 0, 1]
    opened.click(box("intraparenchymal", "study", "button"))
    np.testing.assert_array_equal(shown(opened, "study"), [0, np.nan, 0, 0, 0, np.nan])
    table = save(opened, tmp_path)
    assert table["slice"].tolist() == ["study"]
    np.testing.assert_array_equal(table[list(LABELS)], [[0, np.nan, 0, 0, 0, np.nan]])
    opened.click(box("subdural"))  # a slice decides what was given: that is saved too
    again = save(opened, tmp_path)
    assert again["slice"].tolist() == ["3", "study"]
    np.testing.assert_array_equal(again[list(LABELS)].iloc[1], [0, np.nan, 0, 0, 1, 1])


def test_any_follows_the_others_from_every_state(opened: Browser, tmp_path: Path) -> None:
    """From each consistent row, after each tick: the row says what was ticked, and agrees."""
    show(opened, tmp_path)
    values = (0, 1, None)
    rows = [row for row in itertools.product(values, repeat=6) if agrees(row)]
    cases = [(row, k, value) for row in rows for k in range(6) for value in values]
    found = opened.run(f"{json_of(cases)}.map(([row, k, value]) => changed(row, k, value))")
    for (row, k, value), after in zip(cases, found, strict=True):
        assert agrees(after), (row, k, value, after)
        if k < 5 or value is not None:
            assert after[k] == value, (row, k, value, after)
        others = [j for j in range(5) if j != k]
        if k < 5:
            assert [after[j] for j in others] == [row[j] for j in others]


def agrees(row: object) -> bool:
    *others, union = row
    if 1 in others:
        return union == 1
    return union == 0 if set(others) == {0} else union != 0


def json_of(cases: object) -> str:
    return str(cases).replace("None", "null").replace("(", "[").replace(")", "]")


def test_a_page_that_is_not_saved_asks_before_it_closes(opened: Browser, tmp_path: Path) -> None:
    show(opened, tmp_path)
    asks = "dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    assert opened.run(asks)
    opened.click(box("any"))
    assert not opened.run(asks)
    save(opened, tmp_path)
    assert opened.run(asks)


def test_a_page_without_boxes_has_none_of_it() -> None:
    p = np.full((1, len(LABELS)), 0.5)
    html = study_html(np.zeros((1, 8, 8)), (1.0, 1.0), [0.0], p, p[0], LABELS, number=1)
    assert "data-do" not in html and "reader_" not in html
