import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from series_batches import assert_padding_changes_nothing, padded_series, random_series

from common.errors import InputError
from common.models.volume import MAX_PLANES, VolumeModel, resampling
from rsna_model import build_model


def make_model(**options) -> VolumeModel:
    torch.manual_seed(1)
    model = VolumeModel("volume-resnet10", 6, width=4, **options)
    for block in model.blocks:
        torch.nn.init.ones_(block.norm2.weight)  # they start at zero
    return model


def test_padding_changes_nothing():
    model = make_model()
    model.train()
    model(padded_series(random_series([5, 4], seed=3)))  # statistics other than 0 and 1
    assert_padding_changes_nothing(model)


def test_statistics_are_of_planes_alone():
    states = []
    for filling in (0.0, 50.0):
        model = make_model()
        model.train()
        model(padded_series(random_series([4, 2]), filling))
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_reversed_series_is_seen_upside_down_only_by_its_positions():
    """Slices in falling order are put on the same planes: each gets the same logits."""
    model, single = make_model().eval(), random_series([5])[0]
    falling = {**single, **{n: single[n].flip(1) for n in ("images", "metadata", "position_mm")}}
    with torch.no_grad():
        expected = model(single)["logits"].flip(1)
        torch.testing.assert_close(model(falling)["logits"], expected, atol=1e-5, rtol=0)


gaps = st.lists(st.floats(0.5, 12), min_size=0, max_size=12)


@settings(max_examples=40)
@given(gaps, st.booleans(), st.floats(-100, 100))
def test_what_is_linear_in_z_comes_back(gaps_mm, falls, start):
    positions = start + np.cumsum([0.0, *gaps_mm])
    if falls:
        positions = positions[::-1].copy()
    values = torch.from_numpy(positions)[None].float()
    lengths = torch.tensor([len(positions)])
    to_planes, to_slices, num_planes = resampling(values, lengths, 5.0)
    np.testing.assert_allclose(to_planes.sum(2), 1, atol=1e-5)
    np.testing.assert_allclose(to_slices.sum(2), 1, atol=1e-5)
    planes = to_planes[0].double() @ values[0].double()
    assert int(num_planes) == len(planes)
    assert planes.min() >= values.min() - 1e-3 and planes.max() <= values.max() + 1e-3
    if not gaps_mm or min(gaps_mm) >= 2.5:
        assert (np.diff(planes) > 0).all()
        back = to_slices[0].double() @ planes
        np.testing.assert_allclose(back, positions, atol=1e-3)


def test_planes_of_thin_slices_are_means():
    positions = torch.arange(60, dtype=torch.float32)[None]  # 1 mm apart
    noise = torch.randn(60, generator=torch.Generator().manual_seed(0))
    to_planes, _, num_planes = resampling(positions, torch.tensor([60]), 5.0)
    assert int(num_planes) == 13
    assert (to_planes[0] @ noise).std() < 0.6 * noise.std()


def test_equal_positions_and_absurd_extents_are_no_failure():
    same = torch.zeros(1, 4)
    to_planes, to_slices, num_planes = resampling(same, torch.tensor([4]), 5.0)
    assert int(num_planes) == 1 and to_slices.isfinite().all() and to_planes.isfinite().all()
    far = torch.tensor([[0.0, 5.0, 1e6]])
    assert int(resampling(far, torch.tensor([3]), 5.0)[2]) <= MAX_PLANES + 1


def test_specification_makes_the_same_network():
    model = make_model(spacing_mm=4.0)
    again = build_model(model.specification)
    again.load_state_dict(model.state_dict())
    batch = random_series([3])[0]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(batch), model.eval()(batch))


def test_unknown_name_is_refused():
    with pytest.raises(InputError, match="volume-x: no such network; there are volume-resnet10"):
        VolumeModel("volume-x", 6)


def test_a_single_plane_of_one_pixel_can_be_trained_on():
    model = make_model().train()
    model(padded_series(random_series([1], size=4)))["logits"].sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(module.training for module in model.modules())
