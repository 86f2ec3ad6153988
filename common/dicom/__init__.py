"""Read single CT files in DICOM: headers, Hounsfield units, and the order of slices."""

from common.dicom.header import SliceHeader, read_headers
from common.dicom.part10 import quiet_pydicom
from common.dicom.pixels import DecodedImage, read_hu
from common.dicom.rejection import STATUSES, RejectedFile

__all__ = [
    "STATUSES",
    "DecodedImage",
    "RejectedFile",
    "SliceHeader",
    "quiet_pydicom",
    "read_headers",
    "read_hu",
]
