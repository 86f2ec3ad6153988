"""The page of a study: what is in it, and what a browser does with it."""

import json
import re
import shutil
import subprocess
import zlib
from base64 import b64decode
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from predictor_factory import make_dataset

from common.report import study_page
from common.report.study_page import (
    key_slices,
    labels_of_study,
    pack,
    stored_study_html,
    study_html,
)
from common.windows import BONE, BRAIN, windowed
from rsna_task import LABELS

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
RNG = np.random.default_rng(0)
NUM_SLICES = 7


def volume(shape: tuple[int, int] = (40, 48), n: int = NUM_SLICES) -> np.ndarray:
    return RNG.integers(-1024, 3000, (n, *shape)).astype(np.int16)


def page(images_hu: np.ndarray, number: int = 3, **options: object) -> str:
    n = len(images_hu)
    p = np.linspace(0.1, 0.9, n)[:, None] * np.linspace(0.5, 1, len(LABELS))
    given = {"spacing_mm": (0.5, 0.5), "positions_mm": 5.0 * np.arange(n), "probabilities": p}
    given |= {"study_probabilities": p.max(axis=0), "label_names": LABELS}
    return str(study_html(images_hu, number=number, **(given | options)))


def unpacked(html: str) -> np.ndarray:
    """The HU in a page, by the rule of `pack` as a plain loop."""
    data = json.loads(re.search(r'id="data">(.*?)</script>', html)[1])
    planes = zlib.decompress(b64decode(re.search(r'id="packed">(.*?)</script>', html)[1]))
    half, value, values = len(planes) // 2, 0, []
    for low, high in zip(planes[:half], planes[half:]):
        coded = low + 256 * high
        value += -(coded + 1) // 2 if coded % 2 else coded // 2
        values.append(value)
    return np.array(values).reshape(data["size"])


def test_the_end_of_the_feet_is_named_only_where_positions_tell_it() -> None:
    html = page(volume())
    assert "the first nearest the feet" in html and "From foot to head, mm along" in html
    html = page(volume(), positions_mm=np.full(NUM_SLICES, np.nan))
    assert "nothing tells which end is nearer the feet" in html
    assert "the first nearest" not in html and "From foot" not in html


def test_the_page_holds_the_hounsfield_units() -> None:
    images_hu = volume()
    images_hu[0, 0, :2] = [-1024, 31743]
    np.testing.assert_array_equal(unpacked(page(images_hu)), images_hu)


def test_large_slices_and_series_are_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.full((2, 512, 300), 37, np.int16)
    assert unpacked(page(flat)).shape == (2, 256, 150)
    assert (unpacked(page(flat)) == 37).all()
    wide = page(flat[:, :100, :100], spacing_mm=(0.5, 1.0))
    assert unpacked(wide).shape == (2, 100, 200)
    assert unpacked(page(flat, spacing_mm=(np.nan, np.nan))).shape == (2, 256, 150)
    monkeypatch.setattr(study_page, "MAX_PIXELS", 2 * 64**2)
    assert unpacked(page(flat)).shape == (2, 64, 38)


def test_extreme_values_survive_packing() -> None:
    values = np.array([[[-1024, 31743], [-1024, 0]]], np.int16)
    planes = zlib.decompress(b64decode(pack(values)))
    assert len(planes) == 8


def test_everything_is_escaped_and_nothing_comes_from_outside() -> None:
    evil = "</script><script>alert(1)</script>"
    names = [*LABELS[:-1], evil]
    html = page(volume(), label_names=names, notes=[evil, "a & b"])
    assert "alert(1)</script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert not re.findall(r"(?:src|href)=(?!\"data:)|https?://|url\(|@import|fetch\(", html)


def unknown_numbers(html: str) -> list[str]:
    """What is written as no number, outside of base64."""
    return re.findall(r"\bnan\b", re.sub(r"base64,[^\"]+|id=\"packed\">[^<]+", "", html), re.I)


def test_positions_and_labels_may_be_unknown() -> None:
    labels = np.zeros((NUM_SLICES, len(LABELS)))
    labels[2, [1, 5]] = 1
    labels[:, 0] = np.nan
    html = page(volume(), labels=labels, positions_mm=np.full(NUM_SLICES, np.nan))
    assert not unknown_numbers(html)
    assert "slice" in html and ">unknown<" in html and ">yes<" in html
    assert ">yes<" not in page(volume())
    assert not unknown_numbers(page(volume(n=1)))
    found = labels_of_study(labels)
    np.testing.assert_array_equal(found, [np.nan, 1, 0, 0, 0, 1])


def test_the_page_opens_on_the_slice_that_is_most_likely_any() -> None:
    p = np.full((NUM_SLICES, len(LABELS)), 0.1)
    p[5, -1], p[2, 0], p[1, -2] = 0.6, 0.9, 0.9
    html = page(volume(), probabilities=p)
    assert json.loads(re.search(r'id="data">(.*?)</script>', html)[1])["start"] == 5


def test_key_slices_are_the_surest_and_the_missed_ones() -> None:
    p = np.full((32, 2), 0.01)
    p[10, 1], p[11, 1], p[20, 1] = 0.9, 0.8, 0.5
    assert list(key_slices(p, None))[:1] != [11]
    assert {10, 20} <= set(key_slices(p, None)) and 11 not in key_slices(p, None)
    labels = np.zeros((32, 2))
    labels[[10, 30], 1] = 1
    assert key_slices(p, labels)[30] == "labelled, with the lowest probability"
    for n in (1, 2, 3):
        assert 1 <= len(key_slices(p[:n], None)) <= n


def test_a_stored_study_has_its_own_slices_and_no_ids(tmp_path: Path) -> None:
    table = make_dataset(tmp_path)
    frame = table.frame
    p = RNG.random((len(frame), len(LABELS)))
    predictions = pd.DataFrame(p, columns=LABELS, index=frame["image_id"])
    rows = np.flatnonzero(frame["store_file"] == "p2r0.b2nd")
    study = {"number": 12, "top_image_id": frame["image_id"][rows[0]]}
    study |= dict(zip(LABELS, p[rows].max(axis=0)))
    html = str(stored_study_html(table, study, predictions, LABELS))
    np.testing.assert_array_equal(unpacked(html), [table.image_hu(row) for row in rows])
    names = ["secret-patient-2", "p2r0", "study2", *frame["image_id"][rows]]
    assert not [name for name in names if name in html]
    assert "Study 12" in html
    of = table.frame
    of.loc[rows, list(LABELS)] = 0.0
    of.loc[rows[:2], "any"] = 0.7, 0.5
    for source, num_bars in ((None, 1), ("pseudo:1", 0)):
        of.loc[rows, "label_source"] = source
        html = str(stored_study_html(table, study, predictions, LABELS))
        assert html.count("<rect") == num_bars  # of the slice of 0.7: 0.5 is unknown
    of.loc[rows, "label_source"] = None
    (tmp_path / "store" / "p2r0.b2nd").write_bytes(b"damaged")
    assert stored_study_html(table, study, predictions, LABELS) is None
    assert stored_study_html(table, study | {"top_image_id": None}, predictions, LABELS) is None


DRIVE = """<script>
ready.then(() => {
  const seen = {}, at = (name) => {
    const grey = context.getImageData(0, 0, columns, rows).data.filter((_, i) => i % 4 === 0);
    seen[name] = { slice: state.slice, text: get("place").textContent, grey: Array.from(grey) };
  };
  const key = (name) => document.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
  key("Home"); at("first");
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -100 })); at("wheel");
  key("End"); key("ArrowUp"); at("last");
  key("3"); at("bone");
  get("center").value = 300; get("center").dispatchEvent(new Event("input"));
  get("width").value = 1500; get("width").dispatchEvent(new Event("input")); at("sliders");
  get("number").value = 3; get("number").dispatchEvent(new Event("input")); at("third");
  const result = document.createElement("pre");
  result.id = "result"; result.textContent = JSON.stringify(seen); document.body.append(result);
});
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no chrome is installed")
def test_a_browser_scrolls_and_changes_the_window(tmp_path: Path) -> None:
    images_hu = volume()
    (tmp_path / "page.html").write_text(page(images_hu).replace("</body>", DRIVE), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    seen = json.loads(found[1])
    assert {name: one["slice"] for name, one in seen.items()} == {
        "first": 0, "wheel": 1, "last": 6, "bone": 6, "sliders": 6, "third": 2,
    }  # fmt: skip
    assert seen["wheel"]["text"] == "Slice 2 of 7, 5.0 mm"
    windows = {"first": BRAIN, "wheel": BRAIN, "last": BRAIN, "bone": BONE}
    windows |= {"sliders": (300.0, 1500.0), "third": (300.0, 1500.0)}
    for name, window in windows.items():
        expected = windowed(images_hu[seen[name]["slice"]], *window).astype(int)
        shown = np.array(seen[name]["grey"]).reshape(expected.shape)
        assert np.abs(shown - expected).max() <= 1, name  # halves are rounded another way
