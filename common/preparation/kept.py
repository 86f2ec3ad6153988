"""Stored volumes whose files cannot be seen this time: kept as they are, unless removed by a flag.

A folder that is not mounted, a file without permission and a file that was deleted look alike.
Volumes are kept whole: where some of the files of one are missing, all of its slices stay as they
were stored, and files that would join it make a volume of their own.
"""

import json
import logging
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.preparation.headers import INDEX_FOLDER, TRANSIENT
from common.preparation.identity import DUPLICATE, SAME_IMAGE
from common.preparation.pixels import SliceResult, record_folder, record_path
from common.slices.table import SLICE_COLUMNS, SLICES_FILE, STATUS_OK, STORE_FOLDER
from common.tables import read_parquet
from common.words import count

logger = logging.getLogger(__name__)

UNSEEN = "its file was not seen this time: kept as it was stored"


def kept_rows(dataset_folder: Path, index: pd.DataFrame, *, remove: bool) -> pd.DataFrame:
    """Return the rows of the volumes in slices.parquet of which some files were not seen this time.

    A slice was not seen where its file is not there or cannot be opened, and no other file has the
    same image. The rows of such slices have a note.

    Args:
        dataset_folder: with slices.parquet, from the second preparation on.
        index: the headers read this time, with the hashes of pixels that tell images apart.
        remove: keep none.
    """
    previous = _previous_rows(dataset_folder)
    if remove or previous.empty:
        return previous.head(0)
    seen = index[~index["status"].isin(TRANSIENT)]
    images = seen[seen["status"] == STATUS_OK]
    is_unseen = (
        previous["status"].eq(STATUS_OK)
        & ~previous["source_file"].isin(seen["source_file"])
        & ~previous["image_id"].isin([*images["image_id"], *_named_by_pixels(images).dropna()])
    )
    volumes = previous[previous["volume_id"].isin(previous.loc[is_unseen, "volume_id"])]
    lost = [
        name for name, rows in volumes.groupby("volume_id") if not _is_stored(rows, dataset_folder)
    ]
    kept = volumes[~volumes["volume_id"].isin(lost)].copy()
    without_note = kept["reason"].str.replace(UNSEEN, "", regex=False).str.rstrip("; ")
    kept["reason"] = without_note.mask(without_note == "")
    noted = is_unseen.reindex(kept.index)
    before = kept.loc[noted, "reason"]
    kept.loc[noted, "reason"] = (before + "; ").where(before.notna(), "") + UNSEEN
    if len(kept):
        logger.warning(
            "%s of %s not seen this time: kept as stored (--pre_remove 1 removes them)",
            count(int(noted.sum()), "slice"),
            count(kept["volume_id"].nunique(), "volume"),
        )
    if lost:
        logger.warning(
            "%s not seen this time, and lost: no longer stored", count(len(lost), "volume")
        )
    return kept


def set_aside(headers: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Return the headers without those of kept images; other files with these are duplicates."""
    if kept.empty:
        return headers
    files = kept.dropna(subset=["image_id"]).set_index("image_id")["source_file"]
    kept_file = headers["image_id"].map(files).fillna(_named_by_pixels(headers).map(files))
    is_kept = kept_file.eq(headers["source_file"])
    without_image = headers["image_id"].isna() | headers["status"].isin(TRANSIENT)
    is_kept |= without_image & headers["source_file"].isin(kept["source_file"])
    is_copy = kept_file.notna() & ~is_kept
    headers = headers.copy()
    headers.loc[is_copy, "status"] = DUPLICATE
    headers.loc[is_copy, "reason"] = SAME_IMAGE + kept_file[is_copy].astype("str")
    headers.loc[is_copy, "image_id"] = None
    return headers[~is_kept].reset_index(drop=True)


def remove_stale(dataset_folder: Path, store_files: set[str]) -> None:
    """Remove all series but these, and temporary files of killed runs."""
    kept = {dataset_folder / STORE_FOLDER / name for name in store_files}
    kept |= {record_path(dataset_folder, name) for name in store_files}
    found = [*(dataset_folder / STORE_FOLDER).glob("*"), *record_folder(dataset_folder).glob("*")]
    stale = [path for path in found if path not in kept]
    for path in stale:
        path.unlink()
    # A killed run leaves the file that it was writing, half done and under a temporary name.
    for folder in (dataset_folder, dataset_folder / INDEX_FOLDER):
        for path in folder.glob(".*.tmp"):
            path.unlink()
    num_series = sum(path.suffix == ".b2nd" and path.name[0] != "." for path in stale)
    if num_series:
        logger.warning("removed %d series that are no longer in the source", num_series)


def _previous_rows(dataset_folder: Path) -> pd.DataFrame:
    """Return slices.parquet of the preparation before; no rows where there was none."""
    path = dataset_folder / SLICES_FILE
    previous = pd.DataFrame(columns=list(SLICE_COLUMNS))
    if path.is_file():
        try:
            previous = read_parquet(path, "nothing of it is kept")
        except InputError as error:
            logger.warning("%s", error)
    if "volume_id" not in previous:  # made by an earlier version
        previous["volume_id"] = previous["store_file"].str.removesuffix(".b2nd")
    return previous


def _is_stored(rows: pd.DataFrame, dataset_folder: Path) -> bool:
    """Return whether the store file of a volume is the one that its rows were written for.

    A run that was killed may have stored other slices under its name.
    """
    stored = rows[rows["store_index"].notna()].sort_values("store_index")
    name = str(stored["store_file"].iloc[0])
    if not (dataset_folder / STORE_FOLDER / name).is_file():
        return False
    try:
        record = json.loads(record_path(dataset_folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    slices = [SliceResult(*values) for values in record["slices"]]
    recorded = [(one.hu_min, one.hu_max) for one in slices if one.store_index is not None]
    return recorded == list(zip(stored["hu_min"], stored["hu_max"]))


def _named_by_pixels(index: pd.DataFrame) -> pd.Series:
    """Return the ids that images have where others share their SOPInstanceUID; else null."""
    return index["image_id"] + "_" + index["pixels"].str[:8]
