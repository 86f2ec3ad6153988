"""Which process takes which samples, by plain loops."""

import numpy as np
import pytest

from common.datasets.samplers import EpochSampler, PartSampler, batches_per_epoch


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
