"""What made a set of objects, and what each of them says about it."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from common.delivery.headers import visible


def quiet_highdicom() -> None:
    """Silence highdicom's log and warnings, which quote UIDs and names of patients."""
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"highdicom(\.|$)")  # once, however often called


@dataclass(frozen=True)
class Author:
    """The software and model that made a set of objects.

    Attributes:
        manufacturer, model: names, at most 64 characters.
        versions: of the software, at most 64 characters each.
        weights_sha256: of the model.
        device_uid: of the model, as an observer: another one for other weights.
        mark: the research notice in few words, for series descriptions, which have 64 characters.
        facts: what else each object says: model, weights, calibration, operating point.
        body_part: BodyPartExamined.
    """

    manufacturer: str
    model: str
    versions: Sequence[str]
    weights_sha256: str
    device_uid: str
    mark: str
    notice: str
    facts: Sequence[str]
    body_part: str

    @property
    def statement(self) -> str:
        """The notice and the facts, at most 1,024 characters: a short text (ST)."""
        return visible(" ".join((self.notice, *self.facts)), 1024)

    def describe(self, what: str) -> str:
        """Return a description with the mark in front, at most 64 characters."""
        return visible(f"{self.mark}: {what}")

    def equipment(self) -> hd.ContributingEquipment:
        """Return the item of ContributingEquipmentSequence that every object has."""
        return hd.ContributingEquipment(
            manufacturer=self.manufacturer,
            manufacturer_model_name=self.model,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            software_versions=list(self.versions),
            device_serial_number=self.weights_sha256,
            contribution_description=self.statement,
        )

    def observer(self) -> hd.sr.ObserverContext:
        """Return the model as the observer of a report."""
        return hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=self.device_uid,
                name=self.model,
                manufacturer_name=self.manufacturer,
                model_name=self.model,
                serial_number=self.weights_sha256,
            ),
        )

    def made(self) -> dict[str, object]:
        """Return the arguments about the software that all constructors of highdicom take."""
        return {
            "manufacturer": self.manufacturer,
            "manufacturer_model_name": self.model,
            "software_versions": tuple(self.versions),
            "device_serial_number": self.weights_sha256,
            "contributing_equipment": [self.equipment()],
        }

    def mark_image(self, image: Dataset) -> None:
        """Write the statement and the body part into an image that has a General Image module."""
        image.ImageComments = self.statement
        image.BodyPartExamined = self.body_part
