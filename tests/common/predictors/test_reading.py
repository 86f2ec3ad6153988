"""Networks and views that share what is read, and predict what each would alone."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from predictor_factory import build_network, make_dataset, make_predictor, small_transform

from common.ensembling.blending import Blender, BlendOptions
from common.predictors.base import PredictOptions
from common.predictors.blend import BlendPredictor
from common.predictors.folds import FoldsPredictor
from common.predictors.slices import SlicePredictor
from common.scoring.predictions import mean_logits
from common.slices.store import SliceStore
from common.slices.table import SliceTable
from common.transforms import SampleTransform
from rsna_task import LABEL_WEIGHTS, LABELS

MODEL = {"name": "tiny", "num_classes": 6, "in_chans": 3}
VIEWS = ("plain", "flip_lr", "rot90", "random_1")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> SliceTable:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def reads(monkeypatch) -> Iterator[Counter]:
    """How often each slice of the store is read."""
    counts: Counter = Counter()
    read = SliceStore.read

    def counted(self, store_file, store_index):
        counts[store_file, store_index] += 1
        return read(self, store_file, store_index)

    monkeypatch.setattr(SliceStore, "read", counted)
    return counts


@pytest.fixture
def transformed(monkeypatch) -> Iterator[list[int]]:
    """One entry for each image that a transform makes."""
    calls: list[int] = []
    call = SampleTransform.__call__

    def counted(self, *arguments, **named):
        calls.append(1)
        return call(self, *arguments, **named)

    monkeypatch.setattr(SampleTransform, "__call__", counted)
    return calls


def member(seed: int, **changes) -> SlicePredictor:
    return make_predictor(network=build_network({**MODEL, "seed": seed}), **changes)


def test_members_that_see_the_same_share_reading_and_transform(table, reads, transformed):
    rows, num = np.arange(len(table)), int(table.readable.sum())
    folds = FoldsPredictor({fold: member(fold) for fold in range(4)})
    found = folds.predict_rows(table, rows)
    assert set(reads.values()) == {1} and len(reads) == num
    assert len(transformed) == num
    alone = [part.predict_rows(table, rows).logits for part in folds.members.values()]
    readable = table.readable
    np.testing.assert_allclose(found.logits[readable], mean_logits(alone)[readable], atol=1e-6)
    np.testing.assert_array_equal(found.unreadable, ~readable)


def test_members_with_other_transforms_or_neighbours_share_the_reading(table, reads, transformed):
    rows, num = np.arange(len(table)), int(table.readable.sum())
    wider = build_network({**MODEL, "in_chans": 9, "seed": 2})
    members = {
        0: member(0),
        1: member(1, transform=small_transform({"__class_fullname__": "HorizontalFlip", "p": 1})),
        2: make_predictor(network=wider, slice_offsets=(-1, 0, 1)),
    }
    found = FoldsPredictor(members).predict_rows(table, rows)
    assert set(reads.values()) == {1}
    assert len(transformed) == 3 * num
    alone = [part.predict_rows(table, rows).logits for part in members.values()]
    readable = table.readable
    np.testing.assert_allclose(found.logits[readable], mean_logits(alone)[readable], atol=1e-6)


def test_views_share_the_reading_and_go_through_the_network_together(table, reads):
    rows, predictor, sizes = np.arange(len(table)), member(3), []
    predictor.network.register_forward_hook(lambda module, inputs, _: sizes.append(len(inputs[0])))
    options = PredictOptions(batch_size=16, views=VIEWS, mean="probabilities", seed=2)
    found = predictor.predict_rows(table, rows, options)
    assert set(reads.values()) == {1}
    assert max(sizes) == 16 and sum(sizes) == len(VIEWS) * table.readable.sum()
    alone = [
        predictor.predict_rows(table, rows, PredictOptions(views=(view,), seed=2)).logits
        for view in VIEWS
    ]
    expected = mean_logits(alone, "probabilities")
    readable = table.readable
    np.testing.assert_allclose(found.logits[readable], expected[readable], atol=1e-6)


def test_views_of_several_sizes_need_not_fit_into_one_batch(table):
    resize = {"__class_fullname__": "Resize", "height": 32, "width": 32, "p": 1.0}
    plain = small_transform().to_dict()
    nodes = [node for node in plain["transform"]["transforms"] if node.get("height") != 32]
    assert len(nodes) < len(plain["transform"]["transforms"]), resize
    free = SampleTransform.from_dict(
        {**plain, "transform": {**plain["transform"], "transforms": nodes}}
    )
    predictor, rows = member(4, transform=free), np.flatnonzero(table.readable)
    views = ("plain", "crop_center")
    found = predictor.predict_rows(table, rows, PredictOptions(views=views)).logits
    alone = [predictor.predict_rows(table, rows, PredictOptions(views=(v,))).logits for v in views]
    np.testing.assert_allclose(found, mean_logits(alone), atol=1e-6)


def test_blends_of_folds_are_what_their_parts_make_of_them(table, reads):
    blend = BlendPredictor(
        members=[FoldsPredictor({0: member(5), 1: member(7)}), member(6)],
        member_names=["a", "b"],
        blender=Blender(BlendOptions("weights"), ((0.3, 0.7),) * 6, (0.0,) * 6),
        label_names=LABELS,
        label_weights=LABEL_WEIGHTS,
        prior=np.full(6, 0.2),
    )
    rows = np.flatnonzero(table.readable)
    found = blend.predict_rows(table, rows).logits
    assert set(reads.values()) == {1}
    parts = {id(part): part.predict_rows(table, rows) for part in blend.members}
    by_parts = blend.predict_rows(table, rows, PredictOptions(known=parts)).logits
    np.testing.assert_allclose(found, by_parts, atol=1e-6)
    assert np.abs(parts[id(blend.members[0])].logits - found).max() > 1e-3


def test_a_damaged_slice_has_the_prior_of_each_and_costs_no_other(tmp_path, caplog):
    table = make_dataset(tmp_path)
    frame = table.frame
    row = int(np.flatnonzero(table.readable)[9])
    path = tmp_path / "store" / frame.loc[row, "store_file"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :])
    rows = np.arange(len(table))
    folds = FoldsPredictor({fold: member(fold) for fold in range(2)})
    options = PredictOptions(views=("plain", "flip_lr"))
    found = folds.predict_rows(table, rows, options)
    lost = np.flatnonzero(found.unreadable & table.readable)
    assert len(lost) and set(frame.loc[lost, "store_file"]) == {path.name}
    alone = [part.predict_rows(table, rows, options) for part in folds.members.values()]
    for part in alone:
        np.testing.assert_array_equal(part.unreadable, found.unreadable)
    expected = mean_logits([part.logits for part in alone])
    np.testing.assert_allclose(found.logits, expected, atol=1e-6)
    assert "can't be read" in caplog.text


def test_workers_and_threads_change_nothing(table):
    rows = np.arange(len(table))
    folds = FoldsPredictor({fold: member(fold) for fold in range(2)})
    options = {"views": VIEWS, "seed": 1, "batch_size": 8}
    one = folds.predict_rows(table, rows, PredictOptions(**options))
    other = folds.predict_rows(table, rows, PredictOptions(**options, num_workers=2))
    assert torch.equal(torch.tensor(one.logits), torch.tensor(other.logits))
