"""deliver.py: a folder of DICOM in, a folder of result objects for each study out.

`deliver_folder` is what a worker calls, too. A study's folder appears whole or not at all, and the
same study gives the same objects again, whenever that is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from common.delivery.author import quiet_highdicom
from common.delivery.headers import SourceSlice, Undeliverable, Wanted, read_slices, visible
from common.delivery.identity import Identity
from common.delivery.model import ModelRecord
from common.delivery.pictures import MAP, PICTURES, parametric_map, secondary_captures
from common.delivery.reports import (
    KEYS,
    MACHINE,
    TEXT,
    Finding,
    StudyResult,
    key_objects,
    key_places,
    measurement_report,
    percent_text,
    text_report,
)
from common.delivery.writing import (
    NAME_LENGTH,
    SUFFIX,
    working_folder,
    write_objects,
)
from common.dicom import read_hu
from common.dicom.archives import open_source_file
from common.errors import InputError
from common.files import replacing_folder, sync_folder, write_json
from common.predictors.base import PredictOptions
from common.predictors.heat_maps import HeatMaps, heat_maps, slice_networks
from common.slices.series import list_series, used_rows
from common.slices.table import SLICES_FILE, SliceTable
from common.words import count
from config import Config
from flags.delivery import DeliveryConfig
from rsna import codes
from rsna.evaluation.folders import deliverable_record, is_of_phantoms, require_valid_uids
from rsna.opening import device_of
from rsna.predictor import Prediction, Predictor, make_studies
from rsna.result_author import FORMAT, author_of
from rsna.sources.dicom import DicomSource

RESULT_FILE = "result.json"
DELIVERED, UNUSABLE, REFUSED = "delivered", "unusable", "refused"
SUBJECT = "hemorrhage"
MOST_MAPPED = 300
"""Slices of a parametric map: of 512 x 512 pixels each it has 315 MB."""
_SEEN = ("ok", "partial")

_OF_DOCUMENTS = ("SOPClassUID", "SeriesInstanceUID", "SOPInstanceUID")

Document = Mapping[str, str]
"""Of a document its class, series and instance UID, by keyword."""


@dataclass(frozen=True)
class Delivered:
    """What became of a study.

    Attributes:
        folder: with its objects and result.json; its name is a hash of the study's UID.
        status: delivered; unusable: no CT of a head that could be read; refused: predicted, but no
            valid object can be made.
        reason: why not; holds no id. Empty where all was delivered.
        probabilities: by label; empty where there are none of the study's own.
        documents: by kind the UIDs of the documents (class, series, instance), which a later
            version of the result names as its predecessors; plain types.
        missing: what of a study that is delivered was not seen; empty where it was seen whole.
    """

    folder: Path
    status: str
    reason: str
    probabilities: Mapping[str, float]
    documents: Mapping[str, Document] = field(default_factory=dict)
    missing: str = ""

    def line(self) -> str:
        """Return what happened in one line, without an id of the patient or the study."""
        values = reversed(list(self.probabilities.items()))
        shown = ", ".join(f"{name} {p:.3f}" for name, p in values)
        shown += f" (not the whole study: {self.missing})" if self.missing else ""
        return f"{self.folder}: {self.status}: {shown if self.status == DELIVERED else self.reason}"


@dataclass(frozen=True)
class Deliverer:
    """What delivers folder after folder by one predictor.

    Attributes:
        predictor, record: the model, and what its folder says.
        flags: options of the objects.
    """

    predictor: Predictor
    record: ModelRecord
    flags: DeliveryConfig

    @classmethod
    def from_config(cls, config: Config) -> "Deliverer":
        """Return what the flags ask for; InputError where the predictor is not to be delivered."""
        record = deliverable_record(config)
        folder = config.predictor_home(recorded=False).predictor
        general = config.resolved("prediction").general
        options = PredictOptions(
            general.tr_batch_size_valid, general.n_jobs, device=device_of(config)
        )
        predictor = Predictor.open(folder, options, config.engine.precision)
        if config.delivery.dl_heat_map != "none":
            _require_maps(predictor, config.delivery.dl_heat_map)
        return cls(predictor, record, config.delivery)

    def deliver(
        self,
        source: Path,
        output: Path,
        start: datetime,
        predecessors: Mapping[str, Mapping[str, Document]] | None = None,
    ) -> list[Delivered]:
        """Write the results of each study in a folder of DICOM, and return what became of it.

        Args:
            source: the folder, or a zip archive.
            output: the folder of the results; those of a study that are there are replaced.
            start: the time in the objects.
            predecessors: `documents` of earlier results, by the name of the study's folder.

        Raises:
            InputError: nothing in the folder can be read or delivered, or another process writes
                there.
        """
        found = []
        require_valid_uids(source)
        with working_folder(output) as work:
            prediction = self._predict(source, work / "dataset")
            for study in prediction.studies.to_dict("records"):
                name = sha256(str(study["study_id"]).encode()).hexdigest()[:NAME_LENGTH]
                earlier = (predecessors or {}).get(name, {})
                one = _Study(self, prediction, study, source, earlier)
                found.append(one.write(output / name, start))
        return found

    def _predict(self, source: Path, work: Path) -> Prediction:
        """Return what was predicted; also where studies have no slice that can be read."""
        try:
            return self.predictor.predict_folder(source, work)
        except InputError:
            if not (work / SLICES_FILE).is_file():
                raise
            table = SliceTable.load(work)
            if table.readable.any() or table.frame["study_id"].isna().all():
                raise
        loaded, frame = self.predictor.loaded, table.frame.assign(readable=False)
        series, nothing = list_series(frame), pd.DataFrame()
        zeros = np.zeros((len(frame), len(loaded.label_names)))
        studies = make_studies(loaded, frame, zeros, series)
        return Prediction(table, np.arange(0), nothing, series, studies, nothing, nothing)


def deliver(config: Config, source: Path, output: Path) -> Iterator[str]:
    """Deliver --dl_input to --dl_output, and yield a line for each study.

    Raises:
        InputError: flags or input that can't be used, or no study that could be delivered.
    """
    found = Deliverer.from_config(config).deliver(source, output, config.delivery.start)
    done = [one for one in found if one.status == DELIVERED]
    if not done:
        reasons = "; ".join(dict.fromkeys(one.reason for one in found))
        raise InputError(f"--dl_input {source}: nothing to deliver: {reasons}")
    yield from (one.line() for one in found)
    yield f"{count(len(done), 'study')} delivered, {len(found) - len(done)} not: {output}"


@dataclass(frozen=True)
class _Study:
    """A predicted study on its way to its objects.

    Attributes:
        deliverer: its deliverer.
        prediction: of all studies.
        study: its row of the table of studies.
        source: where the files are.
        predecessors: documents of its earlier result, by kind.
    """

    deliverer: Deliverer
    prediction: Prediction
    study: Mapping[Any, Any]
    source: Path
    predecessors: Mapping[str, Document]

    @property
    def names(self) -> Sequence[str]:
        return self.deliverer.predictor.label_names

    def write(self, folder: Path, start: datetime) -> Delivered:
        """Write the folder of the study, and return what became of it."""
        status, reason = UNUSABLE, str(self.study["reason"])
        quiet_highdicom()
        objects: dict[str, Dataset] = {}
        notes: dict[str, Any] = {}
        if self.study["status"] in _SEEN:
            try:
                objects, notes = self._objects()
                status, reason = DELIVERED, ""
            except Undeliverable as error:
                status, reason = REFUSED, str(error)
        reason = visible(reason, 400)
        with replacing_folder(folder) as temporary:
            write_objects(temporary, objects, start)
            record = self._record(status, reason, objects, start) | notes
            write_json(temporary / RESULT_FILE, record)
            sync_folder(temporary)
        sync_folder(folder.parent)
        documents = {kind: _document(objects[kind]) for kind in (MACHINE, TEXT) if kind in objects}
        is_part = status == DELIVERED and self.study["status"] == "partial"
        missing = visible(str(self.study["reason"]), 200) if is_part else ""
        return Delivered(folder, status, reason, self._probabilities(), documents, missing)

    def _probabilities(self) -> dict[str, float]:
        if self.study["status"] not in _SEEN:
            return {}
        return {name: float(self.study[name]) for name in self.names}

    def _objects(self) -> tuple[dict[str, Dataset], dict[str, Any]]:
        """Return the objects by name, and what result.json says about how they came about."""
        rows, probabilities = self._rows()
        frame = self.prediction.table.frame.iloc[rows]
        wanted = [Wanted(*one) for one in zip(frame["source_file"], frame["image_id"])]
        source = DicomSource(self.source).folder
        slices = read_slices(source, wanted)
        if str(slices[0].header.StudyInstanceUID) != self.study["study_id"]:
            raise Undeliverable("two patients share its StudyInstanceUID")
        positions_mm = frame["position_mm"].to_numpy(np.float64)
        keys = key_places(probabilities[:, -1], positions_mm)
        has_ends = int(np.isfinite(positions_mm).sum()) > 1  # else numbers alone order the slices
        result = self._result(slices, keys, probabilities, has_ends)
        objects = {MACHINE: measurement_report(result), TEXT: text_report(result)}
        objects[KEYS] = key_objects(result)
        notes: dict[str, Any] = {
            "repaired": sorted({keyword for one in slices for keyword in one.repaired})
        }
        if self.deliverer.flags.dl_heat_map == "none":
            return objects, notes
        # On the scale of these slices, also where all have a map.
        maps = self._maps(rows[keys], probabilities[keys, -1])
        images_hu = [_image_hu(source, wanted[place], slices[place]) for place in keys]
        captions = [self._caption(place, probabilities, has_ends) for place in keys]
        pictures = secondary_captures(result, images_hu, maps, captions, maps.description)
        objects |= {f"{PICTURES}_{n}": one for n, one in enumerate(pictures, start=1)}
        if self.deliverer.flags.dl_heat_map == "pm":
            try:
                if len(rows) > MOST_MAPPED:
                    raise Undeliverable(f"more than {MOST_MAPPED} slices")
                objects[MAP] = parametric_map(result, self._maps(rows, probabilities[:, -1]))
            except Undeliverable as error:
                notes["left_out"] = {MAP: str(error)}
        return objects, notes

    def _maps(self, rows: NDArray[np.int64], p: NDArray[np.float64]) -> HeatMaps:
        """Return where the network looked for the last label, on the pixels of the files."""
        predictor, table = self.deliverer.predictor, self.prediction.table
        return heat_maps(predictor.loaded, table, rows, None, predictor.options, p)

    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the rows (n,) of the volume, in order, and the probabilities (n, k) of each."""
        found = self.prediction
        frame = found.table.frame.iloc[found.rows]
        frame = frame.assign(readable=~frame["image_id"].isin(found.filled["image_id"]))
        is_own = frame["study_id"].eq(self.study["study_id"]).to_numpy(dtype=bool)
        rows = found.table.anatomical_order(found.rows[is_own & used_rows(frame, found.series)])
        by_row = found.predictions[list(self.names)].set_axis(found.rows)
        return rows, by_row.loc[rows].to_numpy(np.float64)

    def _result(
        self,
        slices: Sequence[SourceSlice],
        keys: Sequence[int],
        probabilities: NDArray[np.float64],
        has_ends: bool,
    ) -> StudyResult:
        record, flags = self.deliverer.record, self.deliverer.flags
        author = author_of(record, flags.dl_uid_root, self.study)
        summary = [self._summary(len(slices), has_ends)]
        made_of = [
            str(slices[0].header.StudyInstanceUID),
            "\n".join(sorted(one.name for one in slices)),
            *(record.weights_sha256, record.settings_sha256, flags.dl_heat_map),
            *("\n".join(author.versions), author.statement, *summary),
            *sorted(each["SOPInstanceUID"] for each in self.predecessors.values()),
        ]
        findings = []
        for label, name in enumerate(self.names):
            call = self.study.get("call" if name == "any" else f"call_{name}")
            findings.append(
                Finding(
                    codes.NAMES[name],
                    codes.FINDINGS[name],
                    codes.SITES.get(name),
                    float(self.study[name]),
                    None if call is None or pd.isna(call) else bool(call),
                    slices[int(probabilities[:, label].argmax())],
                )
            )
        return StudyResult(
            slices,
            keys,
            findings,
            summary,
            codes.PROCEDURE,
            SUBJECT,
            author,
            Identity(made_of, flags.dl_uid_root),
            self.predecessors,
        )

    def _summary(self, num_slices: int, has_ends: bool) -> str:
        whole, reason = self.study["status"] == "ok", visible(str(self.study["reason"]), 200)
        missing = "" if whole else f" Not the whole study: {reason}."
        known = has_ends or num_slices == 1
        order = "" if known else " Nothing tells which end of it is nearer the feet."
        # Nothing else tells a reader that a whole study was a slice, or half a head.
        shown = f"The study shows {self.study['coverage_mm']:.0f} mm of brain."
        return f"{count(num_slices, 'slice')} of one volume. {shown}{order}{missing}"

    def _caption(self, place: int, probabilities: NDArray[np.float64], has_ends: bool) -> str:
        p = percent_text(float(probabilities[place, -1]))
        end = " from below" if has_ends else ""
        return f"Slice {place + 1} of {len(probabilities)}{end}: any hemorrhage {p}"

    def _record(
        self, status: str, reason: str, objects: Mapping[str, Dataset], start: datetime
    ) -> dict[str, Any]:
        """Return the content of result.json: no id, name or date of the patient or the study."""
        study, record = self.study, self.deliverer.record
        author = author_of(record, None, study)
        is_seen = study["status"] in _SEEN
        decided = [name for name in study if str(name).startswith(("call", "decision"))]
        calls = {str(name): None if pd.isna(study[name]) else study[name] for name in decided}
        return {
            "format_version": FORMAT,
            "status": status,
            "reason": reason,
            "notice": author.notice,
            "study": {name: study[name] for name in ("number", "status")},
            "num_slices": int(study["num_slices"]),
            "probabilities": self._probabilities() or None,
            "decisions": calls if is_seen else {},
            "facts": list(author.facts),
            "model": record.name,
            "weights_sha256": record.weights_sha256,
            "settings_sha256": record.settings_sha256,
            "trained_on_phantoms": is_of_phantoms(record),
            "software": list(author.versions),
            "heat_map": self.deliverer.flags.dl_heat_map,
            "time": start.isoformat(),
            "objects": [
                {"file": f"{name}{SUFFIX}", "class": made.SOPClassUID.name}
                for name, made in objects.items()
            ],
        }


def _image_hu(folder: Path, wanted: Wanted, one: SourceSlice) -> NDArray[np.int16]:
    """Return HU (rows, columns) as the file has them, neither turned nor cropped."""
    with open_source_file(folder, wanted.source_file) as file:
        images_hu = read_hu(file).image_hu
    return np.asarray(images_hu[0 if one.frame is None else one.frame - 1], dtype=np.int16)


def _require_maps(predictor: Predictor, asked: str) -> None:
    try:
        for network, _ in slice_networks(predictor.loaded, len(predictor.label_names) - 1)[0]:
            network.require_maps()
    except InputError as error:
        raise InputError(f"--dl_heat_map {asked}: {error}; or give --dl_heat_map none") from error


def _document(made: Dataset) -> Document:
    return {keyword: str(made[keyword].value) for keyword in _OF_DOCUMENTS}
