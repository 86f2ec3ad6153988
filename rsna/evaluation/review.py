"""scripts/review.py: pages of the studies worth a look, with boxes to tick."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.dicom.header import hash_of
from common.errors import InputError
from common.files import make_folder, write_text
from common.report.page import render
from common.report.study_page import Ticks, stored_slices, stored_study_html
from common.scoring.doubts import label_doubts, neighbour_doubts
from common.scoring.metrics import Floats, majority, row_log_losses
from common.slices.study_labels import LABELS_OF_STUDY, known_labels, read_study_labels
from common.slices.table import SLICES_FILE, SliceTable
from common.tables import read_csv
from common.words import count
from config import Config
from rsna.evaluation.drifting import PREDICTIONS_FILE
from rsna.evaluation.folders import STUDIES_FILE
from rsna.evaluation.scoring import used_of
from rsna.evaluation.stored import Stored, find_stored
from rsna.evaluation.study_pages import INDEX_FILE
from rsna.evaluation.ticks import keep_pages, write_labels
from rsna_task import LABELS

FOLDER = "reviews"
LABEL, NEIGHBOURS, UNCERTAIN = "likely label error", "unlike its neighbours", "uncertain"
KINDS = (LABEL, NEIGHBOURS, UNCERTAIN)
"""Why a study is worth a look, the most useful first."""
LEAST = 0.1
"""Smaller steps along a series, and probabilities nearer to 0 or 1, are no reason."""
MOST_REASONS = 3
"""Slices of a study that are named for each kind."""


@dataclass(frozen=True)
class Reviewed:
    """Predictions to review.

    Attributes:
        name: of the folder of pages.
        table: the dataset.
        predictions: probabilities of slices by image id, a column for each label.
        studies: the same by study id.
        doubts: why these predictions may know the labels already, in words.
    """

    name: str
    table: SliceTable
    predictions: pd.DataFrame
    studies: pd.DataFrame
    doubts: Sequence[str]

    @property
    def label_names(self) -> list[str]:
        """The k labels; the last one is for any of the others."""
        return [str(name) for name in self.predictions]

    @property
    def given_labels(self) -> pd.DataFrame:
        """The labels that studies were given as a whole, by majority; NaN where unknown."""
        given = read_study_labels(self.table, self.label_names, (LABELS_OF_STUDY,))
        given = self.studies.iloc[:0] if given is None else given
        hard = pd.DataFrame(majority(given), given.index, self.label_names)
        return hard.reindex(self.studies.index)


def review(config: Config) -> Iterator[str]:
    """Write the pages, or the label files of --rv_ticks, and yield the lines to print."""
    reviewed = open_reviewed(config)
    folder = Path(config.general.output_dir) / FOLDER / reviewed.name
    if config.review.rv_ticks is not None:
        yield from write_labels(reviewed.table, folder, config.review.rv_ticks)
        return
    reasons = find_reasons(reviewed, config.review.rv_num)
    make_folder(folder)
    num_pages = write_pages(reviewed, reasons, folder)
    for kind, of_kind in reasons.groupby("kind", sort=False):
        yield f"{kind}: {count(of_kind['study_id'].nunique(), 'study')}"
    if reasons["kind"].eq(LABEL).any():
        yield from (f"other label errors may be missed: {doubt}" for doubt in reviewed.doubts)
    num_hidden = reasons["study_id"].nunique() - num_pages
    hidden = f", {num_hidden} left out: no pixels at hand" if num_hidden else ""
    yield f"{count(num_pages, 'page')}{hidden}: {folder / INDEX_FILE}"


def open_reviewed(config: Config) -> Reviewed:
    """Return the predictions that the flags name.

    Raises:
        InputError: none or several are named, or there are none.
    """
    flags = {
        "--experiment_id": config.general.experiment_id,
        "--pr_predictor": config.predictor.pr_predictor,
        "--rv_predictions": config.review.rv_predictions,
    }
    given = [(flag, value) for flag, value in flags.items() if value is not None]
    if len(given) != 1:
        raise InputError(
            "give one of --experiment_id 0001, --pr_predictor <folder>, with the predictions that "
            "they are scored on, and --rv_predictions <output of predict.py>"
        )
    flag, name = given[0]
    if flag == "--rv_predictions":
        folder, stored, studies = _of_prediction(config, Path(name))
        title, table = stored.name, SliceTable.load(folder)
        frame = stored.read(table)
    else:
        folder, [stored] = find_stored(config, [name], flag)
        title, table = f"{stored.name.replace('/', '_')}_{folder.name}", SliceTable.load(folder)
        frame = stored.read(table)
        studies = stored.studies(table, frame)
    rows = table.rows_of(frame["image_id"])
    used = np.flatnonzero(table.readable[rows])
    used = used[used_of(table, rows[used])]
    predictions = frame.iloc[used].set_index("image_id")[list(stored.task.label_names)]
    shown = studies.index.isin(frame["study_id"].iloc[used])
    return Reviewed(title, table, predictions, studies[shown], stored.doubts(table, rows))


def _of_prediction(config: Config, folder: Path) -> tuple[Path, Stored, pd.DataFrame]:
    """Return the dataset folder of an output of predict.py, its predictions and its studies."""
    path, flag = folder / STUDIES_FILE, f"--rv_predictions {folder}"
    if not path.is_file() or not (folder / PREDICTIONS_FILE).is_file():
        raise InputError(f"{flag}: no output of predict.py (no {STUDIES_FILE}, {PREDICTIONS_FILE})")
    dataset = config.dataset_folder if "data_dataset" in config.given else folder / "dataset"
    if not (dataset / SLICES_FILE).is_file():
        raise InputError(
            f"{flag}: was predicted from a prepared dataset: say which one by --data_dataset"
        )
    studies = read_csv(path, dtype={"study_id": "str"})
    names = [name for name in LABELS if name in studies]
    stored = Stored(folder.resolve().name, folder / PREDICTIONS_FILE, info={"label_names": names})
    return dataset, stored, studies.set_index("study_id")[names].dropna()


def find_reasons(reviewed: Reviewed, num: int) -> pd.DataFrame:
    """Return why studies are worth a look: for each kind the `num` most doubtful studies.

    Returns:
        kind (of `KINDS`), study_id, image_id (null where it is of the study), doubt, text; sorted
        by kind, then by doubt.
    """
    table, names = reviewed.table, reviewed.label_names
    rows = table.anatomical_order(table.rows_of(reviewed.predictions.index.to_numpy()))
    frame = table.frame.iloc[rows].reset_index(drop=True)
    p = reviewed.predictions.loc[frame["image_id"]].to_numpy(dtype=np.float64)
    whole = reviewed.studies.to_numpy(dtype=np.float64)
    beside = neighbour_doubts(p, pd.factorize(frame["store_file"])[0])
    is_open = (whole > LEAST) & (whole < 1 - LEAST)
    y, given = known_labels(table, rows, names), reviewed.given_labels.to_numpy()
    slices = frame[["study_id", "image_id"]]
    studies = pd.DataFrame({"study_id": reviewed.studies.index, "image_id": None})

    def say(i: int, k: int, probabilities: Floats, labels: Floats | None = None) -> str:
        label = "" if labels is None else f", labelled {'yes' if labels[i, k] else 'no'}"
        return f"{names[k]} {probabilities[i, k]:.3f}{label}"

    def say_beside(i: int, k: int) -> str:
        return f"{say(i, k, p)}, beside it {p[i - 1, k]:.3f} and {p[i + 1, k]:.3f}"

    found = []
    for kind, ids, doubts, text in (
        (LABEL, slices, label_doubts(y, p), lambda i, k: say(i, k, p, y)),
        (LABEL, studies, label_doubts(given, whole), lambda i, k: say(i, k, whole, given)),
        (NEIGHBOURS, slices, np.where(beside > LEAST, beside, 0), say_beside),
        (UNCERTAIN, studies, row_log_losses(whole, whole) * is_open, lambda i, k: say(i, k, whole)),
    ):
        worst = doubts.max(axis=1)
        places = np.argsort(-worst, kind="stable")
        places = places[worst[places] > 0]
        study_ids = ids["study_id"].iloc[places]
        is_first = study_ids.groupby(study_ids).cumcount() < MOST_REASONS
        places = places[is_first & study_ids.isin(study_ids.unique()[:num])]
        texts = [text(int(i), int(doubts[i].argmax())) for i in places]
        found.append(ids.iloc[places].assign(kind=kind, doubt=worst[places], text=texts))
    reasons = pd.concat(found).sort_values("doubt", ascending=False, kind="stable")
    of_kinds = [reasons[reasons["kind"].eq(kind)] for kind in KINDS]
    firsts = [part[part["study_id"].isin(part["study_id"].unique()[:num])] for part in of_kinds]
    return pd.concat(firsts, ignore_index=True)


def write_pages(reviewed: Reviewed, reasons: pd.DataFrame, folder: Path) -> int:
    """Write a page for each study, the most useful first, their index and the tables of ids.

    Pages of an earlier review are removed; ids of their slices are kept, for ticks made in them.
    Returns the number of pages: studies without pixels have none.
    """
    for path in (folder / INDEX_FILE, *folder.glob("study_*.html")):
        path.unlink(missing_ok=True)
    table, names, given = reviewed.table, reviewed.label_names, reviewed.given_labels
    image_ids = reviewed.predictions.index
    studies = table.frame["study_id"].iloc[table.rows_of(image_ids.to_numpy())]
    some = dict(zip(studies, image_ids))
    cases, pages = list[dict[Any, Any]](), list[pd.DataFrame]()
    by_study = list(reasons.groupby("study_id", sort=False))
    for name, why in tqdm(by_study, unit="study", desc="pages", disable=None):
        study_id = str(name)
        top = next(iter(why["image_id"].dropna()), some[study_id])
        slices = stored_slices(table, top, image_ids)
        if slices is None:
            continue
        ids = [table.image_id(int(row)) for row in slices.rows]
        page, number = f"page_{hash_of(' '.join(ids))}", len(cases) + 1
        at_slices, notes = _sentences(why, ids)
        case = {"number": number, "study_id": study_id, "page": page, "why": " ".join(notes)}
        cases.append(case | reviewed.studies.loc[study_id].to_dict())
        html = stored_study_html(
            table,
            cases[-1] | {"top_image_id": top},
            reviewed.predictions,
            names,
            notes=notes,
            slices=slices,
            reasons=at_slices,
            ticks=Ticks(page, given.loc[study_id].to_numpy(dtype=np.float64)),
        )
        write_text(folder / f"study_{number}.html", str(html))
        rows = {"page": page, "slice": range(1, len(ids) + 1), "image_id": ids}
        pages.append(pd.DataFrame(rows | {"study_id": study_id}, dtype="str"))
    keep_pages(folder, pages)
    columns = ["number", "study_id", "page", "why", *names]
    write_text(folder / STUDIES_FILE, pd.DataFrame(cases, columns=columns).to_csv(index=False))
    subtitle = f"{count(len(cases), 'study')} of {len(reviewed.studies)}, the most useful first."
    values = {"title": "Studies worth a look", "subtitle": subtitle, "union": names[-1]}
    write_text(folder / INDEX_FILE, render("review.html", **values, cases=cases))
    return len(cases)


def _sentences(why: pd.DataFrame, ids: Sequence[str]) -> tuple[dict[int, str], list[str]]:
    """Return why slices are worth a look, by their place, and a sentence for each kind."""
    at_slices, of_kinds = dict[int, str](), dict[str, list[str]]()
    for kind, image_id, text in zip(why["kind"], why["image_id"], why["text"]):
        where = "the study"
        if image_id in ids:
            where = f"slice {ids.index(image_id) + 1}"
            at_slices.setdefault(ids.index(image_id), f"{kind}: {text}")
        of_kinds.setdefault(kind, []).append(f"{where}, {text}")
    return at_slices, [f"{kind.capitalize()}: {'; '.join(of_kinds[kind])}." for kind in of_kinds]
