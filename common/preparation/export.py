"""Export a dataset as one 8-bit image per slice, for tools that need files.

`npy` is the image of the takmanman notebooks: the header's first window, stretched to 0-255 for
each image by itself, so that absolute HU are lost. `png` keeps them: fixed windows, one as grey or
three as colours.
"""

import hashlib
import io
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.files import make_folder, replacing, write_bytes, write_json
from common.preparation.workers.runner import TaskRunner
from common.slices.store import SliceStore, UnreadableSlice
from common.slices.table import STORE_FOLDER, SliceTable
from common.windows import BONE, BRAIN, SOFT_TISSUE, SUBDURAL, Window, windowed
from common.words import count

logger = logging.getLogger(__name__)

# None stands for the first window that the header names.
EXPORT_WINDOWS: dict[str, Window | None] = {
    "brain": BRAIN,
    "subdural": SUBDURAL,
    "soft": SOFT_TISSUE,
    "bone": BONE,
    "header": None,
}
# For slices whose header names no window.
FALLBACK_WINDOW = BRAIN

OPTIONS_FILE = "export.json"
INDEX_FILE = "images.csv"
_RECORDS = ".export"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

WRITTEN, KEPT = "written", "kept"
DAMAGED, KILLED = "damaged in the store", "killed the process"
NO_WINDOW, CONSTANT = "without a window in the header", "of one value in the window"


@dataclass(frozen=True)
class ExportOptions:
    """How slices become images.

    Attributes:
        kind: `npy` or `png`.
        windows: of a png: one name of `EXPORT_WINDOWS` for grey, three for red, green and blue.
    """

    kind: Literal["npy", "png"]
    windows: tuple[str, ...] = ("brain", "subdural", "soft")

    def plain(self) -> dict[str, Any]:
        """Return the options that change the images, as plain types."""
        windows = {name: EXPORT_WINDOWS[name] for name in self.windows}
        return {"kind": self.kind} | ({"windows": windows} if self.kind == "png" else {})


@dataclass(frozen=True)
class ExportTask:
    """The slices of one store file: image id, index in the file, header window (None: none)."""

    store_folder: Path
    store_file: str
    slices: tuple[tuple[str, int, tuple[float, float] | None], ...]
    folder: Path
    options: ExportOptions


@dataclass(frozen=True)
class Exported:
    """Counts of an export.

    Attributes:
        counts: slices by their result.
        num_without_pixels: rows of the table that have none.
    """

    folder: Path
    counts: Counter[str] = field(default_factory=Counter)
    num_without_pixels: int = 0

    def line(self) -> str:
        counts = self.counts
        parts = [f"exported {count(counts[WRITTEN] + counts[KEPT], 'slice')} ({counts[KEPT]} kept)"]
        parts += [f"{counts[name]} {name}" for name in (DAMAGED, KILLED) if counts[name]]
        parts += [f"{name}: {count(counts[name], 'image')}" for name in (NO_WINDOW, CONSTANT)]
        parts.append(f"{count(self.num_without_pixels, 'row')} without pixels")
        return f"{self.folder}: {', '.join(parts)}"


def export_images(table: SliceTable, folder: Path, options: ExportOptions, n_jobs: int) -> Exported:
    """Write one image per readable slice into `folder`, and `images.csv` with their names.

    Whatever is interrupted goes on when it is called again: a series is done again only where its
    pixels or windows have changed, or files are missing.

    Args:
        folder: gets the images, flat, each named by its image id (see `file_stem`).
        n_jobs: processes; 0 works in this one.

    Raises:
        InputError: the folder holds images made with other options, or something else.
    """
    _claim(folder, options)
    tasks = list(_tasks(table, folder, options))
    _log_size(table, folder, options)
    counts: Counter[str] = Counter()
    num_slices = sum(len(task.slices) for task in tasks)
    with (
        TaskRunner(n_jobs) as runner,
        tqdm(total=num_slices, unit="slice", desc="export", mininterval=1) as progress,
    ):
        for outcome in runner.stream(export_series, tasks):
            size = len(outcome.task.slices)
            progress.update(size)
            counts.update({KILLED: size} if outcome.result is None else outcome.result)
    names = [image_id for task in tasks for image_id, _, _ in task.slices]
    index = pd.DataFrame({"image_id": names, "file": [file_name(n, options) for n in names]})
    index = index[index["file"].isin({path.name for path in folder.iterdir()})]
    with replacing(folder / INDEX_FILE) as temporary:
        index.to_csv(temporary, index=False)
    return Exported(folder, counts, len(table) - int(table.readable.sum()))


def export_series(task: ExportTask) -> dict[str, int]:
    """Write the images of one series, unless they are there; return counts of what happened."""
    record_path = task.folder / _RECORDS / f"{task.store_file}.json"
    store = SliceStore(task.store_folder)
    try:
        checksums = store.checksums(task.store_file)
    except UnreadableSlice:
        return {DAMAGED: len(task.slices)}
    digest = _digest(task, checksums)
    paths = [task.folder / file_name(image_id, task.options) for image_id, _, _ in task.slices]
    done = _read_record(record_path, digest)
    if done is not None and all(path.is_file() for path in paths):
        return {**done, WRITTEN: 0, KEPT: done.get(WRITTEN, 0)}
    counts: Counter[str] = Counter()
    for path, (_, store_index, window) in zip(paths, task.slices):
        try:
            image_hu = store.read(task.store_file, store_index)
        except UnreadableSlice:
            # An image of other pixels from an earlier export must not stay under this name.
            path.unlink(missing_ok=True)
            counts[DAMAGED] += 1
            continue
        data, notes = _encoded(image_hu, window, task.options)
        write_bytes(path, data)
        counts.update([WRITTEN, *notes])
    if not counts[DAMAGED]:
        write_json(record_path, {"digest": digest, "counts": dict(counts)})
    return dict(counts)


def header_window_image(image_hu: NDArray[np.int16], center: float, width: float) -> NDArray[Any]:
    """Return HU as uint8 the way the takmanman notebooks do.

    Clipped to center -+ width // 2, stretched so that the smallest value becomes 0 and the largest
    255, and cut to whole numbers. An image of one value becomes 0.
    """
    low, high = center - width // 2, center + width // 2
    image = np.clip(image_hu.astype(np.float64), low, high)
    smallest, largest = image.min(), image.max()
    if smallest == largest:
        return np.zeros(image.shape, dtype=np.uint8)
    return ((image - smallest) / (largest - smallest) * 255).astype(np.uint8)


def fixed_window_image(
    image_hu: NDArray[np.int16], windows: Sequence[tuple[float, float]]
) -> NDArray[np.uint8]:
    """Return HU in windows (center, width) as uint8 (rows, columns, windows).

    center - width / 2 becomes 0 and center + width / 2 becomes 255, rounded.
    """
    return np.stack([windowed(image_hu, *window) for window in windows], axis=-1)


def file_stem(image_id: str) -> str:
    """Return the name of an image without its ending: the image id where that is a plain name.

    Plain are letters, digits, `_`, `.` and `-`, 128 at most, beginning with one of the first three
    kinds. Anything else becomes its plain part, `~` and a digest, so that no id leads out of the
    folder and no two share a name.
    """
    if _PLAIN_NAME.fullmatch(image_id):
        return image_id
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", image_id).strip("_-")[:64] or "image"
    digest = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{plain}~{digest[:24]}"


def file_name(image_id: str, options: ExportOptions) -> str:
    """Return the name of the file of an image, with its ending."""
    return f"{file_stem(image_id)}.{options.kind}"


def _encoded(
    image_hu: NDArray[np.int16], window: tuple[float, float] | None, options: ExportOptions
) -> tuple[bytes, list[str]]:
    """Return the content of the file, and the notes to count."""
    notes = []
    uses_header = options.kind == "npy" or "header" in options.windows
    if uses_header and window is None:
        notes.append(NO_WINDOW)
    header = FALLBACK_WINDOW if window is None else window
    if options.kind == "npy":
        image = header_window_image(image_hu, *header)
        buffer = io.BytesIO()
        np.save(buffer, image)
        data = buffer.getvalue()
    else:
        windows = [EXPORT_WINDOWS[name] or header for name in options.windows]
        image = fixed_window_image(image_hu, windows)
        # OpenCV takes colours as blue, green, red.
        data = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    if not np.ptp(image):
        notes.append(CONSTANT)
    return data, notes


def _tasks(table: SliceTable, folder: Path, options: ExportOptions) -> Iterator[ExportTask]:
    frame = table.frame[table.readable]
    centers = frame["window_center"].to_numpy(dtype=np.float64)
    widths = frame["window_width"].to_numpy(dtype=np.float64)
    usable = np.isfinite(centers) & (widths >= 1)
    pairs = zip(centers.tolist(), widths.tolist(), usable.tolist())
    header_windows = [(center, width) if known else None for center, width, known in pairs]
    slices = list(zip(frame["image_id"], frame["store_index"].astype(int), header_windows))
    for store_file, places in frame.reset_index().groupby("store_file").indices.items():
        of_file = tuple(slices[place] for place in places)
        store_folder = table.folder / STORE_FOLDER
        yield ExportTask(store_folder, str(store_file), of_file, folder, options)


def _digest(task: ExportTask, checksums: NDArray[np.uint32]) -> str:
    slices = [[*item, int(checksums[item[1]])] for item in task.slices if item[1] < len(checksums)]
    text = json.dumps([task.options.plain(), slices])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read_record(path: Path, digest: str) -> dict[str, int] | None:
    """Return the counts of an export of the same pixels; None where there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return dict(record["counts"]) if record["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _claim(folder: Path, options: ExportOptions) -> None:
    """Make the folder, or find it begun with the same options."""
    make_folder(folder)
    path = folder / OPTIONS_FILE
    wanted = json.loads(json.dumps(options.plain()))
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} can't be read: choose another --pre_export_folder") from error
        if found != wanted:
            raise InputError(
                f"{folder} holds an export of another kind or of other windows: choose another "
                f"--pre_export_folder, or delete it"
            )
        return
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise InputError(
            f"{folder} holds something else already: choose another --pre_export_folder"
        )
    write_json(path, wanted)


def _log_size(table: SliceTable, folder: Path, options: ExportOptions) -> None:
    """Log the disk space that the export takes; warn where it is more than is free."""
    frame = table.frame[table.readable]
    num_channels = 1 if options.kind == "npy" else len(options.windows)
    pixels = (frame["rows"].astype("int64") * frame["columns"].astype("int64")).sum()
    needed, free = num_channels * int(pixels), shutil.disk_usage(folder).free
    about = "takes" if options.kind == "npy" else "takes at most"
    line = f"the export {about} {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free"
    logger.log(logging.WARNING if needed > free else logging.INFO, "%s", line)
