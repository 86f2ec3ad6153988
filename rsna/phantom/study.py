"""Patients and their studies: types of hemorrhage, and labelled slices."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsna.phantom.anatomy import Body, build_head
from rsna.phantom.lesions import PAINTERS
from rsna.phantom.mimics import paint_mimics
from rsna.phantom.scanner import Pose, Protocol, degrade, draw_pose, sample
from rsna_task import SUBTYPES

Rng = np.random.Generator

# A slice is labelled when the blood in it covers this area (mm²): a reader misses a sliver along
# the skull or a trace in a sulcus sooner than a spot in the brain.
MIN_AREA_MM2 = {
    "epidural": 130.0,
    "intraparenchymal": 30.0,
    "intraventricular": 30.0,
    "subarachnoid": 70.0,
    "subdural": 120.0,
}
VISIBLE_SHARE = 0.4
LOWEST_HU, HIGHEST_HU = -1024.0, 3071.0

# Which types bleed together, as often as the training of all five types needs, not as in life.
# Those that push the brain aside come first: what was painted before would not move with it.
PLANS: tuple[tuple[str, ...], ...] = (
    (),
    (),
    (),
    (),
    ("epidural",),
    ("epidural",),
    ("epidural",),
    ("epidural", "subarachnoid"),
    ("epidural", "intraparenchymal"),
    ("intraparenchymal",),
    ("intraparenchymal",),
    ("intraparenchymal", "intraventricular"),
    ("subdural", "intraparenchymal"),
    ("intraventricular",),
    ("intraventricular",),
    ("intraventricular", "subarachnoid"),
    ("subarachnoid",),
    ("subdural",),
    ("subdural",),
    ("subdural", "subarachnoid"),
)


@dataclass(frozen=True)
class Study:
    """One labelled CT series.

    Attributes:
        image_hu: int16 (slices, rows, columns), from the neck to the vertex.
        labels: bool (slices, 5), in the order of `rsna_task.SUBTYPES`.
        is_blood: bool (slices, rows, columns), the pixels in which blood can be seen.
    """

    image_hu: NDArray[np.int16]
    labels: NDArray[np.bool_]
    protocol: Protocol
    is_blood: NDArray[np.bool_]


def plan_of(patient: int, seed: int) -> tuple[str, ...]:
    """Return the hemorrhage types of a patient: every twenty patients get each plan once."""
    deck, place = divmod(patient, len(PLANS))
    order = np.random.default_rng([seed, 11, deck]).permutation(len(PLANS))
    return PLANS[order[place]]


def num_studies_of(patient: int, seed: int) -> int:
    """Return how many studies a patient has: mostly one, up to three."""
    rng = np.random.default_rng([seed, 12, patient])
    return int(rng.choice((1, 2, 3), p=(0.84, 0.12, 0.04)))


def generate_study(patient: int, study: int, seed: int, matrix: int = 256) -> Study:
    """Return a study of a patient; the same arguments give the same bytes.

    The studies of a patient share the body, and the later ones mostly the bleeds of the first.

    Args:
        patient, study: their numbers from 0.
        matrix: rows and columns of the slices.
    """
    shape_rng = np.random.default_rng([seed, 1, patient])
    study_rng = np.random.default_rng([seed, 2, patient, study])
    body = Body.draw(shape_rng)
    bleeds = plan_of(patient, seed)
    if "intraventricular" in bleeds:
        wider = body.ventricle_mm + shape_rng.uniform(0.5, 2.0)
        body = dataclasses.replace(body, ventricle_mm=wider)
    pose = draw_pose(shape_rng, study_rng)
    head = build_head(body, np.random.default_rng([seed, 3, patient]))
    lesions = []
    for number, bleed in enumerate(bleeds):
        if study and study_rng.random() < 0.15:
            continue  # gone at the follow-up
        lesions += PAINTERS[bleed](head, np.random.default_rng([seed, 4, patient, number]))
    paint_mimics(head, np.random.default_rng([seed, 5, patient]))

    protocol = draw_protocol(pose, matrix, study_rng)
    slices_hu, *shares = sample(head.hu(), [bleed.share for bleed in lesions], pose, protocol)
    area_mm2 = np.zeros((len(slices_hu), len(SUBTYPES)))
    is_blood = np.zeros(slices_hu.shape, dtype=bool)
    for lesion, share in zip(lesions, shares):
        seen = np.where(share > VISIBLE_SHARE, share, 0)
        is_blood |= share > VISIBLE_SHARE
        area = seen.sum(axis=(1, 2), dtype=np.float64) * protocol.spacing**2
        area_mm2[:, SUBTYPES.index(lesion.label)] += area
    slices_hu = degrade(slices_hu, protocol, study_rng)
    image_hu = np.rint(np.clip(slices_hu, LOWEST_HU, HIGHEST_HU)).astype(np.int16)
    smallest = [MIN_AREA_MM2[label] for label in SUBTYPES]
    return Study(image_hu, area_mm2 >= smallest, protocol, is_blood)


def draw_protocol(pose: Pose, matrix: int, rng: Rng) -> Protocol:
    """Return a random protocol that covers the head from the foramen magnum to the vertex."""
    tilt = float(rng.choice((0.0, rng.uniform(5, 22), rng.uniform(-8, -2)), p=(0.5, 0.42, 0.08)))
    thick, thin = rng.choice(((5.0, 5.0), (5.0, 2.5), (6.0, 6.0)), p=(0.75, 0.15, 0.1))
    fov = rng.uniform(222, 252)
    to_patient = np.linalg.inv(pose.matrix)
    bottom = (to_patient @ (np.array([0.0, -20.0, rng.uniform(-72, -50)]) - pose.center))[2]
    top = (to_patient @ (np.array([0.0, -20.0, rng.uniform(76, 86)]) - pose.center))[2]
    heights, thickness = [bottom], [thin]
    while heights[-1] < top and len(heights) < 40:
        # Some protocols scan the posterior fossa in thin slices.
        step = thin if heights[-1] < bottom + 35 else thick
        heights.append(heights[-1] + step / np.cos(np.deg2rad(tilt)))
        thickness.append(step)
    corner = -fov / 2 + rng.normal(0, 4, 2)
    cos, sin = np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))
    # The gantry turns about the isocenter; the table moves along z.
    positions = [(corner[0], corner[1] * cos, z - corner[1] * sin) for z in heights]
    return Protocol(
        positions=np.array(positions),
        tilt_deg=tilt,
        spacing=float(fov / matrix),
        matrix=matrix,
        thickness_mm=np.array(thickness),
        noise_hu=float(rng.uniform(2.5, 5.5)),
        kernel_px=float(rng.uniform(0.35, 0.7)),
        offset_hu=float(rng.normal(0, 2.0)),
        streaks=float(rng.uniform(0.2, 1.0)),
        head_rest=bool(rng.random() < 0.7),
    )
