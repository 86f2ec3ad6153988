"""What stands in for the network in tests of the worker: small valid objects, or a mishap.

A mishap is asked for by the StudyDescription of a slice: crash, hang, memory, fault, reject.
"""

import hashlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from common.errors import InputError
from rsna.worker import serving

KINDS = {"measurements": Comprehensive3DSRStorage, "report": EnhancedSRStorage}
NOISE = "a codec prints this"


def serve(requests: Any, replies: Any, environment: dict[str, str]) -> None:
    """What a fork of a child does."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_WRONLY)
    for number, file in enumerate((requests.fileno(), replies.fileno(), nothing)):
        os.dup2(file, number)
    for end in (requests, replies):
        end.close()
    sys.stdin = os.fdopen(0)
    os.environ.clear()
    os.environ.update(environment)
    serving.main()


def open_analysis(settings: Mapping[str, Any]) -> Any:
    if settings.get("refuse"):
        raise InputError("the predictor is damaged: copy it again")

    def analyse(request: Mapping[str, Any]) -> dict[str, Any]:
        print(NOISE)
        time.sleep(float(settings.get("seconds", 0)))
        source, output = Path(request["source"]), Path(request["output"])
        try:
            slices = [pydicom.dcmread(path) for path in sorted(source.iterdir())]
        except Exception as error:
            raise InputError("no slice can be read: read 1 file, rejected 1 (not_dicom)") from error
        if not settings.get("is_mended"):
            mishap(str(slices[0].get("StudyDescription", "")))
        return {"studies": [write_results(slices, output, settings, request)]}

    return analyse


def mishap(word: str) -> None:
    if word == "crash":
        os.abort()
    if word == "hang":
        time.sleep(1000)
    if word == "memory":
        kept = []
        while True:
            kept.append(b"x" * (16 << 20))
            time.sleep(0.02)
    if word == "fault":
        raise KeyError("SECRET^NAME")
    if word == "reject":
        raise InputError("no head CT in 1.2.840.113619.2.1 of 'SECRET^NAME'\nline")


def write_results(
    slices: list[Dataset], output: Path, settings: Mapping[str, Any], request: Mapping[str, Any]
) -> dict[str, Any]:
    """Write one object of each kind, whose UIDs follow from slices, model and predecessors."""
    names = sorted(str(one.SOPInstanceUID) for one in slices)
    made_of = [*names, str(settings.get("digest")), str(request["predecessors"])]
    folder = output / hashlib.sha256(slices[0].StudyInstanceUID.encode()).hexdigest()[:16]
    folder.mkdir(parents=True)
    documents = {}
    for kind, sop_class in KINDS.items():
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.Modality = sop_class, "SR"
        one.SOPInstanceUID = generate_uid(entropy_srcs=[*made_of, kind])
        one.SeriesInstanceUID = generate_uid(entropy_srcs=[*made_of, kind, "series"])
        one.StudyInstanceUID = slices[0].StudyInstanceUID
        for word in ("PatientID", "PatientName", "StudyDate"):
            setattr(one, word, slices[0].get(word, ""))
        one.ContentDate, one.ContentTime = (
            request["time"].replace("-", "").replace(":", "").split("T")
        )
        earlier = request["predecessors"].get(folder.name, {}).get(kind)
        one.SeriesDescription = f"after {earlier['SOPInstanceUID']}" if earlier else "first"
        one.TextValue = "x" * settings.get("num_padded", 0)
        one.save_as(folder / f"{kind}.dcm", enforce_file_format=True)
        words = ("SOPClassUID", "SeriesInstanceUID", "SOPInstanceUID")
        documents[kind] = {word: str(one[word].value) for word in words}
    (folder / "result.json").write_text("{}")
    return {
        "folder": folder.name,
        "reason": settings.get("reason", ""),
        "probability": [len(slices) / 100],
        "documents": documents,
    }
