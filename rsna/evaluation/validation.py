"""scripts/validate.py: a predictor on several datasets, by one protocol, in one table."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import InputError
from common.experiment import Experiment, PredictorHome
from common.files import write_text
from common.report.page import frame_table, render
from common.requirements import program_version
from common.slices.leakage import TRAINED_ON
from common.slices.pixel_steps import require_same_steps
from common.slices.table import SliceTable
from config import OF_THE_MACHINE, Config, recorded_config
from flags.evaluation import EvaluationConfig
from flags.prediction import ViewsConfig
from rsna.evaluation.deciding import Deciding
from rsna.evaluation.evaluation import evaluate_on_dataset
from rsna.evaluation.labelled import find_labelled
from rsna.evaluation.model_card import file_hashes
from rsna.evaluation.prediction import predict_options, write_csv
from rsna.evaluation.protocol import (
    differences,
    digests,
    hash_of,
    read_protocol,
    write_protocol,
)
from rsna.evaluation.scoring import predictor_info, task_of
from rsna.evaluation.unseen import require_unseen_rows, require_unseen_source
from rsna_task import LABELS

logger = logging.getLogger(__name__)

_WHERE = {"data_input_folder", "device"}
_HELD_OUT = "ev_held_out"
# Ids of patients stay out of the file: of these their number and the hashes of their slices.
_KEPT = (set(EvaluationConfig.__dataclass_fields__) - {_HELD_OUT}) | {"ev_datasets"}
_KEPT |= set(ViewsConfig.__dataclass_fields__)
_OF_POINT = {
    "threshold": "threshold",
    "chosen_on": "chosen_on",
    "no_calls": "reason",
    "num_partial": "partial.num_studies",
}
_COUNTS = ("num_found", "num_studies")
_ENDS = ("low", "high", *_COUNTS)
PROTOCOL_FILE, TABLE_FILE, PAGE_FILE = "protocol.yaml", "validation.csv", "validation.html"


def validate(given: Config) -> Iterator[str]:
    """Score a predictor on every dataset of --ev_datasets, and yield the lines to print.

    With --ev_protocol and no such file, the protocol is written and nothing is scored.

    Raises:
        InputError: a flag is missing, a dataset can't be scored, or what would be done is not what
            the protocol says.
    """
    home = given.predictor_home()
    named = given.validation.ev_protocol
    path = None if named is None else Path(named)
    frozen = None if path is None or not path.is_file() else read_protocol(path)
    chosen = {} if frozen is None else dict(frozen["flags"])
    asked = given.given & (_WHERE | _KEPT | {_HELD_OUT}) | OF_THE_MACHINE
    chosen |= {name: given.flags()[name] for name in asked}
    recorded = recorded_config(home.folder) if isinstance(home, Experiment) else given
    config = recorded.with_flags(**chosen, output_dir=given.general.output_dir)
    protocol = make_protocol(config, home)
    digest = hash_of(protocol)
    if frozen is not None and (found := differences(protocol, frozen)):
        raise InputError(
            f"--ev_protocol {path}: this run is another one ({'; '.join(found)}): leave out what "
            f"differs or restore it, or name a new file to freeze another protocol"
        )
    if path is not None and frozen is None:
        write_protocol(path, protocol)
        yield f"protocol {digest}: {path}"
        yield "nothing was scored: the same command scores by it"
        return
    options, how, records = predict_options(config), Deciding.from_flags(config.evaluation), []
    for name in config.validation.names:
        table = SliceTable.load(config.named_dataset_folder(name))
        held_out = config.evaluation.ids
        evaluation = evaluate_on_dataset(home, table, name, options, held_out, digest, how)
        records.append({"dataset": name, **row_of(evaluation.metrics)})
    place = home.evaluations
    write_protocol(place / PROTOCOL_FILE, protocol)
    frame = pd.DataFrame(records)
    write_csv(place / TABLE_FILE, frame.assign(protocol=digest))
    shown = pd.DataFrame([_merged(record) for record in records]).set_index("dataset").T
    shown = shown[(shown != "-").any(axis=1)]  # labels without calls on any dataset have no line
    page = render(
        "validation.html",
        title=f"{home.title} on {len(frame)} datasets",
        subtitle=f"By protocol {digest}",
        table=frame_table(shown),
        protocol=json.dumps(protocol, indent=2),
    )
    write_text(place / PAGE_FILE, page)
    yield shown.to_string()
    yield f"protocol {digest}"
    yield f"page: {place / PAGE_FILE}"


def make_protocol(config: Config, home: PredictorHome) -> dict[str, Any]:
    """Return what would be scored and how; InputError where a dataset can't be scored."""
    if not config.validation.names:
        raise InputError("--ev_datasets is missing: say which datasets, such as a,b,c")
    info = predictor_info(home)
    datasets: dict[str, Any] = {}
    for name in config.validation.names:
        if name == info["training"].get("dataset") and TRAINED_ON not in info["training"]:
            raise InputError(
                f"--ev_datasets {name}: the experiment was trained on it: evaluate.py scores its "
                f"own rows; name other data"
            )
        table = SliceTable.load(config.named_dataset_folder(name))
        require_same_steps(info["training"], table.folder)
        require_unseen_source(home, table, name, config.evaluation.ids)
        labelled = find_labelled(table, name, task_of(info).label_names, config.evaluation.ids)
        require_unseen_rows(home, table, labelled.rows, name)
        datasets[name] = digests(table, labelled)
    held_out = config.evaluation.ids
    return {
        "program": program_version(),
        "flags": {name: config.flags()[name] for name in sorted(_KEPT)},
        "seed": config.general.seed,
        "num_held_out_ids": None if held_out is None else len(held_out),
        "inclusion": "all slices and studies with a label, of volumes that can be read",
        "predictor": hash_of(file_hashes(home.predictor)),
        "label_names": list(info["label_names"]),
        "threshold": info["threshold"],
        "endpoints": list(row_of(None)),
        "datasets": datasets,
    }


def row_of(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the columns of the table by name, of metrics.json; of None all are None."""

    def get(key: str) -> Any:
        value: Any = metrics
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def ends(name: str, key: str) -> dict[str, Any]:
        low, high = get(key) or (None, None)
        return {f"{name}_low": low, f"{name}_high": high}

    def at_point(label: str) -> dict[str, Any]:
        point = f"study.operating_points.{label}"
        found = {name: get(f"{point}.{key}") for name, key in _OF_POINT.items()}
        for rate in ("sensitivity", "specificity"):
            found |= {rate: get(f"{point}.{rate}.value"), **ends(rate, f"{point}.{rate}.interval")}
            found |= {f"{rate}_{num}": get(f"{point}.{rate}.{num}") for num in _COUNTS}
        return {f"{label}_{name}": value for name, value in found.items()}

    num_studies, num_positive = get("num_studies"), get("study.num_positive.any")
    loss, prior = get("weighted_log_loss"), get("scored_prior_weighted_log_loss")
    return {
        "num_studies": num_studies,
        "num_slices": get("num_slices"),
        "num_positive_studies": num_positive,
        "prevalence": num_positive / num_studies if num_studies else None,
        "weighted_log_loss": loss,
        **ends("weighted_log_loss", "interval.weighted_log_loss"),
        "of_scored_prior": loss / prior if loss is not None and prior else None,
        **ends("of_scored_prior", "interval.weighted_log_loss_to_scored_prior"),
        "study_weighted_log_loss": get("study.weighted_log_loss"),
        **ends("study_weighted_log_loss", "study.interval.weighted_log_loss"),
        "study_auc_any": get("study.auc.any"),
        **ends("study_auc_any", "study.interval.auc.any"),
        **{name: value for label in LABELS[::-1] for name, value in at_point(label).items()},
    }


def _merged(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the table as people read it: interval and counts behind their value."""

    def text(value: Any) -> str:
        return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    found = {}
    for name, value in row.items():
        low, high, *counts = (row.get(f"{name}_{end}") for end in _ENDS)
        inside = "" if low is None else f" ({text(low)} to {text(high)})"
        of = ", {} of {}".format(*counts) if counts[0] is not None else ""
        found[name] = text(value) + inside + of
    parts = {f"{name}_{end}" for name in row for end in _ENDS}
    return {name: cell for name, cell in found.items() if name not in parts}
