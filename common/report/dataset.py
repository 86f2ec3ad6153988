"""The page about a prepared dataset: labels, headers, folds, images."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.files import write_text
from common.preparation.fold_making import fold_report
from common.report.evaluation import NOTICE
from common.report.examples import window_strip
from common.report.exploration import figures, headers, images, labels
from common.report.exploration.dataset import ExploredDataset
from common.report.page import figure, image_uri, page, paragraph, table

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class DatasetReport:
    """What the page tells; it reads the pixels of the slices that it shows, and no others.

    Attributes:
        dataset: what it is about.
        slices_per_label: how many slices of each label are shown.
        seed: of the choice of slices.
    """

    dataset: ExploredDataset
    slices_per_label: int = 2
    seed: int = 0

    def write(self, path: Path) -> None:
        """Writes the page to `path`, in one step."""
        write_text(path, self.html())

    def html(self) -> str:
        """Returns the page."""
        frame = self.dataset.frame
        num_stored = int(self.dataset.table.readable.sum())
        source = f" from source {self.dataset.source}" if self.dataset.source else ""
        subtitle = (
            f"{len(frame):,} rows{source}, {num_stored:,} of them slices with pixels, in "
            f"{frame['store_file'].nunique():,} series of {frame['study_id'].nunique():,} studies "
            f"and {frame['patient_id'].nunique():,} patients"
        )
        sections = [
            ("What was read, and what was not", self._statuses()),
            ("Labels", self._labels()),
            ("Labels together", self._together()),
            ("What comes twice", self._duplicates()),
            ("Folds", self._folds()),
            ("Headers", self._headers()),
            ("Geometry", self._geometry()),
            ("Intensities", self._intensities()),
            ("Slices of each label", self._slices()),
            ("A whole series", self._series()),
        ]
        return page(f"Dataset {self.dataset.name}", subtitle, NOTICE, sections)

    def _statuses(self) -> str:
        frame = self.dataset.frame
        parts = [frame_table(headers.status_counts(frame))]
        reasons = headers.reason_counts(frame)
        if len(reasons):
            told = zip(reasons["status"], reasons["reason"], reasons["slices"])
            rows = [[str(status), str(reason), f"{number:,}"] for status, reason, number in told]
            parts.append(paragraph("Reasons, and notes on slices that are used:"))
            parts.append(table(["status", "reason", "number"], rows, text=[0, 1]))
        num_left_out = int((~headers.with_pixels(frame)["keep_for_training"]).sum())
        parts.append(paragraph(f"{num_left_out:,} slices are marked as not for training."))
        return "\n".join(parts)

    def _labels(self) -> str:
        frame, studies, names = self._tables()
        of_slices = labels.label_counts(frame, names)
        of_studies = labels.label_counts(studies, names)
        if not of_slices["known"].any() and not of_studies["known"].any():
            return paragraph("Nothing is labelled.")
        both = labels.counts_of_both(of_slices, of_studies)
        percent = {name: "percent" for name in map(str, both) if name.startswith("share")}
        parts = [figure(figures.label_figure(of_slices, of_studies), "share of each label")]
        parts.append(frame_table(both, percent))
        if not of_slices["known"].any():
            parts.append(paragraph("Only studies are labelled, their slices are not."))
            return "\n".join(parts)
        parts.append(figure(figures.place_figure(labels.share_by_place(frame, names)), "by place"))
        if self.dataset.overall is not None:
            num = labels.contradictions(frame, self.dataset.subtypes, self.dataset.overall)
            told = f"{num:,} slices where {self.dataset.overall} is not the union of the others."
            parts.append(paragraph(told))
        return "\n".join(parts)

    def _together(self) -> str:
        frame, studies, names = self._tables()
        parts = []
        for what, rows in (("slices", frame), ("studies", studies)):
            if not labels.has_labels(rows, names):
                continue
            counts = labels.co_occurrence(rows, names)
            title = f"{what} with both labels, and their share of those with the label on the left"
            drawing = figures.matrix_figure(counts, labels.shares_of_rows(counts), title)
            parts.append(figure(drawing, f"co-occurrence of labels of {what}"))
        if not parts:
            return paragraph("Nothing is labelled.")
        if labels.has_labels(frame, names):
            parts.append(paragraph("Correlation of the labels of slices:"))
            parts.append(frame_table(labels.correlations(frame, names), digits=3))
            numbers = labels.num_labels(frame, self.dataset.subtypes)
            told = [[str(number), f"{count:,}"] for number, count in numbers.items()]
            parts.append(table([self._subtypes_of_a("slice"), "slices"], told))
            mixed = labels.combinations(frame, self.dataset.subtypes)
            told = [[name, f"{count:,}"] for name, count in mixed]
            parts.append(table(["most frequent combinations", "slices"], told))
        return "\n".join(parts)

    def _duplicates(self) -> str:
        return counts_table(labels.duplicates(self.dataset.frame)) + paragraph(
            "Pixels are taken as the same where size, smallest, largest and mean HU, share of "
            "brain and padding are.",
            "quiet",
        )

    def _folds(self) -> str:
        dataset, names = self.dataset, list(self.dataset.label_names)
        if dataset.folds is None or "fold" not in dataset.folds or not len(dataset.folds):
            return paragraph("There are no folds.")
        report, deviation = fold_report(dataset.folds, dataset.frame, names)
        parts = []
        if labels.has_labels(dataset.frame, names):
            parts.append(figure(figures.fold_figure(report, names), "prevalence by fold"))
        parts.append(frame_table(report.rename_axis("fold"), dict.fromkeys(names, "percent")))
        num_shared = int((dataset.folds.groupby("patient_id")["fold"].nunique() > 1).sum())
        parts.append(
            paragraph(
                f"The prevalence of a label in a fold differs from that of all slices by at most "
                f"{100 * deviation:.1f} % of it. {num_shared:,} patients are in more than one fold."
            )
        )
        return "\n".join(parts)

    def _headers(self) -> str:
        frame = self.dataset.frame
        if not len(headers.with_pixels(frame)):
            return paragraph("No slice has pixels.")
        by = headers.groups_of(frame)
        parts = [frame_table(headers.overview(frame, by).T.rename_axis(str(by.name)))]
        for values in (headers.sizes(frame), headers.bit_families(frame), headers.windows(frame)):
            parts.append(frame_table(headers.top_counts(values, by)))
        return "\n".join(parts)

    def _geometry(self) -> str:
        frame = self.dataset.frame
        stored = headers.with_pixels(frame)
        gaps_mm = headers.slice_gaps(frame)["gap_mm"]
        tilts, lengths = headers.tilts_deg(frame), headers.series_lengths(frame)
        drawing = figures.geometry_figure(stored["spacing_row"], gaps_mm, tilts, lengths)
        spacings = stored[["spacing_row", "spacing_column"]]
        differ = (spacings["spacing_row"] - spacings["spacing_column"]).abs() > 1e-6
        found = headers.gap_findings(frame)
        found["series with a tilted gantry"] = int((np.abs(tilts) > headers.TILTED_DEG).sum())
        found["series whose tilt is unknown"] = len(lengths) - len(tilts)
        found["slices whose pixels are not square"] = int(differ.sum())
        found["slices whose matrix is not square"] = int(
            (stored["rows"] != stored["columns"]).sum()
        )
        parts = [figure(drawing, "spacing, gaps, tilt and length"), counts_table(found)]
        for inner, outer in (("series_id", "study_id"), ("study_id", "patient_id")):
            counts = headers.counts_per(frame, inner, outer)
            things = {"series_id": "series", "study_id": "studies", "patient_id": "patients"}
            told = [[f"{number}", f"{count:,}"] for number, count in counts.head(12).items()]
            names = [f"{things[inner]} of one of the {things[outer]}", f"{things[outer]}"]
            parts.append(table(names, told))
        return "\n".join(parts)

    def _intensities(self) -> str:
        stored = headers.with_pixels(self.dataset.frame)
        padded = stored["num_padding"].fillna(0) > 0
        return figure(figures.intensity_figure(stored), "HU") + paragraph(
            f"{int(padded.sum()):,} slices have padding, "
            f"{int(stored['num_padding'].sum()):,} pixels in all."
        )

    def _slices(self) -> str:
        dataset, subtypes = self.dataset, self.dataset.subtypes
        chosen = images.choose_slices(
            dataset.table, dataset.studies, subtypes, self.slices_per_label, self.seed
        )
        if not chosen:
            return paragraph("No slice can be read.")
        windows = ", ".join(f"{name} {c:g}/{w:g}" for name, c, w in images.WINDOWS)
        cards = "".join(self._card(choice) for choice in chosen)
        intro = f"From left to right: {windows} (center/width in HU). Drawn from the seed."
        return paragraph(intro, "quiet") + f'<div class="cards">{cards}</div>'

    def _card(self, choice: images.ChosenSlice) -> str:
        shown = images.read_image(self.dataset.table, choice.row)
        image_id = self.dataset.table.image_id(choice.row)
        picture = '<p class="quiet">its pixels can not be read</p>'
        if shown is not None:
            strip = window_strip(shown, windows=images.WINDOWS)
            picture = _jpeg(strip, f"{choice.label} in four windows")
        told = images.labels_of(self.dataset.table, choice.row, self.dataset.label_names)
        if choice.of_study:
            told = "label of the study"
        return (
            f'<div class="card">{picture}<div><strong>{html.escape(choice.label)}</strong> '
            f"<code>{html.escape(image_id)}</code>"
            f'<div class="quiet">{html.escape(told)}</div></div></div>'
        )

    def _series(self) -> str:
        dataset = self.dataset
        row = images.choose_series(dataset.table, dataset.studies, dataset.subtypes, self.seed)
        if row is None:
            return paragraph("No slice can be read.")
        picture, shown = images.montage(dataset.table, row)
        num_slices = len(dataset.table.group_rows(row))
        part = "all" if len(shown) == num_slices else f"{len(shown)} of the"
        intro = f"Brain window, {part} {num_slices} slices in order, the lowest first."
        first, last = (dataset.table.image_id(r) for r in (shown[0], shown[-1]))
        ends = f"<p>From <code>{html.escape(first)}</code> to <code>{html.escape(last)}</code>.</p>"
        return paragraph(intro, "quiet") + ends + f"<figure>{_jpeg(picture, 'a series')}</figure>"

    def _tables(self) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
        return self.dataset.frame, self.dataset.studies, list(self.dataset.label_names)

    def _subtypes_of_a(self, what: str) -> str:
        return f"labels of one {what}" + (
            f", {self.dataset.overall} left out" if self.dataset.overall else ""
        )


def frame_table(
    frame: pd.DataFrame, styles: Mapping[str, str] | None = None, digits: int = 3
) -> str:
    """Returns a frame as an HTML table, its index in the first column.

    Args:
        frame: the values; None and NaN become dashes.
        styles: `percent` by name of a column.
        digits: of other numbers that are not whole.
    """
    styles = styles or {}
    rows = []
    for index, values in zip(frame.index, frame.itertuples(index=False)):
        cells = [_cell(v, styles.get(str(name), ""), digits) for name, v in zip(frame, values)]
        rows.append([str(index), *cells])
    return table([str(frame.index.name or ""), *map(str, frame.columns)], rows)


def counts_table(counts: Mapping[str, int]) -> str:
    """Returns numbers by what they count."""
    return table(["", "number"], [[name, f"{count:,}"] for name, count in counts.items()])


def _cell(value: Any, style: str, digits: int) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    if style == "percent":
        return f"{100 * value:.2f} %"
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.{digits}f}"


def _jpeg(picture: NDArray[np.uint8], description: str) -> str:
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    alt = html.escape(description, quote=True)
    return f'<img src="{image_uri(data, "jpeg")}" alt="{alt}">'
