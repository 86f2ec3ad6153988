"""The page of one evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import write_text
from common.report import figures
from common.report.examples import READING_WINDOWS, choose_examples, example_cards
from common.report.page import figure, page, paragraph, shown, shown_interval, table
from common.scoring.metrics import NUM_CALIBRATION_BINS, Floats

NOTICE = (
    "Research software, not a medical device: nothing here may be used to diagnose or treat a "
    "patient."
)


@dataclass(frozen=True)
class PlannedSchedule:
    """The learning rate of a training, as its flags say.

    Attributes:
        rate: learning rate of the last layer by the number of iterations done.
        num_steps: iterations of the training.
        lowest_scale: share of it that the first layer has.
        swa_start: iterations before stochastic weight averaging, or None.
    """

    rate: Callable[[int], float]
    num_steps: int
    lowest_scale: float = 1.0
    swa_start: int | None = None


@dataclass(frozen=True)
class ScoredSet:
    """Predictions of one set of weights, and what they scored.

    Attributes:
        name: of the weights, such as `last weights`.
        metrics: as in metrics.json.
        labels, probabilities: float64 (n, k).
        image_ids: of the n rows.
    """

    name: str
    metrics: Mapping[str, Any]
    labels: Floats
    probabilities: Floats
    image_ids: Sequence[str]


@dataclass(frozen=True)
class EvaluationReport:
    """What the page of an evaluation tells; `write` makes it.

    Attributes:
        title, subtitle: head of the page.
        label_names: the k labels.
        main: the scored set that figures and examples show.
        others: further sets for the first table.
        folds: the metrics of each fold by its name, where the rows are out-of-fold ones.
        facts: what was evaluated, by name; no paths and no patient data.
        num_skipped: rows left out or filled, by reason.
        learning_records: lines of metrics.jsonl; empty where there are none.
        loss_note: what training minimised, in a sentence.
        schedule: of the learning rate; None where it is not known.
        sections: further sections, headings and HTML, after the scores of the labels.
        read_image_hu: pixels of a row of `main`, None where they can't be read.
        num_random_examples: slices shown that were drawn at random.
        study_rule: how a study's probability comes from its slices', in a sentence.
    """

    title: str
    subtitle: str
    label_names: Sequence[str]
    main: ScoredSet
    others: Sequence[ScoredSet] = ()
    folds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    num_skipped: Mapping[str, int] = field(default_factory=dict)
    learning_records: Sequence[Mapping[str, Any]] = ()
    loss_note: str = ""
    schedule: PlannedSchedule | None = None
    sections: Sequence[tuple[str, str]] = ()
    read_image_hu: Callable[[int], NDArray[np.int16] | None] = lambda row: None
    num_random_examples: int = 6
    study_rule: str = "A study's probability is the largest of its slices'."

    def write(self, path: Path) -> None:
        """Writes the page to `path`, in one step."""
        write_text(path, self.html())

    def html(self) -> str:
        """Returns the page."""
        sections = [
            ("Score", self._score()),
            ("Each label", self._labels()),
            *self.sections,
            (f"Calls at a probability of {self.main.metrics['threshold']:g}", self._calls()),
        ]
        if self.folds:
            sections.insert(1, ("Each fold", self._folds()))
        if self.main.metrics["num_slices"]:
            sections += [
                ("ROC and precision-recall", self._curves()),
                ("Reliability", self._reliability()),
            ]
        if self.learning_records:
            sections.append(("Learning", self._learning()))
        if self.schedule is not None:
            sections.append(("Learning rate", self._schedule(self.schedule)))
        if len(self.main.image_ids):
            sections.append(("Slices to look at", self._examples()))
        sections += [("What was left out", self._skipped()), ("What was evaluated", self._facts())]
        return page(self.title, self.subtitle, NOTICE, sections)

    def _score(self) -> str:
        rows = []
        for scored in (self.main, *self.others):
            values = scored.metrics
            interval = values.get("interval") or {}
            rows.append(
                [
                    scored.name + (" (selected on these rows)" if values["selected"] else ""),
                    shown(values["weighted_log_loss"], 4),
                    shown_interval(interval.get("weighted_log_loss"), 4),
                    shown(_ratio(values)),
                    shown_interval(interval.get("weighted_log_loss_to_prior")),
                    shown(values["study"]["weighted_log_loss"], 4),
                ]
            )
        prior = shown(self.main.metrics["prior_weighted_log_loss"], 4)
        rows.append(["constant prior", prior, "–", shown(1.0), "–", "–"])
        header = [
            "weights", "weighted log loss", "95 % interval", "of the prior's", "95 % interval",
            "per study",
        ]  # fmt: skip
        num_slices, num_studies = (self.main.metrics[key] for key in ("num_slices", "num_studies"))
        return table(header, rows) + paragraph(
            f"{num_slices:,} slices of {num_studies:,} studies. The prior is the share of "
            "positives in the training rows, told of every slice. Intervals resample patients. "
            f"{self.study_rule} A checkpoint selected on these "
            "rows scores better here than it will on others.",
            "quiet",
        )

    def _folds(self) -> str:
        rows = []
        for name, values in self.folds.items():
            best = values.get("best") or {}
            rows.append(
                [
                    f"fold {name}",
                    shown(values["num_slices"]),
                    shown(values["num_studies"]),
                    shown(values["weighted_log_loss"], 4),
                    shown(values["prior_weighted_log_loss"], 4),
                    shown(_ratio(values)),
                    shown(best.get("weighted_log_loss"), 4),
                ]
            )
        header = [
            "", "slices", "studies", "weighted log loss", "prior's", "of the prior's",
            "best checkpoint (selected)",
        ]  # fmt: skip
        areas = [
            [f"fold {name}", *(shown(values["auc"].get(label)) for label in self.label_names)]
            for name, values in self.folds.items()
        ]
        return (
            table(header, rows)
            + table(["AUC", *self.label_names], areas)
            + paragraph(
                "Each fold is scored by the weights that its training ended with (averaged where "
                "averages are on), on patients that it has not seen. The best checkpoint is the "
                "one chosen on these very rows. Each fold has a page of its own: "
                "fold_<number>/report.html.",
                "quiet",
            )
        )

    def _labels(self) -> str:
        values = self.main.metrics
        intervals = (values.get("interval") or {}).get("auc", {})
        rows = []
        for name in self.label_names:
            counts = values["confusion"][name]
            rows.append(
                [
                    name,
                    shown(counts["true_positive"] + counts["false_negative"]),
                    shown(values["log_loss"][name], 4),
                    shown(values["auc"][name]),
                    shown_interval(intervals.get(name)),
                    shown(values["average_precision"][name]),
                    shown(values["ece"][name]),
                    shown(values["study"]["auc"][name]),
                ]
            )
        header = [
            "label", "positive slices", "log loss", "AUC", "95 % interval", "average precision",
            "ECE", "AUC per study",
        ]  # fmt: skip
        return table(header, rows) + paragraph(
            f"ECE: expected calibration error over {NUM_CALIBRATION_BINS} equally wide bins. "
            "A dash: undefined on these rows.",
            "quiet",
        )

    def _calls(self) -> str:
        values = self.main.metrics
        rows = []
        for name in self.label_names:
            rates = [
                values[rate][name] for rate in ("accuracy", "precision", "recall", "specificity")
            ]
            rows.append(
                [
                    name,
                    *(shown(count) for count in values["confusion"][name].values()),
                    *(shown(rate) for rate in rates),
                ]
            )
        header = [
            "label", "true positive", "false positive", "false negative", "true negative",
            "accuracy", "precision", "recall", "specificity",
        ]  # fmt: skip
        return table(header, rows)

    def _curves(self) -> str:
        drawing = figures.curves_figure(self.main.labels, self.main.probabilities, self.label_names)
        return figure(drawing, "ROC and precision-recall curves of each label")

    def _reliability(self) -> str:
        drawing = figures.reliability_figure(
            self.main.labels, self.main.probabilities, self.label_names
        )
        return figure(drawing, "share of positives over predicted probability") + paragraph(
            "On the dotted line a probability means what it says. Each point is a tenth of the "
            "slices; the axes differ from label to label.",
            "quiet",
        )

    def _learning(self) -> str:
        baseline = self.main.metrics["prior_weighted_log_loss"]
        others = [f"valid_{weights}_weighted_log_loss" for weights in ("raw", "ema")]
        losses = ("train_loss", "valid_weighted_log_loss", *others)
        areas = [f"valid_auc.{name}" for name in self.label_names]
        drawing = figures.learning_figure(self.learning_records, losses, areas, baseline)
        drawn = figure(drawing, "loss and AUC over the iterations")
        return drawn + (paragraph(self.loss_note, "quiet") if self.loss_note else "")

    def _schedule(self, schedule: PlannedSchedule) -> str:
        drawing = figures.schedule_figure(
            schedule.rate,
            schedule.num_steps,
            schedule.lowest_scale,
            schedule.swa_start,
            self.learning_records,
        )
        return figure(drawing, "learning rate over the iterations")

    def _examples(self) -> str:
        main = self.main
        examples = choose_examples(
            main.labels, main.probabilities, self.label_names, self.num_random_examples, seed=0
        )
        windows = ", ".join(f"{name} {c}/{w}" for name, c, w in READING_WINDOWS)
        return paragraph(
            f"Windows (center/width in HU): {windows}. Red labels are present in truth; the "
            "numbers are predicted probabilities. All but the random ones are extremes.",
            "quiet",
        ) + example_cards(
            examples,
            main.image_ids,
            self.read_image_hu,
            main.labels,
            main.probabilities,
            self.label_names,
        )

    def _skipped(self) -> str:
        rows = [[reason, shown(count)] for reason, count in self.num_skipped.items()]
        return table(["reason", "number"], rows) if rows else paragraph("Nothing.")

    def _facts(self) -> str:
        return table(
            ["", ""], [[name, str(value)] for name, value in self.facts.items()], text=(0, 1)
        )


def _ratio(values: Mapping[str, Any]) -> float | None:
    loss, prior = values["weighted_log_loss"], values["prior_weighted_log_loss"]
    return None if loss is None or not prior else loss / prior
