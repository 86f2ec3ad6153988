"""Which rows of the header table are one image: ids are taken at their word only where unique.

SOPInstanceUIDs repeat in exports: copies of a file, and anonymizers that give many images one id.
Only pixels tell the two apart, so those of repeated ids are read before anything is grouped.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.dicom import RejectedFile
from common.preparation.headers import HEADER_COLUMNS, INDEX_FOLDER, why_killed
from common.preparation.readers import SliceReader
from common.preparation.workers.runner import TaskRunner
from common.slices.table import STATUS_OK
from common.tables import write_parquet
from common.words import count

logger = logging.getLogger(__name__)

DUPLICATE = "duplicate"
SAME_IMAGE = "same image as "
_KEY = ["source_file", "frame"]
_POSITION = ["position_x", "position_y", "position_z"]
_SAME_PLACE = ["image_id", "patient_id", "series_id", "instance_number", *_POSITION]
_OF_FILES = (*_KEY, "size", "mtime_ns", "reader", "status", "reason", "pixels", "limit")
_CONTENT = [name for name in HEADER_COLUMNS if name not in _OF_FILES]


@dataclass(frozen=True)
class PixelTask:
    """A file whose pixels are hashed, frame by frame."""

    reader: SliceReader
    source_file: str
    frames: tuple[int, ...]


def repeated_ids(index: pd.DataFrame) -> pd.Series:
    """Return which usable rows have an image id that another usable row has too, bool by row."""
    ids = index["image_id"].where(index["status"].eq(STATUS_OK))
    return ids.notna() & ids.duplicated(keep=False)


def with_pixel_hashes(
    index: pd.DataFrame, chosen: pd.Series, reader: SliceReader, runner: TaskRunner, folder: Path
) -> pd.DataFrame:
    """Return the header table with `pixels` of the chosen rows, and keep that in the dataset.

    Rows whose pixels cannot be read are rejected with the reason.
    """
    wanted = index[chosen & index["pixels"].isna() & index["status"].eq(STATUS_OK)]
    if wanted.empty:
        return index
    logger.info("comparing the pixels of %s", count(len(wanted), "image"))
    tasks = [
        PixelTask(reader, str(name), tuple(int(frame) for frame in frames))
        for name, frames in wanted.groupby("source_file")["frame"]
    ]
    found = []
    for outcome in runner.stream(hash_pixels, iter(tasks)):
        if outcome.result is not None:
            found += outcome.result
            continue
        task = outcome.task
        failed = *why_killed("decoding the pixels", outcome.exceeded, runner.limits), None
        found += [(task.source_file, frame, *failed) for frame in task.frames]
    changes = pd.DataFrame(found, columns=[*_KEY, "status", "reason", "pixels"]).set_index(_KEY)
    index = index.set_index(_KEY)
    index.update(changes)
    index = index.reset_index()[list(HEADER_COLUMNS)].astype(HEADER_COLUMNS)
    write_parquet(folder / INDEX_FOLDER / "headers.parquet", index)
    return index


def hash_pixels(task: PixelTask) -> list[tuple[str, int, str, str | None, str | None]]:
    """Return source_file, frame, status, reason and the hash of the pixels of each frame."""
    try:
        images_hu = task.reader.read_pixels(task.source_file).image_hu
    except RejectedFile as rejected:
        failed = rejected.status, rejected.reason, None
        return [(task.source_file, frame, *failed) for frame in task.frames]
    return [
        (task.source_file, frame, STATUS_OK, None, _hash(images_hu[max(frame, 0)]))
        for frame in task.frames
    ]


def _hash(image_hu: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image_hu).tobytes()).hexdigest()[:16]


def mark_duplicates(index: pd.DataFrame) -> pd.DataFrame:
    """Return the header table with each image under an id of its own, and with `note`.

    Where an id stands for different pixels, `_<hash>` of the pixels is appended to each. An image
    stays with one usable file that has it; the others are rejected without an id, naming that one.
    A file that is rejected already keeps its id only where no usable file has it.
    """
    headers = index.copy()
    headers["note"] = pd.Series(None, headers.index, dtype="str")
    headers = _without_lossy_copies(headers)
    usable = headers["status"].eq(STATUS_OK)
    images = headers[usable].groupby("image_id")["pixels"].nunique()
    several = images[images > 1]
    if len(several):
        chosen = usable & headers["image_id"].isin(several.index)
        headers.loc[chosen, "note"] = [
            f"its SOPInstanceUID is that of {several[name]} images"
            for name in headers.loc[chosen, "image_id"]
        ]
        ids = headers.loc[chosen, "image_id"] + "_" + headers.loc[chosen, "pixels"].str[:8]
        headers.loc[chosen, "image_id"] = ids
        logger.warning(
            "%s of %d different images: their pixels name them",
            count(len(several), "SOPInstanceUID"),
            int(several.sum()),
        )
    return _without_copies(headers, headers["image_id"])


def _without_lossy_copies(headers: pd.DataFrame) -> pd.DataFrame:
    """Return the table without lossy copies of images that are there under the same id as well."""
    is_usable = headers["status"].eq(STATUS_OK) & headers["image_id"].notna()
    is_lossy = headers["lossy"].fillna(False).astype(bool)
    if not (is_usable & is_lossy).any():
        return headers
    originals = headers[is_usable & ~is_lossy].drop_duplicates(_SAME_PLACE)
    found = headers[is_usable & is_lossy][_SAME_PLACE].reset_index()
    found = found.merge(originals[[*_SAME_PLACE, "source_file"]], on=_SAME_PLACE)
    rows = found["index"].to_numpy()
    headers.loc[rows, "status"] = DUPLICATE
    headers.loc[rows, "reason"] = (SAME_IMAGE + found["source_file"].astype("str")).to_numpy()
    headers.loc[rows, "image_id"] = None
    return headers


def drop_copies(headers: pd.DataFrame, files: Sequence[tuple[str, int]]) -> pd.DataFrame:
    """Return the table without repeated pixels at the same place of the same study, under any id.

    Args:
        headers: what `mark_duplicates` returned.
        files: source_file and frame of the rows to look at; their `pixels` are known.
    """
    chosen = headers[_KEY].agg(tuple, axis=1).isin(files) & headers["pixels"].notna()
    place = ["study_id", "patient_id", "position_x", "position_y", "position_z", "pixels"]
    names = pd.Series(None, headers.index, dtype="object")
    names[chosen] = headers.loc[chosen, place].astype("str").fillna("").agg("|".join, axis=1)
    return _without_copies(headers, names)


def _without_copies(headers: pd.DataFrame, names: pd.Series) -> pd.DataFrame:
    """Return the table in which a name (null: none) stays with one row, a usable one if there is.

    That is the row of the larger series, or else the first by what its header says: what files are
    called decides only between equal headers.
    """
    shared = headers[names.notna() & names.duplicated(keep=False)]
    if shared.empty:
        return headers
    usable = headers["status"].eq(STATUS_OK)
    sizes = headers.loc[usable, "series_id"].value_counts()
    order = shared[[*_CONTENT, *_KEY]].assign(
        unusable=~usable[shared.index],
        others=-shared["series_id"].map(sizes).astype("float64").fillna(0),
    )
    order = order.sort_values(["unusable", "others", *_CONTENT, *_KEY])
    again = names[order.index].duplicated().reindex(headers.index, fill_value=False)
    first = headers["source_file"].groupby(names[~again]).first()
    repeated = again & usable
    headers.loc[repeated, "reason"] = SAME_IMAGE + names[repeated].map(first).astype("str")
    headers.loc[repeated, "status"] = DUPLICATE
    headers.loc[again, "image_id"] = None
    return headers


def same_image_files(slices: pd.DataFrame) -> pd.Series:
    """Return the name of the first file with the same image, by row of each duplicate."""
    reasons = slices.loc[slices["status"] == DUPLICATE, "reason"]
    return reasons.astype("str").str.removeprefix(SAME_IMAGE)
