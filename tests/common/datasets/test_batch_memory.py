"""The memory that workers hand batches over in."""

import gc
import os
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from common.datasets import batch_memory
from common.datasets.base import AbstractDataset
from common.datasets.batch_memory import SLOTS_PER_WORKER, KeptMemory
from common.datasets.loading import make_loader
from common.datasets.samplers import EpochSampler

SIZE = 192  # a bool image has 37 KB, two make a slot


class Numbered(AbstractDataset):
    """Images full of their number; where they grow, the later half is twice as high."""

    def __init__(
        self, num_samples: int, dtype: torch.dtype = torch.float32, grows: bool = False
    ) -> None:
        super().__init__()
        self.num_samples, self.dtype, self.grows = num_samples, dtype, grows

    def __len__(self) -> int:
        return self.num_samples

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        """The image of a number, and the number."""
        height = 2 * SIZE if self.grows and index >= self.num_samples // 2 else SIZE
        return {"image": torch.full((height, SIZE), index).to(self.dtype), "index": index}


class InPlace(Numbered):
    """The same; each image that has a place in its batch is made there, but every third."""

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        image = super().make_sample(index, seed)["image"].numpy()
        place = self.image_memory(image.shape)
        if place is not None and index % 3 and image.dtype == place.dtype:
            place[:] = image
            image = place
        return {"image": image, "index": index}


def are_right(batches: list[dict[str, torch.Tensor]]) -> bool:
    return all(bool((batch["image"] == batch["index"][:, None, None]).all()) for batch in batches)


def num_slots_in_use(loader: Any) -> int:
    return sum(loader.worker_init_fn.args[0]._is_taken[:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.bfloat16, torch.bool])
def test_batches_that_are_kept_stay_as_they_are(dtype: torch.dtype) -> None:
    dataset = Numbered(64, dtype, grows=True)
    loader = make_loader(dataset, 2, 2)
    batches = list(loader)  # 32 batches, 10 slots
    plain = list(make_loader(dataset, 2, 0))
    for batch, wanted in zip(batches, plain, strict=True):
        assert batch["image"].dtype == dtype
        assert torch.equal(batch["image"], wanted["image"])
        assert torch.equal(batch["index"], wanted["index"])
    assert num_slots_in_use(loader) == 2 * SLOTS_PER_WORKER
    part = batches[0]["image"][0, :2]
    del batches, batch
    gc.collect()
    assert num_slots_in_use(loader) == 1, "a view of a batch keeps its slot"
    assert torch.equal(part, plain[0]["image"][0, :2])


def test_memory_is_written_again_as_soon_as_it_is_let_go() -> None:
    dataset = Numbered(80)
    sampler = EpochSampler(len(dataset), seed=0)
    loader = make_loader(dataset, 1, 2, sampler)
    places = set()
    for epoch in range(3):
        sampler.start(epoch)
        for batch in loader:
            assert are_right([batch])
            places.add(batch["image"].data_ptr())
    assert len(places) <= 2 * SLOTS_PER_WORKER
    del batch
    gc.collect()
    assert num_slots_in_use(loader) == 0


def test_batches_outlive_their_loader_and_files_are_closed() -> None:
    num_files = len(os.listdir("/proc/self/fd"))
    batches = list(make_loader(Numbered(8), 2, 2))
    gc.collect()
    assert are_right(batches)
    del batches
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= num_files


def test_an_epoch_that_is_left_early_costs_no_slot() -> None:
    dataset = Numbered(40)
    sampler = EpochSampler(len(dataset), seed=0)
    loader = make_loader(dataset, 2, 2, sampler)
    for epoch in range(4):
        sampler.start(epoch)
        assert are_right([next(iter(loader))])
    sampler.start(9)
    assert are_right(list(loader))
    gc.collect()
    assert num_slots_in_use(loader) == 0


def test_without_such_memory_batches_come_as_torch_sends_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(name: str) -> int:
        raise OSError("not here")

    monkeypatch.setattr(os, "memfd_create", refused)
    loader = make_loader(Numbered(8), 2, 2)
    assert loader.worker_init_fn.args == (None,)  # type: ignore[union-attr]
    assert are_right(list(loader))


def test_small_tensors_and_different_shapes_are_left_to_torch() -> None:
    memory = KeptMemory(1)
    slots = range(SLOTS_PER_WORKER)
    assert memory._stack(slots, [torch.zeros(3)] * 2) is None
    assert memory._stack(slots, [torch.zeros(SIZE, SIZE)] * 2) is not None
    assert memory._stack(range(0), [torch.zeros(SIZE, SIZE)]) is None
    assert memory._stack(slots, [torch.zeros(SIZE, SIZE), torch.zeros(SIZE, 2)]) is None


def test_the_main_process_does_without() -> None:
    batch = batch_memory.stacked([{"image": torch.ones(SIZE, SIZE), "n": np.float32(2)}] * 3)
    assert batch["image"].shape == (3, SIZE, SIZE) and batch["n"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_images_made_in_their_place_are_those_made_elsewhere(
    num_workers: int, dtype: torch.dtype
) -> None:
    """Of int16 there are none: the memory is for float32, and its slot is let go."""
    sampler = EpochSampler(63, seed=0)
    loader = make_loader(InPlace(63, dtype), 4, num_workers, sampler)
    sampler.start(0)
    batches = list(loader)
    assert are_right(batches) and {batch["image"].dtype for batch in batches} == {dtype}
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(63))
    if num_workers:
        del batches
        gc.collect()
        assert num_slots_in_use(loader) == 0


def test_a_batch_is_the_memory_that_its_images_were_made_in() -> None:
    dataset = InPlace(5)
    samples = dataset.__getitems__([1, 2, 4])
    batch = dataset.collate(samples)
    assert batch["image"].data_ptr() == samples[0]["image"].data_ptr()
    assert are_right([batch]) and len(batch["image"]) == 3
    assert dataset.image_memory((SIZE, SIZE)) is None, "no batch is made"
    grows = InPlace(4, grows=True)
    with pytest.raises(RuntimeError, match="equal size"):
        grows.collate(grows.__getitems__([1, 2]))


class Odd(Numbered):
    """Images made in their place, beside others of their shape, or returned as another view."""

    def __init__(self, way: str) -> None:
        super().__init__(12)
        self.way = way

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        def made(value: float) -> np.ndarray:
            found = self.image_memory((SIZE, SIZE))
            found = np.empty((SIZE, SIZE), np.float32) if found is None else found
            found[:] = value + np.arange(SIZE, dtype=np.float32) / SIZE
            return found

        if self.way == "mask":
            return {"mask": np.full((SIZE, SIZE), -1, np.float32), "image": made(index)}
        if self.way == "two":
            return {"image": made(index), "other": made(index + 100)}
        is_turned = self.way == "turned" or index % 2
        return {"image": made(index).T if is_turned else made(index)}


@pytest.mark.parametrize("way", ["mask", "two", "turned", "some turned"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_tensors_of_the_shape_of_the_image_are_those_of_default_collate(
    way: str, num_workers: int
) -> None:
    dataset = Odd(way)
    batches = list(make_loader(dataset, 4, num_workers))
    for number, batch in enumerate(batches):
        wanted = default_collate([dataset[4 * number + n] for n in range(4)])
        assert batch.keys() == wanted.keys()
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


class Failing(Numbered):
    """The last sample of each batch of four fails, or has another shape than the rest."""

    def __init__(self, raises: bool) -> None:
        super().__init__(4 * 3 * SLOTS_PER_WORKER)
        self.raises = raises

    def make_sample(self, index: int, seed: int) -> dict[str, Any]:
        if index % 4 == 3 and self.raises:
            raise ValueError("damaged")
        image = self.image_memory((SIZE, SIZE))
        image = np.zeros((SIZE, SIZE), np.float32) if image is None else image
        return {"image": image[: SIZE - 1] if index % 4 == 3 else image}


@pytest.mark.parametrize("raises", [True, False])
def test_a_batch_that_fails_keeps_no_slot(raises: bool) -> None:
    loader = make_loader(Failing(raises), 4, 1)
    batches = iter(loader)
    for _ in range(3 * SLOTS_PER_WORKER):
        with pytest.raises((ValueError, RuntimeError)):
            next(batches)
    assert num_slots_in_use(loader) == 0
    batches._shutdown_workers()  # the tracebacks hold them


def test_a_fork_frees_no_slot_of_the_process_that_made_it() -> None:
    loader = make_loader(Numbered(16), 4, 1)
    kept = list(loader)
    before = num_slots_in_use(loader)
    child = os.fork()
    if child == 0:
        del kept
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert num_slots_in_use(loader) == before > 0
    assert are_right(kept)
