"""Which process takes which samples, by plain loops."""

import numpy as np
import pytest

from common.datasets.samplers import (
    EpochSampler,
    LengthSampler,
    PartSampler,
    batches_per_epoch,
)


def cut(items, num_parts):
    """Parts whose sizes differ by one at most, the larger ones first."""
    parts, begin = [], 0
    for number in range(num_parts):
        size = len(items) // num_parts + (number < len(items) % num_parts)
        parts.append(items[begin : begin + size])
        begin += size
    return parts


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("position", [0, 5])
@pytest.mark.parametrize("num_samples", [*range(5, 20)])
def test_the_batches_of_each_process_equal_a_plain_loop(
    num_samples, position, num_processes, batch_size
):
    order = EpochSampler(num_samples, seed=4).order(3).tolist()
    assert sorted(order) == list(range(num_samples))
    whole, left, together = batch_size * num_processes, order[position:], []
    while left:
        together.append(left[:whole])
        left = left[whole:]
    least = min(batch_size, 2)
    # A single last sample joins the batch before, except where all batches are single ones.
    if len(together) > 1 and len(together[-1]) < min(whole, 2):
        together[-2:] = [together[-2] + together[-1]]
    for rank in range(num_processes):
        sampler = EpochSampler(num_samples, seed=4)
        sampler.share(batch_size, rank, num_processes)
        sampler.start(3, position)
        sizes, batches = [], []
        for batch in together:
            # As many processes as can have two samples each (one, in batches of one) share it.
            num_sharing = max(1, min(num_processes, len(batch) // least))
            if rank < num_sharing:
                own = cut(batch, num_sharing)[rank]
                sizes.append((len(batch), len(own)))
            else:
                own = cut(batch, num_sharing)[0][:least]
                sizes.append((len(batch), 0))
            batches.append([(3, index) for index in own])
        assert list(sampler.batch_sizes()) == sizes
        assert list(sampler.batches()) == batches
        assert list(sampler) == [pair for batch in batches for pair in batch]
        assert len(sampler) == sum(map(len, batches))
    if not position:
        assert batches_per_epoch(num_samples, whole) == len(together)


def test_a_sampler_begins_with_its_first_epoch_alone_and_one_sample_a_batch():
    sampler = EpochSampler(7, seed=2)
    assert list(sampler) == [(0, index) for index in sampler.order(0)]
    assert list(sampler.batch_sizes()) == [(1, 1)] * 7
    sampler.start(4)
    assert list(sampler) == [(4, index) for index in sampler.order(4)]
    assert len(sampler) == 7
    orders = [tuple(EpochSampler(7, seed).order(epoch)) for seed in (2, 3) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert sampler.order(0).dtype == np.int64


@pytest.mark.parametrize("num_samples", range(9))
@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_parts_of_an_evaluation_equal_a_plain_loop(num_samples, num_processes, batch_size):
    parts = cut(list(range(num_samples)), num_processes)
    num_batches = [-(-len(part) // batch_size) for part in parts]
    for rank, part in enumerate(parts):
        sampler = PartSampler(num_samples, rank, num_processes)
        assert list(sampler) == part
        assert len(sampler) == len(part)
        less = max(num_batches) - num_batches[rank]
        assert sampler.num_batches_less(batch_size) == less


def padded_share(sampler, lengths):
    batches = [lengths[[index for _, index in batch]] for batch in sampler.batches()]
    return 1 - sum(b.sum() for b in batches) / sum(len(b) * b.max() for b in batches)


def by_length(num_samples, seed=3):
    """Return a sampler and the lengths of its samples, others in each epoch."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 61, (5, num_samples))
    return LengthSampler(num_samples, seed, lambda epoch: lengths[epoch]), lengths


@pytest.mark.parametrize("batch_size", [8, 16, 24, 64, 128])
@pytest.mark.parametrize("num_samples", [1024, 1025, 2110, 4096])
def test_batches_by_length_hold_little_padding_and_each_sample_once(num_samples, batch_size):
    sampler, lengths = by_length(num_samples)
    plain = EpochSampler(num_samples, seed=3)
    for epoch in (0, 4):
        assert sorted(sampler.order(epoch)) == list(range(num_samples))
        shares = []
        for one in (sampler, plain):
            one.share(batch_size, 0, 1)
            one.start(epoch)
            shares.append(padded_share(one, lengths[epoch]))
        # Batches that do not divide a run of 64 lie over two of them now and then.
        assert shares[0] < shares[1] / (3 if 64 % batch_size == 0 else 1.4), shares


def test_the_order_by_length_depends_on_seed_and_epoch_alone():
    sampler, _ = by_length(2110)
    order = sampler.order(2)
    sampler.share(32, 1, 2)
    sampler.start(2, 500)
    assert np.array_equal(sampler.order(2), order)
    taken = []
    for rank in range(2):
        part = by_length(2110)[0]
        part.share(32, rank, 2)
        part.start(2, 512)
        taken.append(list(part.batches()))
    whole = by_length(2110)[0]
    whole.share(64, 0, 1)
    whole.start(2, 512)
    both = [[*first, *second] for first, second in zip(*taken, strict=True)]
    assert both == list(whole.batches())
    assert [index for batch in both for _, index in batch] == order[512:].tolist()
    others = [sampler.order(3), by_length(2110, seed=4)[0].order(2)]
    assert not any(np.array_equal(order, other) for other in others)


def test_runs_come_in_random_order_and_neighbours_change():
    lengths = by_length(4096)[1][0]
    sampler = LengthSampler(4096, 3, lambda epoch: lengths)
    orders = [sampler.order(epoch) for epoch in range(2)]
    means = [lengths[order].reshape(-1, 64).mean(axis=1) for order in orders]
    # A sorted epoch would have a correlation of 1 with its place, one with few neighbours -1 or 1.
    assert all(abs(np.corrcoef(m, np.arange(64))[0, 1]) < 0.5 for m in means)
    together = [{frozenset(run) for run in order.reshape(-1, 64)} for order in orders]
    assert not together[0] & together[1]


def test_few_samples_are_only_shuffled():
    sampler, _ = by_length(1023)
    assert np.array_equal(sampler.order(1), EpochSampler(1023, seed=3).order(1))
