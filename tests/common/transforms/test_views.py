"""Views are what numpy says, reach the network, and are averaged as asked for."""

import numpy as np
import pytest
import torch
from predictor_factory import build_network, make_dataset, make_predictor, small_transform
from scipy.special import expit

from common.errors import InputError
from common.predictors.base import PredictOptions
from common.predictors.slices import SlicePredictor
from common.scoring.predictions import mean_logits
from common.slices.table import SliceTable
from common.transforms.views import VIEWS, ViewTransform, apply_view, view_names

SAMPLE = np.arange(24 * 16 * 3, dtype=np.int16).reshape(24, 16, 3)
BY_NUMPY = {
    "plain": SAMPLE,
    "flip_lr": np.fliplr(SAMPLE),
    "flip_ud": np.flipud(SAMPLE),
    "rot90": np.rot90(SAMPLE),
    "rot180": np.rot90(SAMPLE, 2),
    "rot270": np.rot90(SAMPLE, 3),
    "transpose": SAMPLE.transpose(1, 0, 2),
    "transverse": np.rot90(SAMPLE, 2).transpose(1, 0, 2),
    "swap": np.flip(SAMPLE, 2),
    "crop_tl": SAMPLE[:21, :14],
    "crop_tr": SAMPLE[:21, 2:],
    "crop_bl": SAMPLE[3:, :14],
    "crop_br": SAMPLE[3:, 2:],
    "crop_center": SAMPLE[1:22, 1:15],
}


class Invariant(torch.nn.Module):
    """Sees the mean and the largest pixel of each channel: no flip or rotation changes them."""

    def forward(self, images):
        flat = images.flatten(2)
        values = torch.cat([flat.mean(2), flat.amax(2)], dim=1)
        return values[:, :6]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> SliceTable:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


def predicted(predictor: SlicePredictor, table: SliceTable, **options) -> np.ndarray:
    return predictor.predict_rows(
        table, np.flatnonzero(table.readable)[:12], PredictOptions(**options)
    ).logits


def test_each_view_is_what_numpy_says():
    assert set(BY_NUMPY) == set(VIEWS)
    for view, expected in BY_NUMPY.items():
        found = apply_view(view, SAMPLE)
        np.testing.assert_array_equal(found, expected, err_msg=view)
        assert found.flags.c_contiguous and found.dtype == np.int16
    assert len({apply_view(view, SAMPLE).tobytes() for view in VIEWS}) == len(VIEWS)


def test_names_and_sets():
    assert view_names(None) == ("plain",)
    assert view_names("rot90, flip_lr", 2) == ("plain", "rot90", "flip_lr", "random_1", "random_2")
    assert view_names("d4") == tuple(view for view in VIEWS[:8])
    assert view_names("plain,flip,flip_lr") == ("plain", "flip_lr")
    with pytest.raises(InputError, match="mirror is no view; there are plain, flip_lr"):
        view_names("mirror")


def test_d4_does_not_change_what_an_invariant_network_says(table):
    predictor = make_predictor(network=Invariant())
    plain = predicted(predictor, table)
    np.testing.assert_allclose(
        predicted(predictor, table, views=view_names("d4")), plain, atol=1e-4
    )
    # It does see the difference that a crop makes, and an ordinary network that of a flip.
    assert np.abs(predicted(predictor, table, views=("crop_tl",)) - plain).max() > 1e-3
    ordinary = make_predictor()
    flipped = predicted(ordinary, table, views=("flip_ud",))
    assert np.abs(flipped - predicted(ordinary, table)).max() > 1e-4


@pytest.mark.parametrize("view", ["flip_lr", "rot90", "transverse", "crop_br"])
def test_a_view_is_made_of_the_hu_before_the_transform(table, view):
    predictor = make_predictor()
    predictor.network.eval()
    row = int(np.flatnonzero(table.readable)[3])
    image_hu = apply_view(view, table.image_hu(row)[:, :, None])
    with torch.inference_mode():
        image = torch.from_numpy(small_transform()(image_hu, 0))
        expected = predictor.network(image[None])[0].numpy()
    found = predictor.predict_rows(table, [row], PredictOptions(views=(view,))).logits[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_rows_of_a_turned_view_lie_as_far_apart_as_its_columns_did(view: str) -> None:
    seen = []

    def transform(image_hu: np.ndarray, *known: object) -> np.ndarray:
        seen.append((image_hu.shape, known))
        return image_hu

    ViewTransform(view, transform)(SAMPLE, 4, None, (1.0, 2.0, 5.0))
    [(shape, known)] = seen
    is_turned = shape[0] < shape[1]
    assert known == (4, None, (2.0, 1.0, 5.0) if is_turned else (1.0, 2.0, 5.0))


def test_swap_needs_neighbours(table):
    rows = [int(row) for row in np.flatnonzero(table.readable)[:4]]
    with pytest.raises(InputError, match="swap: the images of this network have no neighbours"):
        make_predictor().predict_rows(table, rows, PredictOptions(views=("swap",)))


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_views_are_averaged_as_asked_for(table, mean):
    predictor = make_predictor()
    views = ("plain", "flip_ud", "rot90")
    parts = np.array([predicted(predictor, table, views=(view,)) for view in views], np.float64)
    together = predicted(predictor, table, views=views, mean=mean)
    if mean == "logits":
        np.testing.assert_allclose(together, parts.mean(axis=0), atol=1e-6)
    else:
        np.testing.assert_allclose(expit(together), expit(parts).mean(axis=0), atol=1e-6)


def test_certain_probabilities_have_a_finite_mean():
    certain = np.array([[800.0, -800.0]])
    assert np.isfinite(mean_logits([certain, certain], "probabilities")).all()
    assert mean_logits([[[30.0]], [[-30.0]]], "probabilities")[0, 0] == pytest.approx(0, abs=1e-9)


def test_random_views_are_those_of_num_views_and_seeded_by_the_image(table):
    predictor = make_predictor()
    named = predicted(predictor, table, views=("plain", "random_1", "random_2"), seed=4)
    np.testing.assert_array_equal(
        named, predicted(predictor, table, views=("plain", "random_1", "random_2"), seed=4)
    )
    rows = np.flatnonzero(table.readable)[:12]
    alone = predictor.predict_rows(
        table, rows[7:8], PredictOptions(views=("random_2",), seed=4)
    ).logits[0]
    among = predictor.predict_rows(
        table, rows[::-1], PredictOptions(views=("random_2",), seed=4)
    ).logits[::-1][7]
    np.testing.assert_allclose(alone, among, rtol=1e-5, atol=1e-6)


def test_swap_is_the_neighbours_in_reverse_order(table):
    network = build_network({"in_chans": 9, "num_classes": 6, "seed": 5})
    predictor = make_predictor(network=network, slice_offsets=(-1, 0, 1))
    reverse = make_predictor(network=network, slice_offsets=(1, 0, -1))
    swapped = predicted(predictor, table, views=("swap",))
    np.testing.assert_array_equal(swapped, predicted(reverse, table))
    assert np.abs(swapped - predicted(predictor, table)).max() > 1e-4
