"""The flow of an evaluation: which files, volumes and studies of a dataset were scored."""

from typing import Any

import numpy as np
from markupsafe import Markup

from common.experiment import ScoredFolder
from common.files import write_text
from common.report import ScoredSet
from common.report.flow import ScoredIds, flow_svg, study_flow
from common.report.page import svg_figure
from common.scoring.metrics import majority
from common.slices.study_labels import (
    LABELS_OF_SLICES,
    LABELS_OF_STUDY,
    known_labels,
    read_study_labels,
)
from common.slices.table import SliceTable
from rsna_task import Task


def write_flow(
    place: ScoredFolder, main: ScoredSet, table: SliceTable, task: Task, why_not: str
) -> tuple[list[dict[str, Any]], Markup]:
    """Write the drawing of the flow; return its stages, which metrics.json has, and the figure.

    Args:
        why_not: why labelled studies are not scored.
    """
    names = task.label_names
    labels = known_labels(table, np.arange(len(table)), names)
    is_labelled = np.asarray(~np.isnan(labels).all(axis=1))
    is_scored = ~np.isnan(main.studies.labels).all(axis=1)
    study_ids = np.asarray(main.studies.study_ids, dtype=object)
    # Without those of which too few slices have a label.
    labelled = set(table.frame["study_id"][is_labelled].dropna()) - set(study_ids[~is_scored])
    of_studies = read_study_labels(table, names, (LABELS_OF_SLICES, LABELS_OF_STUDY))
    if of_studies is not None:
        has_label = np.asarray(~np.isnan(majority(of_studies)).all(axis=1))
        labelled |= set(of_studies.index[has_label])
    ids = study_ids[is_scored].tolist()
    scored = ScoredIds(ids, main.studies.labels[is_scored], labelled, why_not)
    stages = study_flow(table, scored, names)
    drawing = str(flow_svg(stages))
    write_text(place.flow_file, drawing)
    return stages, svg_figure(drawing.encode(), "from files to scored studies")
