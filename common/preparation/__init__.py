"""From the files of a source to a dataset folder, on several processes, resumable at any time."""

from common.preparation.archives import list_archive, with_members
from common.preparation.engine import Preparation, prepare_dataset
from common.preparation.readers import DecodedImage, DicomReader, SliceReader
from common.preparation.source import FILE_COLUMNS, Source, list_files
from common.preparation.workers.runner import Limits

__all__ = [
    "FILE_COLUMNS",
    "DecodedImage",
    "DicomReader",
    "Limits",
    "Preparation",
    "SliceReader",
    "Source",
    "list_archive",
    "list_files",
    "prepare_dataset",
    "with_members",
]
