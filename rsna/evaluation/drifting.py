"""scripts/drift.py: new studies against the reference that a predictor keeps, without labels."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.errors import InputError
from common.experiment import JSON_FILE, Experiment, PredictorHome
from common.files import make_folder, write_json, write_text
from common.report.drift import drift_html
from common.scoring.drift import MOST_PATIENTS, Found, Reference, compare_with
from common.slices.folds import owners
from common.slices.pixel_steps import require_same_steps
from common.slices.summaries import study_summaries
from common.slices.table import SLICES_FILE, SliceTable
from common.tables import read_csv, read_parquet
from common.words import count
from config import Config
from rsna.evaluation.folders import STUDIES_FILE
from rsna.evaluation.model_card import write_card
from rsna.evaluation.scoring import predictor_info
from rsna.evaluation.stored import Stored

logger = logging.getLogger(__name__)

REFERENCE = "reference"
"""Key in predictor.json."""
FOLDER = "drift"
TABLE_FILE, REPORT_FILE = "drift.csv", "report.html"
PREDICTIONS_FILE = "predictions.parquet"
MOST_PRINTED = 10


def keep_reference(experiment: Experiment, table: SliceTable) -> None:
    """Write what the patients of an experiment's own predictions are like into its predictor.json.

    A predictor of several folds says other things of new studies than each fold did of these: its
    reference has no probabilities.
    """
    info = predictor_info(experiment)
    stored = Stored(experiment.id, experiment.out_of_fold_file, experiment, False, info)
    frame = stored.read(table)
    rows = study_summaries(table, frame["study_id"].dropna().unique(), MOST_PATIENTS)
    if rows.empty:
        return
    if info["kind"] != "folds":
        rows = _with_probabilities(rows, stored.studies(table, frame))
    source = f"patients of {table.folder.name} that were not trained on"
    _write(experiment, info, Reference.of(source, int(owners(frame).nunique()), rows))


def find_drift(config: Config) -> Iterator[str]:
    """Compare --dr_input with the reference, or make it the reference; yield lines to print."""
    flags, home = config.drift, config.predictor_home(recorded=False)
    info = predictor_info(home)
    folder, predictions = _input_folders(flags.dr_input, flags.dr_predictions)
    if not flags.dr_fit and not info.get(REFERENCE):
        raise InputError(
            f"{home.title} keeps no reference: make one of studies that it works well on, by "
            f"--dr_input <predict.py output or dataset> --dr_fit 1"
        )
    table = SliceTable.load(folder)
    require_same_steps(info["training"], folder)
    # Only a reference is thinned: the more new patients, the surer.
    rows = study_summaries(table, most=MOST_PATIENTS if flags.dr_fit else None)
    if rows.empty:
        raise InputError(f"{folder}: no study has CT of a head that can be read")
    of_studies = _probabilities(home, info, table, predictions)
    if of_studies is not None:
        rows = _with_probabilities(rows, of_studies)
    if flags.dr_fit:
        readable = table.frame[table.readable]
        reference = Reference.of("given studies", int(owners(readable).nunique()), rows)
        _write(home, info, reference)
        write_card(home)
        yield f"reference: {count(len(rows), 'patient')} in {home.predictor / JSON_FILE}"
        return
    reference = Reference.from_json(info[REFERENCE])
    found = compare_with(
        reference,
        rows,
        rate=flags.dr_false_alarms,
        num_permutations=flags.dr_permutations,
        seed=config.general.seed,
    )
    name = folder.parent.name if folder.name == "dataset" else folder.name
    place = Path(config.general.output_dir) / FOLDER / f"{home.id.replace('/', '_')}_{name}"
    make_folder(place)
    write_text(place / TABLE_FILE, found.columns.to_csv(index=False))
    verdict = list(_verdict(found, reference, flags.dr_false_alarms))
    write_text(place / REPORT_FILE, drift_html(f"Drift of {home.title.lower()}", verdict, found))
    yield from verdict
    yield from _lines(found)
    yield f"report: {place / REPORT_FILE}"


def _input_folders(given: str | None, predictions: str | None) -> tuple[Path, Path | None]:
    """Return the folder of the dataset, and that of the predictions where there is one."""
    if given is None:
        raise InputError("--dr_input is missing: say which output of predict.py, or which dataset")
    source, of_them = Path(given), None if predictions is None else Path(predictions)
    if of_them is not None and not (of_them / STUDIES_FILE).is_file():
        raise InputError(f"--dr_predictions {predictions}: no {STUDIES_FILE} of predict.py there")
    if (source / SLICES_FILE).is_file():
        return source, of_them
    if (source / "dataset" / SLICES_FILE).is_file() and (source / STUDIES_FILE).is_file():
        return source / "dataset", of_them or source
    if (source / STUDIES_FILE).is_file():
        raise InputError(
            f"--dr_input {given}: was predicted from a prepared dataset: give that as --dr_input, "
            f"and this folder as --dr_predictions"
        )
    raise InputError(f"--dr_input {given}: neither an output of predict.py nor a prepared dataset")


def _probabilities(
    home: PredictorHome, info: Mapping[str, Any], table: SliceTable, predictions: Path | None
) -> pd.DataFrame | None:
    """Return the probabilities of studies that the predictor gave, by study id; None without any.

    Raises:
        InputError: the predictions are of another predictor.
    """
    names = list(info["label_names"])
    if predictions is not None:
        frame = read_csv(predictions / STUDIES_FILE, dtype={"study_id": "str"})
        path = predictions / PREDICTIONS_FILE
        made_by = read_parquet(path, "predict again", columns=["experiment_id"])["experiment_id"]
        own = str(info["training"].get("experiment_id", ""))
        if not made_by.eq(own).all() or not set(names) <= set(frame):
            raise InputError(f"{predictions}: are predictions of another one than {home.title}")
        return frame.set_index("study_id")[names]
    path = home.evaluation(table.folder.name).predictions_file
    if path.is_file():
        stored = Stored(home.id, path, home, True, info)
        return stored.studies(table, stored.read(table))
    logger.warning(
        "probabilities are not compared: there are none: predict the dataset with predict.py, and "
        "give its output as --dr_predictions"
    )
    return None


def _with_probabilities(rows: pd.DataFrame, of_studies: pd.DataFrame) -> pd.DataFrame:
    own = of_studies.reindex(rows.index).add_prefix("probability of ")
    return pd.concat([rows, own.astype(np.float64)], axis=1)


def _write(home: PredictorHome, info: Mapping[str, Any], reference: Reference) -> None:
    write_json(home.predictor / JSON_FILE, {**info, REFERENCE: reference.to_json()})


def _verdict(found: Found, reference: Reference, rate: float) -> Iterator[str]:
    """Yield what was compared, and whether there is an alarm, in words."""
    sizes = len(found.new), len(found.reference)
    yield (
        f"{count(sizes[0], 'new patient')} against {sizes[1]} of the reference "
        f"({reference.source}) in {count(found.columns['p_value'].notna().sum(), 'column')}"
    )
    meaning = f"{100 * rate:g} of 100 such comparisons of like studies alarm"
    if found.p_value <= rate:
        num = int(found.columns["alarm"].sum())
        what = f"these studies differ in {count(num, 'column')}, p {found.p_value:.4f}"
        yield f"ALARM: {what}; {meaning}"
        yield "scores measured before may not hold for them: look at the columns, and at labels"
    else:
        yield f"no alarm: p {found.p_value:.4f}; {meaning}"
        yield "that is no proof that scores hold: small differences need more studies to be found"
    if not any(name.startswith("probability") for name in found.columns["column"]):
        yield "probabilities are not among the columns"


def _lines(found: Found) -> Iterator[str]:
    shown = found.columns.head(max(MOST_PRINTED, int(found.columns["alarm"].sum())))
    width = max(map(len, shown["column"]))
    yield f"{'column':<{width}} {'reference':>10} {'new':>10} {'p':>8}"
    for row in shown.to_dict("records"):
        old, new = (
            f"{100 * row[side]:.0f} %" if row["is_share"] else f"{row[side]:.4g}"
            for side in ("reference", "new")
        )
        p = "-" if np.isnan(row["p_value"]) else f"{row['p_value']:.4f}"
        end = "  alarm" if row["alarm"] else ""
        yield f"{row['column']:<{width}} {old:>10} {new:>10} {p:>8}{end}"
    is_compared = found.columns["p_value"].iloc[len(shown) :].notna()
    if len(is_compared):
        rest = f"{count(int(is_compared.sum()), 'further column')} without an alarm"
        if num := int((~is_compared).sum()):
            rest += f", {num} not compared (unknown on one side, or the same everywhere)"
        yield f"{rest}, in {TABLE_FILE}"
