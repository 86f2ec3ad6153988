"""What an evaluation tells on the console."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.cli import script_command
from common.experiment import experiment_id_of
from rsna_task import LABELS


def summary(values: Mapping[str, Any], report: Path) -> str:
    """Returns a short table of the metrics of an evaluation, and where its page is."""
    is_folded = "folds" in values
    lines = [score_line("out-of-fold" if is_folded else "last weights", values)]
    if "best" in values:
        lines.append(score_line(f"best checkpoint{'s' if is_folded else ''}*", values["best"]))
    lines += [score_line(f"  fold {fold}", part) for fold, part in values.get("folds", {}).items()]
    prior = values["prior_weighted_log_loss"]
    lines.append(f"{'constant prior':<18} weighted log loss {_shown(prior, 4)}")
    lines.append(f"{'label':<18} {'AUC':>6} {'AP':>6} {'ECE':>6}   per study: AUC")
    for name in (label for label in LABELS if values["confusion"][label] is not None):
        cells = [values[key][name] for key in ("auc", "average_precision", "ece")]
        cells.append(values["study"]["auc"][name])
        auc, precision, ece, study = (_shown(cell) for cell in cells)
        lines.append(f"{name:<18} {auc:>6} {precision:>6} {ece:>6} {study:>17}")
    lines.append(f"{values['num_slices']} slices, {values['num_studies']} studies")
    if "best" in values:
        lines.append("* chosen on these rows: its score is too good")
    lines.append(f"report: {report}")
    return "\n".join(lines)


def next_steps(experiment_folder: Path, monitor_command: str | None) -> str:
    """Returns what a user may want to do after an evaluation, a line each."""
    experiment_id = experiment_id_of(experiment_folder)
    output_dir = experiment_folder.parents[1 + experiment_id.count("/")]
    place = [] if output_dir == Path("output") else ["--output_dir", str(output_dir)]
    which = ("--experiment_id", experiment_id, *place)
    predict, train = script_command(*which, script="predict.py"), script_command(script="train.py")
    lines = [f"to watch the runs:  {monitor_command}"] if monitor_command else []
    lines += [
        f"to try next:        {predict} --pr_input <folder of DICOM> --pr_output <folder>",
        "                    "
        f"{train} --net_model rsna-seresnext-50.32.4d   ({train} --help: all flags)",
    ]
    return "\n".join(lines)


def score_line(name: str, values: Mapping[str, Any]) -> str:
    """Returns a line with the weighted log loss, and how it stands to the prior's."""
    loss, prior = values["weighted_log_loss"], values["prior_weighted_log_loss"]
    line = f"{name:<18} weighted log loss {_shown(loss, 4)}"
    if loss is None:
        return f"{line}, per study {_shown(values['study']['weighted_log_loss'], 4)}"
    if not prior:
        return line
    ratio = values.get("interval", {}).get("weighted_log_loss_to_prior")
    spread = f" (95 % interval {ratio[0]:.2f} to {ratio[1]:.2f})" if ratio else ""
    return f"{line}, {loss / prior:.2f} of the prior's{spread}"


def _shown(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
