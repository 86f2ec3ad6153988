"""What auto stands for, on machines that are described: no GPU is needed to know it."""

import dataclasses

import pytest

from common.machine import Gpu, Machine
from config import Config
from flags.automatic import LONG, choose, describe

OLD_DEFAULTS = {
    "n_jobs": 2,
    "tr_batch_size_valid": 64,
    "tr_use_amp": 0,
    "tr_channels_last": 1,
    "tr_compile": 0,
    "data_transform_device": "cpu",
    "tr_pin_memory": 0,
    "tr_tf32": 0,  # was 1, and does nothing on a CPU
}
CPU = Machine(num_affine=2, memory_gb=8)
H200 = Machine(num_affine=16, memory_gb=128, gpu=Gpu("H200", (9, 0), 141))
A100 = Machine(num_affine=8, memory_gb=64, gpu=Gpu("A100", (8, 0), 40))
T4 = Machine(num_affine=4, memory_gb=16, gpu=Gpu("T4", (7, 5), 16))
GTX_1080 = Machine(num_affine=8, memory_gb=32, gpu=Gpu("GTX 1080 Ti", (6, 1), 11))


def values(machine: Machine, work="training", **changes):
    flags = Config().with_flags(**changes).flags()
    return {name: choice.value for name, choice in choose(flags, machine, work).items()}


@pytest.mark.parametrize("num_cores", [1, 2, 4, 11])
def test_a_cpu_does_what_it_always_did(num_cores):
    machine = dataclasses.replace(CPU, num_affine=num_cores)
    assert values(machine) == OLD_DEFAULTS
    assert values(machine, tr_iteration_num=10 * LONG) == OLD_DEFAULTS


@pytest.mark.parametrize("num_cores", [1, 16, 128])
@pytest.mark.parametrize("memory_gb", [2, 8, 1000])
@pytest.mark.parametrize("work", ["training", "prediction"])
def test_no_result_of_a_cpu_depends_on_which_it_is(num_cores, memory_gb, work):
    found = values(Machine(num_cores, memory_gb, num_processes=2), work)
    expected = {name: value for name, value in OLD_DEFAULTS.items() if name in found}
    assert found | {"n_jobs": 2} == expected


def test_a_gpu_with_everything():
    assert values(H200) == {
        "n_jobs": 15,
        "tr_batch_size_valid": 256,
        "tr_use_amp": 1,
        "tr_channels_last": 1,
        "tr_compile": 0,  # 260 iterations
        "data_transform_device": "cuda",
        "tr_pin_memory": 1,
        "tr_tf32": 1,
    }
    assert values(H200, tr_iteration_num=LONG)["tr_compile"] == 1


@pytest.mark.parametrize(
    ("machine", "amp", "tf32", "channels_last", "batch"),
    [(A100, 1, 1, 1, 128), (T4, 0, 0, 1, 32), (GTX_1080, 0, 0, 0, 32)],
)
def test_what_a_gpu_has_by_its_compute_capability(machine, amp, tf32, channels_last, batch):
    found = values(machine)
    assert (found["tr_use_amp"], found["tr_tf32"]) == (amp, tf32)
    assert (found["tr_channels_last"], found["tr_batch_size_valid"]) == (channels_last, batch)


def test_fp16_is_only_used_where_it_is_asked_for():
    for machine in (H200, T4):
        assert values(machine, tr_amp_dtype="fp16")["tr_use_amp"] == 0
    assert "tr_use_amp" not in values(T4, tr_amp_dtype="fp16", tr_use_amp=1)


@pytest.mark.parametrize(
    ("machine", "changes", "reason"),
    [
        (H200, {"tr_iteration_num": LONG - 1}, "fewer than 20000 batches"),
        (H200, {"dev_enabled": 1}, "dev mode"),
        (H200, {"tr_deterministic": 1}, "--tr_deterministic 1"),
        (H200, {"net_model": "joint-resnet18"}, "series differ in length"),
        (GTX_1080, {}, "compute capability 6.1, 7.0 is needed"),
        (dataclasses.replace(H200, compile_lacks="triton"), {}, "triton is missing"),
        (dataclasses.replace(H200, num_in_all=2), {}, "not tried with several processes"),
        (CPU, {}, "on the CPU"),
    ],
)
def test_why_a_training_is_not_compiled(machine, changes, reason):
    flags = Config().with_flags(**({"tr_iteration_num": LONG} | changes)).flags()
    assert choose(flags, machine, "training")["tr_compile"] == (0, reason)


def test_accumulated_batches_make_a_training_long():
    changes = {"tr_iteration_num": LONG // 4, "tr_accumulation_step": 4}
    assert values(A100, **changes)["tr_compile"] == 1


@pytest.mark.parametrize("model", ["study-bigru", "joint-resnet18", "bag-resnet18", "volume-x"])
def test_images_of_whole_series_stay_on_the_cpu(model):
    assert values(H200, net_model=model)["data_transform_device"] == "cpu"
    assert values(H200, tr_deterministic=1)["data_transform_device"] == "cpu"


@pytest.mark.parametrize(
    ("machine", "work", "num_jobs"),
    [
        (Machine(64, 256), "training", 16),
        (Machine(64, 256), "preparation", 32),
        (Machine(2, 8), "preparation", 2),
        (Machine(1, 8), "preparation", 1),
        (Machine(32, 16), "preparation", 8),
        (Machine(64, 256, quota=4), "preparation", 4),
        (Machine(32, 1), "preparation", 1),
        (Machine(2, 2.5), "prediction", 1),
        (dataclasses.replace(H200, memory_gb=8), "training", 6),
        (dataclasses.replace(H200, num_affine=1), "training", 1),
        (dataclasses.replace(H200, num_processes=4), "training", 3),
        (dataclasses.replace(H200, num_slurm=4), "prediction", 3),
        (dataclasses.replace(H200, num_affine=96, memory_gb=1000), "training", 16),
    ],
)
def test_workers_by_cores_and_memory(machine, work, num_jobs):
    assert values(machine, work)["n_jobs"] == num_jobs


def test_larger_images_make_smaller_batches():
    assert values(A100, data_img_size=1024)["tr_batch_size_valid"] == 32
    assert values(GTX_1080, data_img_size=4096)["tr_batch_size_valid"] == 16


def test_each_can_be_set_by_hand():
    given = OLD_DEFAULTS | {"n_jobs": 0, "tr_batch_size_valid": 5}
    assert values(H200, **given) == {}


def test_a_script_gets_what_it_needs():
    assert values(H200, "prediction") == {"n_jobs": 15, "tr_batch_size_valid": 256}
    assert values(H200, "preparation") == {"n_jobs": 16}


def test_one_line_says_what_was_chosen_and_why():
    machine = dataclasses.replace(H200, num_processes=2)
    line = describe(choose(Config().flags(), machine, "training"), machine)
    assert line == (
        "auto, with 128 GB of memory, H200 of 141 GB, cores: 8 for each of 2 processes: "
        "n_jobs 7 (all cores but one); tr_batch_size_valid 256 (by the memory of the GPU); "
        "tr_use_amp 1, tr_tf32 1, tr_channels_last 1 (compute capability 9.0); "
        "tr_compile 0 (fewer than 20000 batches); "
        "tr_pin_memory 1, data_transform_device cuda (there is a GPU)"
    )
    assert describe(choose(Config().flags(), CPU, "prediction"), CPU) == (
        "auto, with 8 GB of memory, the network on the CPU, cores: 2: "
        "n_jobs 2 (the network takes the cores); tr_batch_size_valid 64 (as on every CPU)"
    )
