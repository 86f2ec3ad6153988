"""Which samples come in which epoch, and that a training with such a sampler resumes exactly."""

import numpy as np
import pytest
import torch
from toy import ToyDataset, make_toy, weights_of

from common.callbacks import CheckpointSaver, DataFingerprint
from common.checkpoint import load_checkpoint
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler
from common.datasets.weighted_samplers import (
    BalancedSampler,
    GroupSampler,
    PositiveRangeSampler,
    middle_weights,
)
from common.errors import InputError
from common.networks import FitSettings

IS_POSITIVE = np.random.default_rng(0).permutation(np.arange(100) < 14)
GROUPS = np.repeat([f"study{n}" for n in (3, 1, 2, 0)], [9, 2, 30, 12])
PLACES = np.concatenate([np.arange(n) for n in (9, 2, 30, 12)])
SIZES = np.repeat([9, 2, 30, 12], [9, 2, 30, 12])


def balanced(seed: int = 5) -> BalancedSampler:
    return BalancedSampler(IS_POSITIVE, seed)


def pos_range(seed: int = 5, iteration_num: int = 40) -> PositiveRangeSampler:
    return PositiveRangeSampler(IS_POSITIVE, seed, 0.4, 0.14, iteration_num, 4, 2)


def grouped(seed: int = 5) -> GroupSampler:
    return GroupSampler(GROUPS, 4, middle_weights(PLACES, SIZES), seed)


ALL = pytest.mark.parametrize("make", [balanced, pos_range, grouped])


@ALL
def test_an_epoch_is_a_function_of_seed_and_epoch(make):
    sampler, again = make(), make()
    orders = [sampler.order(epoch) for epoch in range(6)]
    for epoch in (4, 0, 5, 2):
        np.testing.assert_array_equal(again.order(epoch), orders[epoch])
    assert all(len(order) == sampler.num_samples for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(make(seed=6).order(0), orders[0])


@ALL
def test_no_sample_comes_twice_in_an_epoch_and_all_come_in_some(make):
    sampler = make()
    orders = [sampler.order(epoch) for epoch in range(200)]
    assert all(len(np.unique(order)) == len(order) for order in orders)
    num_samples = len(GROUPS) if make is grouped else len(IS_POSITIVE)
    assert set(np.concatenate(orders)) == set(range(num_samples))


@ALL
def test_an_epoch_can_be_entered_anywhere(make):
    sampler = make()
    whole = list(sampler)
    assert len(sampler) == len(whole) == sampler.num_samples
    sampler.start(0, 5)
    assert list(sampler) == whole[5:]
    sampler.start(3)
    assert [index for _, index in sampler] == sampler.order(3).tolist()


@ALL
@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_every_batch(make, num_processes):
    parts = []
    for rank in range(num_processes):
        sampler = make()
        sampler.share(2, rank, num_processes)
        sampler.start(2, 2 * num_processes)
        parts.append([index for _, index in sampler])
    left = make().order(2)[2 * num_processes :]
    assert set(np.concatenate(parts)) == set(left)
    first = np.concatenate([part[:2] for part in parts])
    assert set(first) == set(left[: 2 * num_processes])


def test_balanced_has_all_positives_and_negatives_in_turn():
    sampler = balanced()
    assert sampler.num_samples == 28
    for epoch in range(20):
        order = sampler.order(epoch)
        assert set(order[IS_POSITIVE[order]]) == set(np.flatnonzero(IS_POSITIVE))
        assert sampler.num_positive(epoch) == IS_POSITIVE[order].sum() == 14
    # 86 negatives, 14 an epoch: all come by in every 7 epochs, at most two times.
    for start in (0, 7, 14):
        rounds = np.concatenate([sampler.order(start + epoch) for epoch in range(7)])
        counts = np.bincount(rounds, minlength=100)[~IS_POSITIVE]
        assert counts.min() == 1
        assert counts.max() == 2


@pytest.mark.parametrize("make", [balanced, pos_range])
def test_packs_are_dealt_as_in_a_plain_loop(make):
    """From the top of a shuffled pack; a new one where the old is used up, whose rest is filled."""
    sampler, num_rounds = make(), {False: 0, True: 0}
    for kind in (False, True):
        pack = np.flatnonzero(kind == IS_POSITIVE)
        number, left = 0, []
        shuffled = np.random.default_rng([5, int(kind), 0]).permutation(pack).tolist()
        left = list(shuffled)
        for epoch in range(60):
            order = sampler.order(epoch)
            own = order[IS_POSITIVE[order] == kind]
            wanted = len(own)
            if not left:
                number += 1
                shuffled = np.random.default_rng([5, int(kind), number]).permutation(pack).tolist()
                left = list(shuffled)
            dealt, left = left[:wanted], left[wanted:]
            dealt += shuffled[: wanted - len(dealt)]  # the first of the pack fill its last epoch
            assert sorted(own) == sorted(dealt), (kind, epoch)
        num_rounds[kind] = number
    assert min(num_rounds.values()) > 5


def test_balanced_with_few_negatives_takes_them_all():
    sampler = BalancedSampler(~IS_POSITIVE, 1)
    order = sampler.order(2)
    assert set(order[IS_POSITIVE[order]]) == set(np.flatnonzero(IS_POSITIVE))
    assert len(order) == 28


@pytest.mark.parametrize("value", [True, False])
def test_one_kind_alone_is_refused(value):
    for make in (
        lambda kinds: BalancedSampler(kinds, 0),
        lambda kinds: PositiveRangeSampler(kinds, 0, 0.4, 0.1, 10, 4),
    ):
        with pytest.raises(InputError, match=f"no {'negative' if value else 'positive'} sample"):
            make([value] * 5)


def test_pos_range_falls_linearly_to_within_a_sample():
    sampler = pos_range(iteration_num=45)
    # 35 samples an epoch: 9 batches of 4, 5 steps of 2 batches, so 45 steps are 9 epochs.
    assert sampler.num_samples == 35
    drawn = IS_POSITIVE[np.concatenate([sampler.order(epoch) for epoch in range(9)])]
    places = np.arange(1, len(drawn) + 1)
    middles = 0.4 + (0.14 - 0.4) * (places - 0.5) / len(drawn)
    assert np.abs(np.cumsum(drawn) - np.cumsum(middles)).max() <= 0.5 + 1e-9
    after = IS_POSITIVE[np.concatenate([sampler.order(epoch) for epoch in range(9, 30)])]
    assert after.mean() == pytest.approx(0.14, abs=1 / len(after))


def test_pos_range_brings_every_negative_by():
    sampler = pos_range()
    orders = [sampler.order(epoch) for epoch in range(12)]
    # About 25 of the 86 in each of 12 epochs are three rounds of four, each once or twice.
    counts = np.bincount(np.concatenate(orders), minlength=100)
    assert counts[~IS_POSITIVE].min() == 3
    assert counts[~IS_POSITIVE].max() <= 6
    for epoch, order in enumerate(orders):
        assert IS_POSITIVE[order].sum() == sampler.num_positive(epoch)


@pytest.mark.parametrize(
    ("num_negative", "num_positive", "first", "last"),
    [(86, 14, 0.4, 0.14), (86, 14, 0.14, 0.4), (20, 80, 0.5, 0.5), (50, 50, 0.3, 0.8)]
    + [(3, 97, 0.25, 0.75), (40, 60, 0.6, 0.6), (1, 1, 0.5, 0.5), (60, 20, 0.25, 0.25)],
)
def test_a_range_epoch_is_as_long_as_both_kinds_allow(num_negative, num_positive, first, last):
    is_positive = np.arange(num_negative + num_positive) < num_positive
    sampler = PositiveRangeSampler(is_positive, 0, first, last, 10, 4)

    def is_enough(length):
        most = length * max(first, last), length * (1 - min(first, last))
        return most[0] <= num_positive + 1e-9 and most[1] <= num_negative + 1e-9

    lengths = range(num_negative + num_positive + 1)
    assert sampler.num_samples == max(length for length in lengths if is_enough(length))


@pytest.mark.parametrize(
    ("iteration_num", "num_per_batch", "accumulation_step"),
    [(40, 4, 2), (7, 4, 1), (12, 35, 1), (12, 36, 1), (9, 34, 1), (10, 5, 3), (11, 1, 35)],
)
def test_the_share_ends_with_the_training(iteration_num, num_per_batch, accumulation_step):
    sampler = PositiveRangeSampler(
        IS_POSITIVE, 3, 0.4, 0.14, iteration_num, num_per_batch, accumulation_step
    )
    # A plain loop over epochs, batches and steps: how many epochs the training has.
    steps, num_left, num_batches = 0, sampler.num_samples, 0
    while num_left > 0:
        num_left -= num_per_batch
        if num_left == 1 and num_per_batch > 1:  # a single one joins the batch before
            num_left = 0
        num_batches += 1
        steps += num_batches % accumulation_step == 0 or num_left <= 0
    total = iteration_num / steps * sampler.num_samples
    wanted = drawn = 0.0
    for epoch in range(iteration_num // steps + 3):
        for place, index in enumerate(sampler.order(epoch).tolist()):
            middle = epoch * sampler.num_samples + place + 0.5
            wanted += 0.4 + (0.14 - 0.4) * min(middle / total, 1.0)
            drawn += IS_POSITIVE[index]
            # Half a sample by rounding; at the end of the slope the mean is not at the middle.
            assert abs(drawn - wanted) <= 0.51


def test_a_step_is_one_batch_by_default():
    shares = IS_POSITIVE, 3, 0.4, 0.14, 40, 4
    default, one, two = (PositiveRangeSampler(*shares, *more) for more in ((), (1,), (2,)))
    assert default.num_epochs == one.num_epochs < two.num_epochs


def test_groups_have_their_number_of_samples_and_more_of_the_middle():
    sampler = grouped()
    assert sampler.num_samples == 4 + 2 + 4 + 4
    orders = [sampler.order(epoch) for epoch in range(3000)]
    for order in orders[:50]:
        names, counts = np.unique(GROUPS[order], return_counts=True)
        expected = {"study0": 4, "study1": 2, "study2": 4, "study3": 4}
        assert dict(zip(names, counts)) == expected
    # Of the first draw alone: GroupSampler with one sample a group has exactly these chances.
    single = GroupSampler(GROUPS, 1, middle_weights(PLACES, SIZES), 5)
    counts = np.bincount(np.concatenate([single.order(epoch) for epoch in range(3000)]))
    weights = middle_weights(PLACES, SIZES)
    groups = np.unique(GROUPS, return_inverse=True)[1]
    chances = weights / np.bincount(groups, weights)[groups]
    spread = np.sqrt(3000 * chances * (1 - chances))
    assert (np.abs(counts - 3000 * chances) < 4.5 * spread + 1e-9).all()
    counts = np.bincount(np.concatenate(orders))[GROUPS == "study2"]
    assert counts[14] > 3 * counts[0]


def test_middle_weights_rise_to_the_middle():
    assert middle_weights(np.arange(5), 5).tolist() == [1, 2, 3, 2, 1]
    assert middle_weights(np.arange(4), 4).tolist() == [1, 2, 2, 1]
    assert middle_weights([0], [1]).tolist() == [1]


@ALL
@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_training_goes_on_bit_for_bit(tmp_path, make, stop):
    def fit(folder, iteration_num, resume=False):
        settings = FitSettings(iteration_num=iteration_num, accumulation_step=2)
        network = make_toy(settings, torch.float32, callbacks=(CheckpointSaver(folder, every=1),))
        if resume:
            network.load_state_dict(load_checkpoint(folder / "last.pt"))
        dataset = ToyDataset(len(GROUPS) if make is grouped else 100, torch.float32)
        network.fit(make_loader(dataset, 4, 0, make()))
        return weights_of(network)

    whole = fit(tmp_path / "whole", 10)
    fit(tmp_path / "part", stop)
    saved = load_checkpoint(tmp_path / "part" / "last.pt")["sampler"]
    assert saved["num_samples"] == make().num_samples
    assert torch.equal(whole, fit(tmp_path / "part", 10, resume=True))


def test_other_samples_or_labels_are_refused():
    ids, labels = ["a", "b"], np.array([[1.0], [0.0]], np.float32)
    state = DataFingerprint(ids, labels).state_dict()
    DataFingerprint(list(ids), labels.copy()).load_state_dict(state)
    for other in (DataFingerprint(ids[::-1], labels), DataFingerprint(ids, labels[::-1])):
        with pytest.raises(InputError, match="not those that the checkpoint was made with"):
            other.load_state_dict(state)


def test_the_plain_sampler_still_has_each_sample_once():
    assert sorted(EpochSampler(9, 1).order(4)) == list(range(9))
