import re

import numpy as np
import pandas as pd
import pytest

from common.report import EvaluationReport, PlannedSchedule, ScoredSet, choose_examples, figures
from common.report.examples import window_strip
from common.report.page import frame_table
from common.scoring import metrics
from common.statistics.intervals import patient_intervals
from common.windows import READING_WINDOWS

NAMES = ("bleed", "any")
WEIGHTS = (1.0, 2.0)


def scored_set(num_rows: int = 120, unknown: bool = False) -> ScoredSet:
    rng = np.random.default_rng(0)
    labels = (rng.random((num_rows, 2)) < 0.3).astype(float)
    if unknown:
        labels[:] = np.nan
    probabilities = rng.random((num_rows, 2))
    options = {"label_names": NAMES, "weights": WEIGHTS, "prior": np.array([0.3, 0.3])}
    studies = np.arange(num_rows) // 6
    values = metrics.evaluate_slices(labels, probabilities, **options)
    _, y_study, p_study = metrics.max_by_study(labels, probabilities, studies)
    values["num_studies"] = len(y_study)
    values["study"] = metrics.evaluate_slices(y_study, p_study, **options)
    values["interval"] = patient_intervals(labels, probabilities, studies, **options)
    ids = [f"ID_{row}" for row in range(num_rows)]
    return ScoredSet("last weights", values, labels, probabilities, ids)


@pytest.fixture(scope="module")
def html() -> str:
    """A page with everything on it, drawn once."""
    scored = scored_set()
    best = ScoredSet("best", {**scored.metrics, "selected": True}, *scored_arrays(scored))
    return make_report(
        scored, others=[best], num_skipped={"truncated": 17}, facts={"model": "tiny"}
    ).html()


def make_report(scored: ScoredSet, **options) -> EvaluationReport:
    records = [{"iteration": 10, "train_loss": 0.5}, {"iteration": 20, "valid_auc.any": 0.7}]
    return EvaluationReport(
        title="Experiment <1>",
        subtitle="",
        label_names=NAMES,
        main=scored,
        learning_records=records,
        read_image_hu=lambda row: None if row == 3 else np.full((40, 30), row, dtype=np.int16),
        **options,
    )


@pytest.mark.drawn
def test_the_page_needs_nothing_but_itself(html):
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|<script|@import|url\(", html)


@pytest.mark.drawn
def test_the_page_shows_its_figures_and_says_what_it_is(html):
    scored = scored_set()
    assert "not a medical device" in html
    assert f"{scored.metrics['weighted_log_loss']:.4f}" in html
    assert f"{scored.metrics['prior_weighted_log_loss']:.4f}" in html
    assert f"{scored.metrics['auc']['any']:.3f}" in html
    assert "truncated" in html
    assert "17" in html
    assert "Experiment &lt;1&gt;" in html
    for heading in ("ROC and precision-recall", "Reliability", "Learning", "Slices to look at"):
        assert heading in html


@pytest.mark.drawn
def test_a_selected_checkpoint_is_marked(html):
    assert html.count("best (selected on these rows)") == 1
    assert "last weights (selected" not in html


def scored_arrays(scored: ScoredSet):
    return scored.labels, scored.probabilities, scored.image_ids


@pytest.mark.drawn
def test_a_set_without_slice_labels_has_a_page_without_curves():
    html = make_report(scored_set(unknown=True)).html()
    assert "Reliability" not in html
    assert "–" in html


@pytest.mark.drawn
def test_a_label_without_positives_is_drawn():
    scored = scored_set()
    scored.labels[:, 0] = 0
    assert "Reliability" in make_report(scored).html()


def test_examples_are_the_extremes_and_come_once():
    labels = np.array([[1, 1], [1, 1], [0, 0], [0, 1], [0, 0], [0, 0]], dtype=float)
    probabilities = np.array([[0.9, 1], [0.2, 0.1], [0.7, 0.3], [0.1, 0.2], [0.05, 0], [0, 0]])
    chosen = {e.row: e.reason for e in choose_examples(labels, probabilities, NAMES, 9, seed=0)}
    assert chosen[0] == "surest find of bleed"
    assert chosen[1] == "worst miss of bleed"
    assert chosen[2] == "worst false alarm of bleed"
    assert chosen[3] == "surest find of any"
    assert sorted(chosen) == [0, 1, 2, 3, 4, 5]
    assert [reason for reason in chosen.values()].count("drawn at random") == 1


@pytest.mark.parametrize("shape", [(512, 512), (100, 37)])
def test_windows_side_by_side_keep_the_shape_of_the_slice(shape):
    windows = {name: READING_WINDOWS[name] for name in ("brain", "subdural", "bone")}
    strip = window_strip(np.full(shape, 40, dtype=np.int16), windows, height=100)
    width = strip.shape[1] // 3
    assert strip.shape[0] == 100
    assert width == round(100 * shape[1] / shape[0])
    # 40 HU is the middle of the brain window, 0.3 of the subdural and 0.3 of the bone window.
    assert strip[50, width // 2] in (127, 128)
    assert strip[50, width + width // 2] == pytest.approx(255 * 0.3, abs=1)
    assert strip[50, 2 * width + width // 2] == pytest.approx(255 * 0.3, abs=1)


def test_what_comes_from_data_is_escaped():
    evil = "<b onclick='x'>\"&"
    scored = scored_set(12)
    scored = ScoredSet(evil, scored.metrics, scored.labels, scored.probabilities, [evil] * 12)
    options = {"num_skipped": {evil: 1}, "facts": {evil: evil}, "loss_note": evil}
    options |= {"folds": {evil: scored.metrics}}
    scored.metrics["study"]["rule"] = evil
    html = make_report(scored, **options).html()
    assert "<b " not in html
    assert html.count("&lt;b onclick=&#39;x&#39;&gt;&#34;&amp;") > 12
    frame = pd.DataFrame({evil: [evil]}, index=pd.Index([evil], name=f"{evil}!"))
    assert "<b " not in frame_table(frame)
    assert frame_table(frame).count("&lt;b onclick") == 4


def test_a_table_shows_numbers_shares_and_what_is_unknown():
    frame = pd.DataFrame(
        {
            "number": [1234567.0, 0.5, np.nan],
            "share": [0.25, np.nan, 1.0],
            "text": ["x" * 200, None, "y"],
        }
    )
    cells = re.findall(r"<td>(.*?)</td>", frame_table(frame, ["share"], index=False))
    assert cells == ["1,234,567", "25.00 %", "x" * 200, "0.500", "–", "–", "–", "100.00 %", "y"]


def test_two_sets_are_drawn_into_one_reliability_figure():
    scored = scored_set()
    sets = {"raw": scored.probabilities, "calibrated": scored.probabilities / 2}
    first, second = figures.reliability_figure(scored.labels, sets, NAMES).axes[:2]
    for axes in (first, second):
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert [text.split(" (ECE 0.")[0] for text in texts] == ["raw", "calibrated"]
        raw, calibrated = axes.lines[0].get_xdata(), axes.lines[1].get_xdata()
        np.testing.assert_allclose(calibrated, raw / 2)
        assert axes.get_xlim()[1] >= raw.max()


def test_the_schedule_is_drawn_over_all_iterations():
    records = [{"iteration": 10, "train_learning_rate": 0.3}, {"iteration": 20, "valid_loss": 1.0}]
    drawing = figures.schedule_figure(lambda step: 1 - step / 1000, 1000, 0.1, 700, records)
    lines = {line.get_label(): line for line in drawing.axes[0].lines}
    steps, rates = lines["last layer"].get_data()
    assert (steps[0], steps[-1], len(steps)) == (1, 1000, 1000)
    np.testing.assert_allclose(rates, 1 - (steps - 1) / 1000)
    np.testing.assert_allclose(lines["first layer (0.1 of it)"].get_ydata(), rates * 0.1)
    assert list(lines["used"].get_xdata()) == [10]
    assert lines["stochastic weight averaging begins"].get_xdata()[0] == 700
    plain = figures.schedule_figure(lambda step: 1.0, 10**6)
    assert [line.get_label() for line in plain.axes[0].lines] == ["schedule"]
    assert len(plain.axes[0].lines[0].get_xdata()) <= 2000


@pytest.mark.drawn
def test_a_page_with_a_schedule_shows_it():
    schedule = PlannedSchedule(lambda step: 1.0, 20)
    shown = make_report(scored_set(), schedule=schedule, loss_note="a focal loss").html()
    assert "<h2>Learning rate</h2>" in shown
    assert "a focal loss" in shown
