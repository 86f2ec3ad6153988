"""scripts/review.py: pages of the studies worth a look, with boxes to tick."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.dicom.header import hash_of
from common.errors import InputError
from common.files import make_folder, read_csv, write_text
from common.report.page import render
from common.report.study_page import Ticks, known_labels, stored_slices, stored_study_html
from common.scoring.doubts import label_doubts, neighbour_doubts
from common.scoring.metrics import Floats, majority, row_log_losses
from common.slices.study_labels import LABELS_OF_STUDY, read_study_labels
from common.slices.table import SLICES_FILE, SliceTable
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
LABEL, NEIGHBOURS, UNCERTAIN = "likely label error", "differs from its neighbours", "uncertain"
KINDS = (LABEL, NEIGHBOURS, UNCERTAIN)
"""Why a study is worth a look, the most useful first."""
LEAST = 0.1
"""Smaller steps along a series, and probabilities nearer to 0 or 1, are no reason."""
MOST_REASONS = 3
"""Slices of a study that are named for each of them."""


@dataclass(frozen=True)
class Reviewed:
    """Predictions to review.

    Attributes:
        name: of the folder of pages.
        table: the dataset.
        label_names: the k labels.
        predictions: (k) probabilities of slices by image id.
        studies: (k) probabilities by study id.
        doubts: why these predictions may know the labels already, in words.
    """

    name: str
    table: SliceTable
    label_names: Sequence[str]
    predictions: pd.DataFrame
    studies: pd.DataFrame
    doubts: Sequence[str]


def review(config: Config) -> Iterator[str]:
    """Write the pages, or the label files of --rv_ticks, and yield the lines to print."""
    reviewed = open_reviewed(config)
    folder = Path(config.general.output_dir) / FOLDER / reviewed.name
    if config.review.rv_ticks is not None:
        yield from write_labels(reviewed.table, folder, config.review.rv_ticks)
        return
    reasons = find_reasons(reviewed, config.review.rv_num)
    make_folder(folder)
    cases, num_hidden = write_pages(reviewed, reasons, folder)
    yield f"{count(len(cases), 'page')} of {count(len(reviewed.studies), 'study')}"
    for kind, of_kind in reasons[reasons["study_id"].isin(cases["study_id"])].groupby(
        "kind", sort=False
    ):
        yield f"{kind}: {count(of_kind['study_id'].nunique(), 'study')}"
    if num_hidden:
        yield f"{count(num_hidden, 'study')} left out: their pixels are not at hand"
    if reasons["kind"].eq(LABEL).any():
        yield from (f"other label errors may be missed: {doubt}" for doubt in reviewed.doubts)
    yield f"pages: {folder / INDEX_FILE}"


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
    given = {flag: value for flag, value in flags.items() if value is not None}
    if len(given) != 1:
        raise InputError(
            "give one of --experiment_id 0001, --pr_predictor <folder>, with the predictions that "
            "they are scored on, and --rv_predictions <output of predict.py>"
        )
    [(flag, name)] = given.items()
    if flag == "--rv_predictions":
        dataset, stored, studies = _of_prediction(config, Path(name))
        title = stored.name
    else:
        dataset, [stored] = find_stored(config, [name], flag)
        title, studies = f"{stored.name.replace('/', '_')}_{dataset.name}", None
    table = SliceTable.load(dataset)
    frame, names = stored.read(table), stored.task.label_names
    rows = table.rows_of(frame["image_id"])
    if studies is None:
        studies = stored.studies(table, frame)
    used = np.flatnonzero(table.readable[rows])
    used = used[used_of(table, rows[used])]
    predictions = frame.iloc[used].set_index("image_id")[list(names)]
    return Reviewed(title, table, names, predictions, studies, stored.doubts(table, rows))


def _of_prediction(config: Config, folder: Path) -> tuple[Path, Stored, pd.DataFrame]:
    """Return the dataset folder of an output of predict.py, its predictions and its studies."""
    path, flag = folder / STUDIES_FILE, f"--rv_predictions {folder}"
    if not path.is_file() or not (folder / PREDICTIONS_FILE).is_file():
        raise InputError(f"{flag}: no output of predict.py (no {STUDIES_FILE}, {PREDICTIONS_FILE})")
    dataset = folder / "dataset"
    if "data_dataset" in config.given:
        dataset = config.dataset_folder
    elif not (dataset / SLICES_FILE).is_file():
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
    frame = table.frame.iloc[rows]
    slices = frame[["study_id", "image_id"]].reset_index(drop=True)
    studies = pd.DataFrame({"study_id": reviewed.studies.index, "image_id": None})
    studies = studies[studies["study_id"].isin(slices["study_id"])]
    p = reviewed.predictions.loc[frame["image_id"]].to_numpy(dtype=np.float64)
    whole = reviewed.studies.loc[studies["study_id"]].to_numpy(dtype=np.float64)
    y = known_labels(table, rows, names)
    given = given_labels(reviewed).reindex(studies["study_id"]).to_numpy(dtype=np.float64)

    def of_label(i: int, k: int) -> str:
        return f"{names[k]} {_word(y[i, k])} at {p[i, k]:.3f}"

    def of_given(i: int, k: int) -> str:
        return f"the study, {names[k]} {_word(given[i, k])} at {whole[i, k]:.3f}"

    def of_neighbours(i: int, k: int) -> str:
        return f"{names[k]} {p[i, k]:.3f}, beside it {p[i - 1, k]:.3f} and {p[i + 1, k]:.3f}"

    def of_study(i: int, k: int) -> str:
        return f"the study, {names[k]} at {whole[i, k]:.3f}"

    beside = neighbour_doubts(p, pd.factorize(frame["store_file"])[0])
    is_open = (whole > LEAST) & (whole < 1 - LEAST)
    open_losses = np.where(is_open, row_log_losses(whole, whole), 0.0)
    found = [
        _reasons(LABEL, slices, label_doubts(y, p), of_label, num),
        _reasons(LABEL, studies, label_doubts(given, whole), of_given, num),
        _reasons(NEIGHBOURS, slices, np.where(beside > LEAST, beside, 0.0), of_neighbours, num),
        _reasons(UNCERTAIN, studies, open_losses, of_study, num),
    ]
    reasons = pd.concat(found, ignore_index=True)
    reasons = reasons.sort_values("doubt", ascending=False, kind="stable")
    firsts = [
        of_kind[of_kind["study_id"].isin(of_kind["study_id"].unique()[:num])]
        for of_kind in (reasons[reasons["kind"].eq(kind)] for kind in KINDS)
    ]
    return pd.concat(firsts, ignore_index=True)


def _reasons(
    kind: str, ids: pd.DataFrame, doubts: Floats, text: Callable[[int, int], str], num: int
) -> pd.DataFrame:
    """Return the reasons of the `num` most doubtful studies; `text` takes a row and a label."""
    worst = doubts.max(axis=1)
    places = np.argsort(-worst, kind="stable")
    places = places[worst[places] > 0]
    study_ids = ids["study_id"].iloc[places]
    is_first = study_ids.groupby(study_ids).cumcount() < MOST_REASONS
    places = places[is_first & study_ids.isin(study_ids.unique()[:num])]
    texts = [text(int(i), int(doubts[i].argmax())) for i in places]
    return ids.iloc[places].assign(kind=kind, doubt=worst[places], text=texts)


def given_labels(reviewed: Reviewed) -> pd.DataFrame:
    """Return the labels that were given to studies as a whole, by majority, by study id."""
    names = list(reviewed.label_names)
    given = read_study_labels(reviewed.table, names, (LABELS_OF_STUDY,))
    if given is None:
        return pd.DataFrame(columns=names, dtype=np.float64)
    return pd.DataFrame(majority(given), given.index, names)


def write_pages(
    reviewed: Reviewed, reasons: pd.DataFrame, folder: Path
) -> tuple[pd.DataFrame, int]:
    """Write a page for each study, the most useful first, their index and the tables of ids.

    Pages of an earlier review are removed; ids of their slices are kept, for ticks made in them.

    Returns:
        A row for each page (`STUDIES_FILE`), and the number of studies without one.
    """
    for path in (folder / INDEX_FILE, *folder.glob("study_*.html")):
        path.unlink(missing_ok=True)
    table, names = reviewed.table, list(reviewed.label_names)
    given, by_study = given_labels(reviewed), list(reasons.groupby("study_id", sort=False))
    predicted = table.frame.iloc[table.rows_of(reviewed.predictions.index.to_numpy())]
    some = dict(zip(predicted["study_id"], predicted["image_id"]))
    cases, pages = list[dict[Any, Any]](), list[pd.DataFrame]()
    for study_id, why in tqdm(by_study, unit="study", desc="pages", disable=None):
        top = next(iter(why["image_id"].dropna()), some[str(study_id)])
        slices = stored_slices(table, top, reviewed.predictions.index)
        if slices is None:
            continue
        ids = [table.image_id(int(row)) for row in slices.rows]
        page, number = f"page_{hash_of(' '.join(ids))}", len(cases) + 1
        at_slices, notes = _sentences(why, ids)
        own = {"number": number, "study_id": study_id, "page": page, "why": " ".join(notes)}
        case = own | reviewed.studies.loc[study_id].to_dict()
        html = stored_study_html(
            table,
            case | {"top_image_id": top},
            reviewed.predictions,
            names,
            notes=notes,
            slices=slices,
            reasons=at_slices,
            ticks=Ticks(page, given.reindex([study_id]).to_numpy(dtype=np.float64)[0]),
        )
        write_text(folder / f"study_{number}.html", str(html))
        rows = {"page": page, "slice": range(1, len(ids) + 1), "image_id": ids}
        pages.append(pd.DataFrame(rows | {"study_id": study_id}, dtype="str"))
        cases.append(case)
    keep_pages(folder, pages)
    found = pd.DataFrame(cases, columns=["number", "study_id", "page", "why", *names])
    write_text(folder / STUDIES_FILE, found.to_csv(index=False))
    subtitle = f"{count(len(found), 'study')} of {len(reviewed.studies)}, the most useful first."
    values = {"title": "Studies worth a look", "subtitle": subtitle, "union": names[-1]}
    write_text(folder / INDEX_FILE, render("review.html", **values, cases=cases))
    return found, len(by_study) - len(found)


def _sentences(why: pd.DataFrame, ids: Sequence[str]) -> tuple[dict[int, str], list[str]]:
    """Return why slices are worth a look, by their place, and a sentence for each kind."""
    at_slices, of_kinds = dict[int, str](), dict[str, list[str]]()
    for kind, image_id, text in zip(why["kind"], why["image_id"], why["text"]):
        if image_id in ids:
            place = ids.index(image_id)
            at_slices.setdefault(place, f"{kind}: {text}")
            text = f"slice {place + 1}, {text}"
        of_kinds.setdefault(kind, []).append(text)
    return at_slices, [f"{kind.capitalize()}: {'; '.join(of_kinds[kind])}." for kind in of_kinds]


def _word(label: float) -> str:
    return "labelled yes" if label else "labelled no"
