"""The page about a prepared dataset: labels, headers, folds, images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import write_text
from common.preparation.checks.label_audit import audit_labels
from common.preparation.fold_making import fold_report
from common.report.examples import window_strip, windows_text
from common.report.exploration import figures, headers, images, labels
from common.report.exploration.dataset import ExploredDataset
from common.report.page import figure, frame_table, picture_uri, render
from common.slices.copies import identical_pixels
from common.windows import READING_WINDOWS

REPORT_FILE = "report.html"
MOST_ROWS = 20
"""Rows that the audit of labels names for each kind of oddity."""
SLICES_PER_LABEL, SEED = 2, 0
"""Slices that are shown of each label and oddity, and the seed of their choice."""


@dataclass(frozen=True)
class DatasetReport:
    """The page of a dataset; `templates/dataset.html` lays it out.

    Only the pixels of the slices that are shown are read.
    """

    dataset: ExploredDataset

    def write(self, path: Path) -> None:
        write_text(path, self.html())

    def html(self) -> str:
        frame = self.dataset.frame
        num_stored = int(self.dataset.table.readable.sum())
        source = f" from source {self.dataset.source}" if self.dataset.source else ""
        subtitle = (
            f"{len(frame):,} rows{source}, {num_stored:,} of them slices with pixels, in "
            f"{frame['store_file'].nunique():,} series of {frame['study_id'].nunique():,} studies "
            f"and {frame['patient_id'].nunique():,} patients"
        )
        reasons = headers.reason_counts(frame).rename(columns={"slices": "number"})
        return render(
            "dataset.html",
            title=f"Dataset {self.dataset.name}",
            subtitle=subtitle,
            statuses=frame_table(headers.status_counts(frame)),
            reasons=len(reasons) and frame_table(reasons, index=False, classes="words"),
            num_left_out=int((~headers.with_pixels(frame)["keep_for_training"]).sum()),
            overall=self.dataset.overall,
            duplicates=_counts_table(labels.duplicates(frame)),
            headers=self._headers(),
            windows=windows_text(READING_WINDOWS),
            audit=self._audit(),
            slices=self._slices(),
            series=self._series(),
            **self._labels(),
            **self._together(),
            **self._folds(),
            **self._geometry(),
            **self._intensities(),
        )

    def _labels(self) -> dict[str, Any]:
        frame, names = self.dataset.frame, self.dataset.label_names
        of_slices = labels.label_counts(frame, names)
        of_studies = labels.label_counts(self.dataset.studies, names)
        if not of_slices["known"].any() and not of_studies["known"].any():
            return {}
        both = labels.counts_of_both(of_slices, of_studies)
        shares = [name for name in map(str, both) if name.startswith("share")]
        drawing = figures.label_figure(of_slices, of_studies)
        found: dict[str, Any] = {
            "label_figure": figure(drawing, "share of each label"),
            "label_counts": frame_table(both, shares),
        }
        if of_slices["known"].any():
            drawing = figures.place_figure(labels.share_by_place(frame, names))
            found["place_figure"] = figure(drawing, "by place")
            if (overall := self.dataset.overall) is not None:
                num = labels.contradictions(frame, self.dataset.subtypes, overall)
                found["num_contradictions"] = num
        return found

    def _together(self) -> dict[str, Any]:
        frame, names = self.dataset.frame, self.dataset.label_names
        matrices = []
        for what, rows in (("slices", frame), ("studies", self.dataset.studies)):
            if labels.has_labels(rows, names):
                counts = labels.co_occurrence(rows, names)
                title = f"{what} with both labels, and their share of those with the label on the"
                drawing = figures.matrix_figure(
                    counts, labels.shares_of_rows(counts), f"{title} left"
                )
                matrices.append(figure(drawing, f"co-occurrence of labels of {what}"))
        if not labels.has_labels(frame, names):
            return {"matrices": matrices}
        overall, subtypes = self.dataset.overall, self.dataset.subtypes
        title = f"labels of one slice{f', {overall} left out' if overall else ''}"
        numbers = labels.num_labels(frame, subtypes).rename("slices").rename_axis(title)
        mixed = dict(labels.combinations(frame, subtypes))
        return {
            "matrices": matrices,
            "correlations": frame_table(labels.correlations(frame, names).rename_axis(None)),
            "num_labels": frame_table(numbers.to_frame()),
            "combinations": _counts_table(mixed, "most frequent combinations", "slices"),
        }

    def _folds(self) -> dict[str, Any]:
        frame, folds, names = self.dataset.frame, self.dataset.folds, self.dataset.label_names
        if folds is None or "fold" not in folds or not len(folds):
            return {}
        report, deviation = fold_report(folds, frame, names)
        drawn = labels.has_labels(frame, names)
        return {
            "fold_figure": drawn and figure(figures.fold_figure(report, names), "prevalence"),
            "folds": frame_table(report.rename_axis("fold"), names),
            "deviation": deviation,
            "num_shared": int((folds.groupby("patient_id")["fold"].nunique() > 1).sum()),
        }

    def _headers(self) -> list[str]:
        frame = self.dataset.frame
        if not len(headers.with_pixels(frame)):
            return []
        by = headers.groups_of(frame)
        parts = [headers.overview(frame, by).T.rename_axis(str(by.name))]
        for values in (headers.sizes(frame), headers.bit_families(frame), headers.windows(frame)):
            parts.append(headers.top_counts(values, by))
        return [frame_table(part) for part in parts]

    def _geometry(self) -> dict[str, Any]:
        frame = self.dataset.frame
        stored = headers.with_pixels(frame)
        gaps_mm = headers.slice_gaps(frame)["gap_mm"]
        tilts, lengths = headers.tilts_deg(frame), headers.series_lengths(frame)
        drawing = figures.geometry_figure(stored["spacing_row"], gaps_mm, tilts, lengths)
        differ = (stored["spacing_row"] - stored["spacing_column"]).abs() > 1e-6
        counts = headers.gap_findings(frame) | {
            "series with a tilted gantry": int((np.abs(tilts) > headers.TILTED_DEG).sum()),
            "series whose tilt is unknown": len(lengths) - len(tilts),
            "slices whose pixels are not square": int(differ.sum()),
            "slices whose matrix is not square": int((stored["rows"] != stored["columns"]).sum()),
        }
        per_owner = []
        for inner, outer, ids in (
            ("series", "studies", ("series_id", "study_id")),
            ("studies", "patients", ("study_id", "patient_id")),
        ):
            numbers = headers.counts_per(frame, *ids).head(12)
            numbers = numbers.rename(outer).rename_axis(f"{inner} of one of the {outer}")
            per_owner.append(frame_table(numbers.to_frame()))
        return {
            "geometry_figure": figure(drawing, "spacing, gaps, tilt and length"),
            "geometry": _counts_table(counts),
            "per_owner": per_owner,
        }

    def _intensities(self) -> dict[str, Any]:
        stored = headers.with_pixels(self.dataset.frame)
        padding = stored["num_padding"].fillna(0)
        return {
            "intensity_figure": figure(figures.intensity_figure(stored), "HU"),
            "num_padded": int((padding > 0).sum()),
            "num_padding": int(padding.sum()),
        }

    def _audit(self) -> list[dict[str, Any]]:
        """Return what is odd about the labels, with pictures of the worst slices."""
        dataset, table, found = self.dataset, self.dataset.table, []
        if dataset.overall is None:
            return []
        copies = identical_pixels(dataset.frame, table.store)
        for odd in audit_labels(dataset.frame, dataset.subtypes, dataset.overall, copies):
            cards = [
                {
                    "row": row,
                    "labels": images.labels_of(table, row, dataset.label_names),
                    "picture": self._strip(row),
                }
                for row in map(int, odd.rows[:SLICES_PER_LABEL])
            ]
            rows = ", ".join(map(str, odd.rows[:MOST_ROWS]))
            rows += ", ..." if len(odd.rows) > MOST_ROWS else ""
            number = len(odd.rows)
            found.append({"what": odd.what, "number": number, "rows": rows, "cards": cards})
        return found

    def _strip(self, row: int) -> str | None:
        """Return the picture of a slice in the reading windows; None where it can't be read."""
        image_hu = images.read_image(self.dataset.table, row)
        return picture_uri(None if image_hu is None else window_strip(image_hu))

    def _slices(self) -> list[dict[str, Any]]:
        dataset, table, found = self.dataset, self.dataset.table, []
        for choice in images.choose_slices(
            table, dataset.studies, dataset.subtypes, SLICES_PER_LABEL, SEED
        ):
            of_slice = images.labels_of(table, choice.row, dataset.label_names)
            found.append(
                {
                    "label": choice.label,
                    "image_id": table.image_id(choice.row),
                    "labels": "label of the study" if choice.of_study else of_slice,
                    "picture": self._strip(choice.row),
                }
            )
        return found

    def _series(self) -> dict[str, Any] | None:
        dataset, table = self.dataset, self.dataset.table
        row = images.choose_series(table, dataset.studies, dataset.subtypes, SEED)
        if row is None:
            return None
        picture, shown = images.montage(table, row)
        num_slices = len(table.group_rows(row))
        return {
            "part": "all" if len(shown) == num_slices else f"{len(shown)} of the",
            "num_slices": num_slices,
            "first": table.image_id(shown[0]),
            "last": table.image_id(shown[-1]),
            "picture": picture_uri(picture),
        }


def _counts_table(counts: dict[str, int], title: str = "", name: str = "number") -> str:
    frame = pd.DataFrame({name: counts.values()}, index=pd.Index(counts, name=title))
    return frame_table(frame)
