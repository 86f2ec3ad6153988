"""Series as samples: order, draws, metadata and padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from study_inputs import LABELS, make_table, neighbour_task

from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.datasets.sequence import SequenceDataset
from common.datasets.series import SeriesAugmentation, series_metadata
from common.features.slice_outputs import SliceOutputs


def outputs_of(table, num_labels=2):
    """Logits that name their row."""
    logits = np.repeat(np.arange(len(table), dtype=np.float32)[:, None], num_labels, axis=1)
    return SliceOutputs("0001", logits, np.zeros(len(table), np.int64))


@pytest.fixture
def table(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (30, 2)).astype(float)
    return make_table(tmp_path, [13, 1, 16], labels)


def test_a_sample_is_a_whole_series_in_anatomical_order(table):
    table = type(table)(table.frame.sample(frac=1, random_state=3), table.folder)
    dataset = SequenceDataset(table, np.arange(30), [outputs_of(table)], LABELS)
    assert sorted(len(dataset[i]["index"]) for i in range(3)) == [1, 13, 16]
    for index in range(3):
        sample = dataset[index]
        rows = sample["logits"][:, 0].numpy().astype(int)
        assert (np.diff(table.frame["rank"].to_numpy()[rows]) == 1).all()
        assert table.frame["store_file"].iloc[rows].nunique() == 1
        assert np.array_equal(dataset.rows[sample["index"].numpy()], rows)
        assert np.array_equal(sample["labels"], table.labels(rows, LABELS))
        assert dataset.sample_id(index) == table.image_id(rows[0])


def test_slices_that_do_not_count_are_context_and_unseen_ones_are_passed_over(table):
    output = outputs_of(table)
    output.folds[5] = -1
    rows = np.array([0, 1, 2, 20])
    dataset = SequenceDataset(table, rows, [output], LABELS)
    assert len(dataset) == 2
    sample = dataset[0]
    assert len(sample["index"]) == 12
    assert 5.0 not in sample["logits"]
    assert sample["index"].tolist() == [0, 1, 2] + [-1] * 9
    assert sample["labels"][3:].isnan().all()
    assert not sample["labels"][:3].isnan().any()
    assert np.array_equal(dataset.rows, rows)
    with pytest.raises(AssertionError, match="without outputs"):
        SequenceDataset(table, np.array([5]), [output], LABELS)


def test_a_batch_is_padded_with_what_does_not_count(table):
    dataset = SequenceDataset(table, np.arange(30), [outputs_of(table)] * 2, LABELS)
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch["lengths"].tolist() == [13, 1]
    assert batch["logits"].shape == (2, 13, 4)
    assert batch["labels"][1, 1:].isnan().all()
    assert (batch["index"][1, 1:] == -1).all()
    assert batch["features"] == []
    assert batch["sample"].tolist() == [0, 1]


@pytest.mark.parametrize("options", [{}, {"crop": 7}, {"spread": 5}, {"thin": 0.0, "crop": 12}])
def test_the_number_of_steps_is_known_before_a_sample_is_made(table, options):
    augmentation = SeriesAugmentation(**{"thin": 0.5, "reverse": 0.5, **options})
    what = [outputs_of(table)], LABELS, augmentation
    dataset = SequenceDataset(table, np.arange(30), *what, seed=4)
    for epoch in range(8):
        made = [len(dataset[epoch, index]["index"]) for index in range(3)]
        assert dataset.num_steps(epoch).tolist() == made


@pytest.mark.parametrize("num_workers", [0, 2])
def test_draws_are_a_function_of_seed_epoch_and_series(table, num_workers):
    augmentation = SeriesAugmentation(thin=0.5, reverse=0.5, crop=9)
    dataset = SequenceDataset(
        table, np.arange(30), [outputs_of(table)], LABELS, augmentation, seed=4
    )
    alone = SequenceDataset(table, np.arange(14, 30), [outputs_of(table)], LABELS, augmentation, 4)
    loader = make_loader(dataset, 2, num_workers, EpochSampler(3, seed=1))
    seen = set()
    for epoch in range(6):
        loader.sampler.start(epoch)
        for batch in loader:
            for row, index in enumerate(batch["sample"].tolist()):
                size = int(batch["lengths"][row])
                expected = dataset[epoch, index]["logits"]
                assert torch.equal(batch["logits"][row, :size], expected)
                if index == 2:
                    assert torch.equal(expected, alone[epoch, 0]["logits"])
                    seen.add(tuple(expected[:, 0].tolist()))
    assert len(seen) > 2


def test_validation_draws_nothing(table):
    dataset = SequenceDataset(table, np.arange(30), [outputs_of(table)], LABELS)
    assert torch.equal(dataset[0, 2]["logits"], dataset[3, 2]["logits"])


@given(num=st.integers(1, 40), seed=st.integers(0, 1000), crop=st.integers(0, 30))
def test_augmentation_keeps_order_and_sizes(num, seed, crop):
    places, window = SeriesAugmentation(thin=0.5, reverse=0.5, crop=crop).draw(num, seed)
    steps = np.unique(np.diff(places))
    assert len(steps) <= 1 and (len(steps) == 0 or abs(steps[0]) in (1, 2))
    if len(steps) and abs(steps[0]) == 2:
        assert num > 10
    left = places[window]
    assert len(left) == (min(crop, len(places)) if crop else len(places))


def test_augmentation_reaches_every_window():
    starts = {SeriesAugmentation(crop=8).draw(10, seed)[1].start for seed in range(100)}
    assert starts == {0, 1, 2}


def test_thinning_doubles_gaps_and_halves_the_number_of_slices(table):
    plain = SequenceDataset(table, np.arange(13), [outputs_of(table)], LABELS)[0]
    thin = SeriesAugmentation(thin=1.0)
    thinned = SequenceDataset(table, np.arange(13), [outputs_of(table)], LABELS, thin)[0]
    assert len(thinned["index"]) in (6, 7)
    assert torch.allclose(thinned["metadata"][:, 0], 2 * plain["metadata"][0, 0])
    assert thinned["metadata"][0, 4] < plain["metadata"][0, 4]
    assert thinned["metadata"][[0, -1], 3].tolist() == [-1, 1]


def test_reversal_turns_the_sign_of_positions_and_gaps(table):
    plain = SequenceDataset(table, np.arange(13), [outputs_of(table)], LABELS)[0]
    reverse = SeriesAugmentation(reverse=1.0)
    turned = SequenceDataset(table, np.arange(13), [outputs_of(table)], LABELS, reverse)[0]
    assert torch.equal(turned["logits"], plain["logits"].flip(0))
    assert (plain["metadata"][:, :2] > 0).all()
    assert (turned["metadata"][:, :2] < 0).all()
    assert plain["metadata"][0, 2] < 0 < turned["metadata"][0, 2]
    assert torch.equal(turned["position_mm"], plain["position_mm"].flip(0))
    # A slice keeps its own place in the head: what turns is the order.
    assert torch.equal(turned["metadata"][:, 2:], plain["metadata"][:, 2:].flip(0))


def test_a_crop_is_a_window_that_changes_no_metadata(table):
    plain = SequenceDataset(table, np.arange(13), [outputs_of(table)], LABELS)[0]
    crop = SeriesAugmentation(crop=6)
    window = SequenceDataset(table, np.arange(13), [outputs_of(table)], LABELS, crop)[0, 0]
    start = int(window["logits"][0, 0])
    assert len(window["index"]) == 6
    for name in ("metadata", "position_mm", "labels", "index"):
        assert torch.equal(window[name], plain[name][start : start + 6]), name


def test_metadata_of_irregular_and_unknown_positions():
    positions = np.array([0.0, 2.5, 5.0, 10.0])
    metadata, position_mm = series_metadata(positions, np.arange(4))
    assert np.allclose(metadata[:, 0] * 5, [2.5, 2.5, 5, 5])
    assert np.allclose(metadata[:, 1] * 5, [2.5, 2.5, 2.5, 5])
    assert np.allclose(position_mm, [-5, -2.5, 0, 5])
    unknown, nominal_mm = series_metadata(np.full(4, np.nan), np.arange(4))
    assert np.allclose(nominal_mm, [-7.5, -2.5, 2.5, 7.5])
    assert np.isfinite(unknown).all()
    single, _ = series_metadata(np.array([3.0]), np.array([0]))
    assert single[0, :4].tolist() == [0, 0, 0, 0]


def test_features_are_standardised_by_the_network_that_made_them(tmp_path):
    table, outputs = neighbour_task(tmp_path, 4, seed=0)
    scaling = outputs.scaling[1]
    outputs.scaling[1] = type(scaling)(scaling.mean + 2, scaling.spread * 4)  # type: ignore[index]
    dataset = SequenceDataset(table, np.arange(len(table)), [outputs], LABELS)
    raw = outputs.features.read(outputs.feature_rows)
    for index, fold in ((0, 0), (1, 1)):
        rows = dataset.rows[dataset[index]["index"].numpy()]
        expected = raw[rows] if fold == 0 else (raw[rows] - 2) / 4
        torch.testing.assert_close(dataset[index]["features"][0], torch.from_numpy(expected))
