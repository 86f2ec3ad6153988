"""The task of the RSNA 2019 challenge: its labels, their order and their weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import InputError
from common.scoring.directions import OF_STUDIES, reported_names

LABELS = (
    "epidural",
    "intraparenchymal",
    "intraventricular",
    "subarachnoid",
    "subdural",
    "any",
)
SUBTYPES = LABELS[:-1]

# The challenge weighs `any` twice and each subtype once, and divides by their sum.
LABEL_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 2.0)
METRIC = "weighted_log_loss"


@dataclass(frozen=True)
class Task:
    """The labels of a network and their weights.

    Attributes:
        label_names: one for each logit.
        label_weights: their weights in the weighted log loss.
    """

    label_names: tuple[str, ...]
    label_weights: tuple[float, ...]


CHALLENGE = Task(LABELS, LABEL_WEIGHTS)
# One label: its weight cancels out, and the weighted log loss is its log loss.
ANY_ONLY = Task(("any",), (1.0,))
TASKS = {len(task.label_names): task for task in (CHALLENGE, ANY_ONLY)}


def validation_metrics(task: Task, has_rates: bool = True, has_studies: bool = False) -> list[str]:
    """Return the names of the metrics that a validation reports.

    Args:
        has_rates: precision, recall, F1 and the means over the labels are among them.
        has_studies: those of studies too.
    """
    if has_studies:
        of_studies = [f"{OF_STUDIES}auc.{label}" for label in task.label_names]
        return [*validation_metrics(task, has_rates), f"{OF_STUDIES}{METRIC}", *of_studies]
    if has_rates:
        return ["loss", METRIC, *reported_names(task.label_names)]
    names = [f"{family}.{label}" for family in ("auc", "log_loss") for label in task.label_names]
    return ["loss", METRIC, *names]


def task_of_labels(label_names: Sequence[str], where: str) -> Task:
    """Return the task with these labels; InputError, naming `where`, if there is none."""
    for task in TASKS.values():
        if tuple(label_names) == task.label_names:
            return task
    known = " or ".join(", ".join(task.label_names) for task in TASKS.values())
    raise InputError(f"{where} has the labels {', '.join(label_names)}, wanted are {known}")
