"""The result of a study as documents: for machines (TID 1500), for people, and its key images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import RelationshipTypeValues, TextContentItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from common.delivery.author import Author
from common.delivery.headers import SourceSlice
from common.delivery.identity import Identity
from common.slices.series import USUAL_SPACING_MM

MACHINE, TEXT, KEYS = "measurements", "report", "key_images"
"""Kinds of documents; the names of their files too."""
NUM_KEYS = 5
_IMAGING_REPORT = Code("18748-4", "LN", "Diagnostic Imaging Report")
_KEY_DESCRIPTION = Code("113012", "DCM", "Key Object Description")
_SOURCE = Code("260753009", "SCT", "Source")
_CONTAINED = RelationshipTypeValues.CONTAINS


@dataclass(frozen=True)
class Finding:
    """The probability of one label in a study.

    Attributes:
        name: what people read.
        finding, site: codes; no site where the finding has it in itself.
        probability: 0 to 1.
        is_present: the call at an operating point; None where there is none.
        evidence: the slice with the highest probability of the label.
    """

    name: str
    finding: Code
    site: Code | None
    probability: float
    is_present: bool | None
    evidence: SourceSlice

    @property
    def percent(self) -> float:
        """The probability in percent, as documents have it: never 0 or 100 by rounding."""
        return min(max(round(100 * self.probability, 4), 0.0001), 99.9999)

    @property
    def sentence(self) -> str:
        calls = {True: ", called present", False: ", called absent", None: ""}
        return f"{self.name}: probability {percent_text(self.probability)}{calls[self.is_present]}."


@dataclass(frozen=True)
class StudyResult:
    """What is delivered of a study.

    Attributes:
        slices: of the volume that was used, in anatomical order.
        keys: places in `slices` of those to look at, ascending.
        summary: sentences on the study: how much of it was seen.
        procedure: code of the examination.
        subject: what the probabilities are of, in a word or two.
        author, identity: what made the objects, and their UIDs.
        predecessors: by kind the document of this study that the new one replaces, as values by
            keyword: SOPClassUID, SeriesInstanceUID and SOPInstanceUID.
    """

    slices: Sequence[SourceSlice]
    keys: Sequence[int]
    findings: Sequence[Finding]
    summary: Sequence[str]
    procedure: Code
    subject: str
    author: Author
    identity: Identity
    predecessors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def key_slices(self) -> list[SourceSlice]:
        return [self.slices[place] for place in self.keys]

    def series(self, kind: str, number: int, what: str) -> dict[str, Any]:
        """Return the arguments of a series of results that constructors of highdicom take."""
        return {
            "series_instance_uid": self.identity.uid("series", kind),
            "series_number": number,
            "series_description": self.author.describe(what),
            **self.author.made(),
        }


def percent_text(p: float) -> str:
    """Return a probability in percent for people; what is rounded does not become certain."""
    text = f"{100 * p:.2f} %"
    return {"0.00 %": "under 0.01 %", "100.00 %": "over 99.99 %"}.get(text, text)


def key_places(p: NDArray[np.float64], positions_mm: NDArray[np.float64]) -> list[int]:
    """Return the places of the slices to look at, ascending: the highest probabilities.

    They lie the usual spacing of head CT apart, so that they are not five of one place in a volume
    of thin slices.

    Args:
        p: (n,) probabilities.
        positions_mm: (n,), NaN where unknown.
    """
    chosen: list[int] = []
    for place in np.argsort(-p, kind="stable").tolist():
        away_mm = np.abs(positions_mm[chosen] - positions_mm[place])
        if len(chosen) < NUM_KEYS and not (away_mm < 0.8 * USUAL_SPACING_MM).any():
            chosen.append(place)
    return sorted(chosen)


def measurement_report(result: StudyResult) -> Dataset:
    """Return a Comprehensive 3D SR by TID 1500: a group for each label, in percent.

    Certainty of Finding is the measurement that TID 4104 has for it, too. A group refers to the
    slice with the highest probability.
    """
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=result.author.observer()
        ),
        procedure_reported=result.procedure,
        imaging_measurements=[_group(result, finding) for finding in result.findings],
    )
    # TID 1500 can be extended; comments are for whoever reads the document by a program alone.
    report[0].ContentSequence.extend(_comments(result))
    return _document(result, hd.sr.Comprehensive3DSR, report[0], MACHINE, 9001, "probabilities")


def text_report(result: StudyResult) -> Dataset:
    """Return an Enhanced SR of plain text, which viewers show that show no TID 1500."""
    root = hd.sr.ContainerContentItem(name=_IMAGING_REPORT)
    findings = hd.sr.ContainerContentItem(name=codes.DCM.Findings, relationship_type=_CONTAINED)
    findings.ContentSequence = hd.sr.ContentSequence(
        [TextContentItem(codes.DCM.Finding, one.sentence, _CONTAINED) for one in result.findings]
    )
    notice, *others = _comments(result)
    root.ContentSequence = hd.sr.ContentSequence([notice, findings, *others])
    return _document(result, hd.sr.EnhancedSR, root, TEXT, 9002, "report in words")


def key_objects(result: StudyResult) -> Dataset:
    """Return a Key Object Selection of the key slices."""
    what = (
        f"The slices with the highest probabilities of {result.subject} by a network, whatever "
        f"these are. "
    )
    # highdicom's template refers to whole files: of multi-frame ones some frames are meant.
    root = hd.sr.ContainerContentItem(name=codes.DCM.OfInterest, template_id="2010")
    root.ContentSequence = hd.sr.ContentSequence(
        [
            *result.author.observer(),
            TextContentItem(_KEY_DESCRIPTION, what + result.author.statement, _CONTAINED),
            *(_image(one) for one in result.key_slices),
        ]
    )
    return hd.ko.KeyObjectSelectionDocument(
        evidence=_headers(result.key_slices),
        content=hd.ko.KeyObjectSelection.from_sequence([root], is_root=True),
        sop_instance_uid=result.identity.uid("instance", KEYS),
        instance_number=1,
        **result.series(KEYS, 9003, "key images"),
    )


def _image(one: SourceSlice) -> hd.sr.ImageContentItem:
    return hd.sr.ImageContentItem(
        name=_SOURCE,
        referenced_sop_class_uid=one.header.SOPClassUID,
        referenced_sop_instance_uid=one.header.SOPInstanceUID,
        referenced_frame_numbers=one.frame,
        relationship_type=_CONTAINED,
    )


def _document(
    result: StudyResult, kind_of_sr: Any, root: Dataset, kind: str, number: int, what: str
) -> Dataset:
    previous = []
    if kind in result.predecessors:
        previous = [Dataset()]
        previous[0].StudyInstanceUID = result.slices[0].header.StudyInstanceUID
        for keyword, value in result.predecessors[kind].items():
            setattr(previous[0], keyword, value)
    document: Dataset = kind_of_sr(
        evidence=_headers(result.slices),
        content=root,
        sop_instance_uid=result.identity.uid("instance", kind),
        instance_number=1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=previous or None,
        **result.series(kind, number, f"{result.subject}, {what}"),
    )
    return document


def _headers(slices: Sequence[SourceSlice]) -> list[Dataset]:
    return list({one.header.SOPInstanceUID: one.header for one in slices}.values())


def _group(result: StudyResult, finding: Finding) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    author, evidence = result.author, finding.evidence
    calls = []
    if finding.is_present is not None:
        value = codes.SCT.Present if finding.is_present else codes.SCT.Absent
        calls.append(hd.sr.QualitativeEvaluation(codes.DCM.PresenceOfProperty, value))
    certainty = hd.sr.Measurement(
        name=codes.DCM.CertaintyOfFinding,
        value=finding.percent,
        unit=codes.UCUM.Percent,
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=author.model, version=author.weights_sha256, parameters=[author.notice]
        ),
    )
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            identifier=finding.name, uid=result.identity.uid("tracking", finding.name)
        ),
        finding_type=finding.finding,
        finding_sites=None if finding.site is None else [hd.sr.FindingSite(finding.site)],
        measurements=[certainty],
        qualitative_evaluations=calls or None,
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(
                evidence.header.SOPClassUID,
                evidence.header.SOPInstanceUID,
                None if evidence.frame is None else [evidence.frame],
            )
        ],
    )


def _comments(result: StudyResult) -> list[TextContentItem]:
    texts = (result.author.notice, *result.author.facts, *result.summary)
    return [TextContentItem(codes.DCM.Comment, text, _CONTAINED) for text in texts]
