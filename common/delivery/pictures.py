"""The result of a study as images: key slices with a heat map, and the map itself."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import cv2
import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from common.delivery.headers import SourceSlice, Undeliverable, visible
from common.delivery.reports import StudyResult
from common.dicom.geometry import slice_normal
from common.report.overlay import overlay

PICTURES, MAP = "heat_map", "parametric_map"
WHERE_LOOKED = "where the network looked"
_FONT, _FONT_SCALE, _LINE_PIXELS = cv2.FONT_HERSHEY_SIMPLEX, 0.4, 16
_MARGIN = 4


def secondary_captures(
    result: StudyResult,
    images_hu: Sequence[NDArray[Any]],
    maps: Sequence[NDArray[np.float32]],
    captions: Sequence[str],
    description: str,
) -> list[Dataset]:
    """Return a color image of each key slice, in the plane of its source.

    Args:
        images_hu: HU (rows, columns) of each key slice, as its file has them.
        maps: 0 to 1 (rows, columns), on the same pixels.
        captions: a line for each, that is burnt in below the slice with the notice.
        description: how the maps came about.
    """
    author = result.author
    pictures: list[Dataset] = []
    legend = f"Color: {WHERE_LOOKED}, not the outline of a lesion"
    for number, (one, image_hu, heat, caption) in enumerate(
        zip(result.key_slices, images_hu, maps, captions, strict=True), start=1
    ):
        rgb = with_text(overlay(image_hu, heat), (author.notice, caption, legend, author.model))
        picture = hd.sc.SCImage.from_ref_dataset(
            one.header,
            pixel_array=rgb,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=_directions(one),
            pixel_spacing=one.header.get("PixelSpacing"),
            sop_instance_uid=result.identity.uid("instance", PICTURES, str(number)),
            instance_number=number,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **result.series(PICTURES, 9004, WHERE_LOOKED),
        )
        if "ImageOrientationPatient" not in one.header:
            # highdicom asks for an orientation, but nobody knows it.
            picture["PatientOrientation"].value = None
        picture.BurnedInAnnotation = "NO"  # none that names the patient (PS3.3 C.7.6.1)
        picture.DerivationDescription = visible(description, 1024)
        picture.SourceImageSequence = [_source(one)]
        _copy_plane(one, picture)
        author.mark_image(picture)
        pictures.append(picture)
    return pictures


def parametric_map(result: StudyResult, maps: Sequence[NDArray[np.float32]]) -> Dataset:
    """Return the maps, one on the pixels of each slice of the volume, as float32.

    Raises:
        Undeliverable: the slices are not at places of their own in one frame of reference.
    """
    author, slices = result.author, result.slices
    if not all(one.has_plane for one in slices):
        raise Undeliverable("slices without a position in a frame of reference")
    sources = [_as_single_frame(one, number) for number, one in enumerate(slices)]
    for source in sources:  # a volume may lie in several series
        source.SeriesInstanceUID = slices[0].header.SeriesInstanceUID
    _give_thickness(sources)
    try:
        made: Dataset = hd.pm.ParametricMap(
            sources,
            np.stack(maps).astype(np.float32),
            sop_instance_uid=result.identity.uid("instance", MAP),
            instance_number=1,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                hd.pm.RealWorldValueMapping(
                    lut_label="HEAT MAP",
                    lut_explanation=WHERE_LOOKED,
                    unit=codes.UCUM.NoUnits,
                    value_range=(0.0, 1.0),
                    slope=1.0,
                    intercept=0.0,
                    quantity_definition=codes.DCM.ClassActivation,
                )
            ],
            voi_lut_transformations=[hd.VOILUTTransformation(0.5, 1.0, WHERE_LOOKED)],
            content_description=author.describe(WHERE_LOOKED),
            **result.series(MAP, 9005, WHERE_LOOKED),
        )
    except ValueError as error:  # two slices at one place, or of different planes
        raise Undeliverable(f"no map of these slices: {visible(str(error), 120)}") from error
    made.BodyPartExamined = author.body_part
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = result.identity.uid("dimensions")
    _refer_to_files(made, slices)
    return made


def with_text(rgb: NDArray[np.uint8], texts: Sequence[str]) -> NDArray[np.uint8]:
    """Return an image with texts on black below it, so that they hide nothing of it."""
    width = rgb.shape[1] - 2 * _MARGIN
    lines = [line for text in texts for line in _wrapped(text, width)]
    band = np.zeros((_LINE_PIXELS * len(lines) + 2 * _MARGIN, rgb.shape[1], 3), np.uint8)
    for number, line in enumerate(lines, start=1):
        place = (_MARGIN, _LINE_PIXELS * number)
        cv2.putText(band, line, place, _FONT, _FONT_SCALE, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([rgb, band])


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of at most `width` pixels; one word may be wider."""
    lines: list[str] = []
    for word in text.encode("ascii", "replace").decode().split():
        longer = f"{lines[-1]} {word}" if lines else word
        fits = cv2.getTextSize(longer, _FONT, _FONT_SCALE, 1)[0][0] <= width
        lines[-1:] = [longer] if fits or not lines else [lines[-1], word]
    return lines


def _directions(one: SourceSlice) -> tuple[str, str]:
    """Return where rows and columns of a slice lead, as PatientOrientation has it."""
    cosines = np.reshape(one.header.get("ImageOrientationPatient", _AXIAL), (2, 3)).astype(float)
    places = np.abs(cosines).argmax(axis=1)
    row, column = (
        ("RL", "AP", "FH")[place][int(each[place] > 0)] for each, place in zip(cosines, places)
    )
    return row, column


_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _reference(one: SourceSlice) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = one.header.SOPClassUID
    item.ReferencedSOPInstanceUID = one.header.SOPInstanceUID
    if one.frame is not None:
        item.ReferencedFrameNumber = one.frame
    return item


def _source(one: SourceSlice) -> Dataset:
    """Return a reference to the slice that an image was made from."""
    item = _reference(one)
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    item.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(purpose)]
    return item


def _copy_plane(one: SourceSlice, picture: Dataset) -> None:
    """Put an image where its source is: the text below leaves the first pixel where it was."""
    if not one.has_plane:
        return
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        picture[keyword] = one.header[keyword]
    picture.PositionReferenceIndicator = ""
    picture.SliceThickness = one.header.get("SliceThickness")


def _as_single_frame(one: SourceSlice, number: int) -> Dataset:
    """Return the header of a slice as that of a file of its own, which highdicom takes."""
    header = deepcopy(one.header)
    header.SOPClassUID = CTImageStorage
    header.SOPInstanceUID = _place_uid(number)
    return header


def _give_thickness(headers: Sequence[Dataset]) -> None:
    """Fill in a thickness where the source has none: the usual gap between the slices."""
    normal = slice_normal([float(value) for value in headers[0].ImageOrientationPatient])
    places = np.sort([np.dot(normal, np.float64(one.ImagePositionPatient)) for one in headers])
    usual_mm = float(np.median(np.diff(places))) if len(places) > 1 else 1.0
    for header in headers:
        header.ImageOrientationPatient = headers[0].ImageOrientationPatient
        if "SliceThickness" not in header:
            header.SliceThickness = f"{max(usual_mm, 0.001):.4f}"


def _refer_to_files(made: Dataset, slices: Sequence[SourceSlice]) -> None:
    """Replace the references to `_as_single_frame` by those to the files and their frames."""
    by_uid = {_place_uid(number): one for number, one in enumerate(slices)}
    for groups in (*made.SharedFunctionalGroupsSequence, *made.PerFrameFunctionalGroupsSequence):
        for derivation in groups.get("DerivationImageSequence", ()):
            for item in derivation.SourceImageSequence:
                item.update(_reference(by_uid[item.ReferencedSOPInstanceUID]))
    files = {one.header.SOPInstanceUID: replace(one, frame=None) for one in slices}
    made.SourceImageSequence = [_reference(one) for one in files.values()]
    series = {one.header.SeriesInstanceUID: Dataset() for one in files.values()}
    for uid, item in series.items():
        own = [one for one in files.values() if one.header.SeriesInstanceUID == uid]
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = [_reference(one) for one in own]
    made.ReferencedSeriesSequence = list(series.values())


def _place_uid(number: int) -> UID:
    return UID(f"2.25.{number + 1}")
