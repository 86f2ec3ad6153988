"""The page of one evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from common.files import write_text
from common.report import figures
from common.report.examples import EXAMPLE_WINDOWS, choose_examples, window_strip, windows_text
from common.report.page import figure, picture_uri, render
from common.scoring.metrics import NUM_CALIBRATION_BINS, Floats
from common.statistics.decisions import ScoredStudies


@dataclass(frozen=True)
class PlannedSchedule:
    """The learning rate of a training, as its flags say.

    Attributes:
        rate: learning rate of the last layer by the number of iterations done.
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
        studies: of the rows, with their calls.
    """

    name: str
    metrics: Mapping[str, Any]
    labels: Floats
    probabilities: Floats
    image_ids: Sequence[str]
    studies: ScoredStudies = field(default_factory=ScoredStudies)


@dataclass(frozen=True)
class EvaluationReport:
    """The page of an evaluation; `templates/evaluation.html` lays it out.

    Attributes:
        main: the scored set that figures and examples show.
        others: further sets for the first table.
        folds: the metrics of each fold by its name, where the rows are out-of-fold ones.
        facts: what was evaluated, by name; no paths and no patient data.
        num_skipped: rows left out or filled, by reason.
        flow: from files to scored studies (`common.report.flow`).
        learning_records: lines of metrics.jsonl; empty where there are none.
        loss_note: what training minimised, in a sentence.
        schedule: of the learning rate; None where it is not known.
        sections: HTML of further sections, after the scores of the labels.
        study_sections: HTML of further sections about studies, after those.
        read_image_hu: pixels of a row of `main`, None where they can't be read.
        num_random_examples: slices shown that were drawn at random.
    """

    title: str
    subtitle: str
    label_names: Sequence[str]
    main: ScoredSet
    others: Sequence[ScoredSet] = ()
    folds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    num_skipped: Mapping[str, int] = field(default_factory=dict)
    flow: Markup = field(default_factory=Markup)
    learning_records: Sequence[Mapping[str, Any]] = ()
    loss_note: str = ""
    schedule: PlannedSchedule | None = None
    sections: Markup = field(default_factory=Markup)
    study_sections: Markup = field(default_factory=Markup)
    read_image_hu: Callable[[int], NDArray[np.int16] | None] = lambda row: None
    num_random_examples: int = 6

    def write(self, path: Path) -> None:
        write_text(path, self.html())

    def html(self) -> str:
        return render(
            "evaluation.html",
            title=self.title,
            subtitle=self.subtitle,
            report=self,
            main=self.main,
            num_bins=NUM_CALIBRATION_BINS,
            windows=windows_text(EXAMPLE_WINDOWS),
            examples=self._examples(),
            **self._figures(),
        )

    def _figures(self) -> dict[str, Markup]:
        """Return the figures for which there are numbers, by their names in the template."""
        main, names, found = self.main, self.label_names, {}
        labels, p = main.labels, main.probabilities
        if not main.metrics["num_slices"]:
            labels, p = main.studies.labels, main.studies.probabilities
        if len(labels):
            curves = figures.curves_figure(labels, p, names)
            found["curves"] = figure(curves, "ROC and precision-recall curves of each label")
            drawing = figures.reliability_figure(labels, {"": p}, names)
            found["reliability"] = figure(drawing, "share of positives over predicted probability")
        study = main.metrics["study"]
        if "scores" in study:
            last = names[-1]
            point = (study["operating_points"] or {}).get(last)
            point = None if point is None or point["reason"] else point
            drawing = figures.decision_figure(point, study["decision_curve"][last], last)
            found["decisions"] = figure(drawing, "predictive values, and net benefit of calls")
            shares = {name: study["reliability"][name] for name in names}
            drawing = figures.study_reliability_figure(shares)
            what = "share of positive studies, with intervals"
            found["study_reliability"] = figure(drawing, what)
        if self.learning_records:
            others = [f"valid_{weights}_weighted_log_loss" for weights in ("raw", "ema")]
            drawing = figures.learning_figure(
                self.learning_records,
                ("train_loss", "valid_weighted_log_loss", *others),
                [f"valid_auc.{name}" for name in names],
                main.metrics["prior_weighted_log_loss"],
            )
            found["learning"] = figure(drawing, "loss and AUC over the iterations")
        if self.schedule is not None:
            drawing = figures.schedule_figure(**vars(self.schedule), records=self.learning_records)
            found["schedule"] = figure(drawing, "learning rate over the iterations")
        return found

    def _examples(self) -> list[dict[str, Any]]:
        main, found = self.main, []
        for example in choose_examples(
            main.labels, main.probabilities, self.label_names, self.num_random_examples, seed=0
        ):
            row = example.row
            image_hu = self.read_image_hu(row)
            picture = None if image_hu is None else window_strip(image_hu, EXAMPLE_WINDOWS)
            found.append(
                {
                    "reason": example.reason,
                    "image_id": main.image_ids[row],
                    "picture": picture_uri(picture),
                    "labels": zip(self.label_names, main.labels[row], main.probabilities[row]),
                }
            )
        return found
