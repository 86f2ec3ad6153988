"""Heat maps of predictors, from files to files: a network that sees spots shows where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from predictor_factory import make_dataset, make_predictor
from spot_network import SpotNetwork, node, spot_predictor
from turned_heads import write_head

from common.dicom.upright import TURNS, Turn
from common.ensembling.blending import Blender, BlendOptions
from common.ensembling.smoothing import Smoothing
from common.errors import InputError
from common.models import build_series_model
from common.predictors.base import AbstractPredictor, PredictOptions
from common.predictors.blend import BlendPredictor
from common.predictors.folds import FoldsPredictor
from common.predictors.heat_maps import _NetworkMaps, _scale, heat_maps, slice_networks
from common.predictors.second_level import SecondLevelPredictor
from common.predictors.sequence import StudyPredictor
from common.predictors.series import BagPredictor, JointPredictor, VolumePredictor
from common.predictors.slices import SlicePredictor
from common.preparation import prepare_dataset
from common.slices.pixel_steps import PixelSteps
from common.slices.source_grid import SourceGrid, source_grids
from common.slices.table import SliceTable
from rsna.sources.dicom import DicomSource
from rsna_task import LABEL_WEIGHTS, LABELS

ANY = len(LABELS) - 1


PIPELINES: tuple[list[dict[str, Any]], ...] = (
    [node("Resize", height=128, width=128, area_for_downscale="image")],
    [node("HorizontalFlip"), node("Resize", height=160, width=96)],
    [node("Transpose"), node("Pad", padding=12), node("Resize", height=144, width=160)],
    [node("FieldOfView", field_mm_range=[150, 150]), node("VerticalFlip"),
     node("Resize", height=192, width=192)],
    [node("LongestMaxSize", max_size=150), node("PadIfNeeded", min_height=160, min_width=160),
     node("CenterCrop", height=144, width=144)],
)  # fmt: skip
STEPS = (
    PixelSteps(),
    PixelSteps(head_crop=True, size=140),
    PixelSteps(spacing_mm=1.0),
    PixelSteps(spacing_mm=0.8, size=200),
    PixelSteps(brain_crop=True),
)


@pytest.mark.parametrize("number, turn", enumerate(TURNS))
def test_maps_lie_on_the_pixels_of_the_file(tmp_path: Path, number: int, turn: Turn) -> None:
    """Turned, tilted, anisotropic files; steps; pipelines: the peak is where the spot started."""
    places = write_head(tmp_path / "in", turn, (0.0, 14.0)[number % 2], [0.9, 1.1])
    steps = STEPS[number % len(STEPS)]
    prepare_dataset(DicomSource(tmp_path / "in"), tmp_path / "out", n_jobs=0, steps=steps)
    table = SliceTable.load(tmp_path / "out")
    rows = np.flatnonzero(table.readable)
    wanted = [places[int(table.image_id(row)[-1])] for row in rows]
    for nodes in PIPELINES:
        predictor = spot_predictor(*nodes)
        maps = heat_maps(predictor, table, rows)
        dataset = predictor.dataset(table, rows, "plain", PredictOptions())
        for index, (place, grid) in enumerate(zip(wanted, source_grids(table, rows), strict=True)):
            found = maps[index]
            assert found.shape == (160, 150) and found.dtype == np.float32
            assert found.min() >= 0 and 0 < found.max() <= maps.probabilities.max() + 1e-6
            peak = np.unravel_index(found.argmax(), found.shape)
            assert np.abs(np.subtract(peak, place)).max() <= 0.5 * maps.resolution(index) + 1.5
            # What the network saw, as a map of the size of its input, comes back to the pixel.
            seen = dataset[index]["image"][0].numpy()
            matrix = maps._of_networks[0].matrices[index]
            back = grid.map_back(seen, matrix)
            bright = np.argwhere(back > 0.5 * back.max())
            assert np.abs(bright.mean(axis=0) - place).max() <= 1.0


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SliceTable:
    folder = tmp_path_factory.mktemp("heads")
    write_head(folder / "in", (False, False, False), 0.0, [1.0, 1.0])
    prepare_dataset(DicomSource(folder / "in"), folder / "out", n_jobs=0)
    return SliceTable.load(folder / "out")


def test_a_study_has_one_scale_and_slices_their_probabilities(table: SliceTable) -> None:
    predictor, rows = spot_predictor(), np.arange(3)
    even = heat_maps(predictor, table, rows, probabilities=[0.8] * 3)
    largest = np.array([one.max() for one in even])
    assert largest.max() == pytest.approx(0.8, rel=0.07)
    weighted = heat_maps(predictor, table, rows, probabilities=[0.8, 0.4, 0.0])
    assert not weighted[2].any()
    ratio = weighted[1].max() / weighted[0].max()
    assert ratio == pytest.approx(largest[1] / largest[0] / 2, rel=1e-4)
    own = predictor.predict_rows(table, rows).logits[:, ANY]
    assert heat_maps(predictor, table, rows).probabilities == pytest.approx(1 / (1 + np.exp(-own)))


@pytest.mark.parametrize(("size", "cells"), [((20, 80), (2, 4)), ((80, 20), (4, 2))])
def test_the_resolution_is_the_longer_side_of_a_cell(
    size: tuple[int, int], cells: tuple[int, int]
) -> None:
    maps = _NetworkMaps(1.0, np.zeros((1, *cells), np.float32), size, [np.eye(3)])
    assert maps.cell_width(0, SourceGrid(np.eye(3), size, next(iter(TURNS)))) == 20.0


def test_studies_have_scales_of_their_own() -> None:
    cells = np.array([1.0, 10.0, 5.0, 0.0], np.float32)[:, None, None] * np.ones((4, 2, 3))
    _scale(cells, np.array([0.5, 0.8, 0.4, 0.7]), np.array([0, 1, 1, 2]))
    assert cells[:, 0, 0] == pytest.approx([0.5, 0.8, 0.2, 0.0])


def test_batches_and_order_make_no_difference(table: SliceTable) -> None:
    predictor = spot_predictor()
    whole = heat_maps(predictor, table, [2, 0, 1])
    small = heat_maps(predictor, table, [2, 0, 1], options=PredictOptions(batch_size=1))
    ordered = heat_maps(predictor, table, [0, 1, 2])
    for index, row in enumerate((2, 0, 1)):
        assert np.allclose(whole[index], small[index], atol=1e-6)
        assert np.allclose(whole[index], ordered[row], atol=1e-6)
    assert len(whole) == 3 and len(list(whole)) == 3


def test_evidence_against_a_label_shows_nothing(table: SliceTable) -> None:
    against = spot_predictor(sign=-1.0)
    assert not any(one.any() for one in heat_maps(against, table, [0, 1, 2]))


def test_neighbours_in_other_channels(table: SliceTable) -> None:
    """A network that looks at the slice above shows where the spot lies there."""
    above = spot_predictor(network=SpotNetwork(channel=2), slice_offsets=(-1, 0, 1))
    own = heat_maps(spot_predictor(), table, [1, 2], probabilities=[1, 1])
    peaks = [one.argmax() for one in heat_maps(above, table, [0, 1], probabilities=[1, 1])]
    assert peaks == [one.argmax() for one in own]


def blend_of(*members: AbstractPredictor, weights: tuple[float, ...]) -> BlendPredictor:
    return BlendPredictor(
        label_names=LABELS,
        label_weights=LABEL_WEIGHTS,
        prior=np.full(6, 0.2),
        members=members,
        member_names=[str(number) for number in range(len(members))],
        blender=Blender(BlendOptions(method="weights"), (weights,) * 6, (0.0,) * 6),
    )


def test_what_stands_on_slice_networks(table: SliceTable) -> None:
    rows, ones = np.arange(3), [1.0] * 3
    plain = spot_predictor()
    flipped = spot_predictor(node("HorizontalFlip"), node("Resize", height=160, width=160))
    dark = spot_predictor(sign=-1.0)
    first = heat_maps(plain, table, rows, probabilities=ones)
    folds = heat_maps(FoldsPredictor({0: plain, 1: dark}), table, rows, probabilities=ones)
    assert folds.description == "LayerCAM of any: 2 slice networks"
    for one, other in zip(first, folds, strict=True):
        assert np.allclose(other, one / 2, atol=1e-6)
    both = heat_maps(FoldsPredictor({0: plain, 1: flipped}), table, rows, probabilities=ones)
    assert all(np.abs(np.subtract(*pair)).max() < 0.2 for pair in zip(first, both, strict=True))
    blend = heat_maps(blend_of(plain, dark, weights=(0.75, 0.25)), table, rows, probabilities=ones)
    assert np.allclose(blend[0], 0.75 * first[0], atol=1e-6)
    second = SecondLevelPredictor(
        [blend_of(plain, dark, weights=(1.0, 0.0))],
        {0: Smoothing("uniform", "slices", "logits", (0.0,) * 6)},
        label_names=LABELS,
        label_weights=LABEL_WEIGHTS,
        prior=np.full(6, 0.2),
    )
    maps = heat_maps(second, table, rows, probabilities=ones)
    assert maps.description == (
        "LayerCAM of any: 1 slice network; without what is added by second_level"
    )
    assert np.allclose(maps[1], first[1], atol=1e-6)


def study_of(slices: SlicePredictor) -> StudyPredictor:
    return StudyPredictor(
        label_names=LABELS,
        label_weights=LABEL_WEIGHTS,
        prior=np.full(6, 0.2),
        network=build_series_model({"name": "study-bigru", "num_labels": 6, "dim": 8}).eval(),
        slice_predictors=[slices],
        scalings=[None],
        slice_views=[(("plain",), "logits")],
    )


def test_sequence_networks_have_the_maps_of_their_slice_networks(table: SliceTable) -> None:
    rows, slices = np.arange(3), spot_predictor()
    maps = heat_maps(study_of(slices), table, rows)
    assert maps.description == "LayerCAM of any: 1 slice network; without what is added by study"
    # An untrained sequence network gives the logits of its slice network.
    for one, other in zip(maps, heat_maps(slices, table, rows), strict=True):
        assert np.allclose(one, other, atol=1e-5)
    frozen = spot_predictor()
    for parameter in frozen.network.classifier.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(InputError, match="is a frozen encoder, and the head over it decides"):
        heat_maps(study_of(frozen), table, rows)


@pytest.mark.parametrize("kind", [BagPredictor, JointPredictor, VolumePredictor])
def test_networks_of_whole_series_are_refused_or_left_out(
    table: SliceTable, kind: type[JointPredictor]
) -> None:
    plain = spot_predictor()
    shared = {name: getattr(plain, name) for name in ("label_names", "label_weights", "prior")}
    whole = kind(
        network=plain.network, model={"pooling": "max"}, transform=plain.transform, **shared
    )
    with pytest.raises(InputError, match=rf"^no heat map: this predictor \({kind.kind}\) sees"):
        heat_maps(whole, table, [0])
    networks, others = slice_networks(blend_of(plain, whole, weights=(0.5, 0.5)), ANY)
    assert [share for _, share in networks] == [0.5] and others == [kind.kind]


def test_labels_and_networks_without_a_map_are_refused(table: SliceTable) -> None:
    with pytest.raises(InputError, match="no heat map of 'blood': the predictor knows epidural, "):
        heat_maps(spot_predictor(), table, [0], "blood")
    with pytest.raises(InputError, match="no heat map: Sequential has no layer"):
        heat_maps(make_predictor(), table, [0])
    assert heat_maps(spot_predictor(), table, [0], "subdural").label == "subdural"


def test_a_damaged_slice_has_no_map(tmp_path: Path) -> None:
    damaged = make_dataset(tmp_path, num_patients=1)
    rows = np.flatnonzero(damaged.readable)
    path = damaged.store.folder / "p0r0.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    table = SliceTable(damaged.frame, tmp_path)
    predictor = spot_predictor(node("Resize", height=32, width=32))
    unreadable = predictor.predict_rows(table, rows).unreadable
    assert unreadable.any()
    maps = heat_maps(predictor, table, rows, probabilities=np.ones(len(rows)))
    assert not any(maps[index].any() for index in np.flatnonzero(unreadable))
