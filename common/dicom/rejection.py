"""Reasons why a file yields no image: one word and one sentence."""

STATUSES = {
    "not_dicom": "no DICM marker at byte 128, and no data set at the start",
    "unreadable": "the operating system would not let the file be read",
    "bad_archive": "an archive, or a member of one, that is damaged, empty or packed in an odd way",
    "nested_archive": "an archive within an archive: not opened",
    "encrypted": "a member of an archive that needs a password",
    "zip_bomb": "an archive, or a member of one, that unpacks to suspiciously much",
    "not_ct": "another modality, or a screen shot or report made from CT",
    "no_pixels": "no pixel data",
    "unsupported_syntax": "a transfer syntax that no codec here decodes",
    "truncated": "the file or a compressed frame ends before what it declares does",
    "overlong": "a row, column or frame more than declared: header and pixels disagree",
    "corrupt": "elements that are missing, malformed, or contradict each other or the pixels",
    "too_large": "above the limits that keep one file from taking all memory",
    "color": "more than one sample per pixel, or a palette",
    "localizer": "a scout view, not a slice",
    "not_axial": "a coronal, sagittal or oblique slice, more than 45 degrees from axial",
    "derived": "a projection, rendering, map or subtraction, not what a slice measures",
    "contrast": "contrast medium was given",
    "not_head": "another part of the body",
    "no_id": "no SOP instance, series or study UID",
    "no_rescale": "no rescale slope and intercept: HU are unknown",
    "not_hu": "rescaled to another unit, as perfusion maps are",
    "ambiguous": "slices at the same position that nothing in the headers tells apart",
    "no_spacing": "no pixel spacing, which its series has and which is asked for",
    "implausible_hu": "values that are not Hounsfield units: air or tissue is not where it belongs",
    "sharp_kernel": "reconstructed for bone: too noisy for the brain",
}
"""Every status of a rejected file, with its meaning."""

NOT_WANTED = frozenset(
    ("not_ct", "no_pixels", "color", "not_hu", "localizer")
    + ("not_axial", "derived", "contrast", "not_head", "sharp_kernel")
)
"""Statuses of sound files that are not asked for: nothing is missing where they are left out."""


class RejectedFile(Exception):
    """A file that yields no CT image.

    Args:
        status: a key of STATUSES.
        reason: what is wrong with this file, on one line; holds no patient data and no path.
    """

    def __init__(self, status: str, reason: str) -> None:
        assert status in STATUSES, status
        super().__init__(status, reason)
        self.status = status
        self.reason = " ".join(reason.split())

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"
