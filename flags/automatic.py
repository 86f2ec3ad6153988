"""What `auto` stands for: decided from the description of a machine alone, nothing is timed.

On a CPU results are those of every CPU: only processes that read depend on its cores and memory.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from common.machine import Gpu, Machine
from flags.parsing import AUTO

Work = Literal["training", "prediction", "preparation"]


class Choice(NamedTuple):
    """The value of a flag, and why."""

    value: int | str
    reason: str


_ON_CPU = {
    "tr_channels_last": Choice(1, "faster on a CPU"),
    "data_transform_device": Choice("cpu", "on the CPU"),
    "tr_use_amp": Choice(0, "on the CPU"),
    "tr_tf32": Choice(0, "on the CPU"),
    "tr_compile": Choice(0, "on the CPU"),
    "tr_pin_memory": Choice(0, "on the CPU"),
}
_WHOLE_SERIES = ("study-", "joint-", "bag-", "volume-")
"""Prefixes of --net_model of networks that see whole series."""
LONG = 20_000
"""Batches from which the minutes of compiling are a small part of a training."""
# Activations of a pixel that are alive at once when a network predicts: four tensors of 32 channels
# in float32 are more than most networks have.
_BYTES_PER_PIXEL, _USUAL_SIDE = 4 * 32 * 4, 512
_SMALLEST_BATCH, _BATCH, _LARGEST_BATCH = 16, 64, 256
# Most processes of a kind of work, memory of each, and of what they work for, in 10^9 bytes.
_WORKERS = {"training": (16, 1, 2), "prediction": (16, 1, 2), "preparation": (32, 2, 0)}


def choose(flags: Mapping[str, Any], machine: Machine, work: Work) -> dict[str, Choice]:
    """Return what the flags stand for on a machine that are `auto` and that the work needs.

    Args:
        flags: all flags by name.
    """
    choices = {"n_jobs": _workers(machine, work)}
    if work != "preparation":
        choices |= {"tr_batch_size_valid": _batch_size(flags, machine.gpu)}
    if work == "training":
        choices |= _ON_CPU if machine.gpu is None else _on_gpu(flags, machine, machine.gpu)
    return {name: choice for name, choice in choices.items() if flags[name] == AUTO}


def describe(choices: Mapping[str, Choice], machine: Machine) -> str:
    """Return one line: what was chosen, by reason."""
    gpu = machine.gpu
    shown = "the network on the CPU" if gpu is None else f"{gpu.name} of {gpu.memory_gb:.0f} GB"
    reasons: dict[str, list[str]] = {}
    for name, choice in choices.items():
        reasons.setdefault(choice.reason, []).append(f"{name} {choice.value}")
    chosen = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    of_processes = f" for each of {machine.num_processes} processes"
    return (
        f"auto, with {machine.memory_gb:.0f} GB of memory, {shown}, cores: {machine.num_cores}"
        f"{of_processes if machine.num_processes > 1 else ''}: {chosen}"
    )


def _on_gpu(flags: Mapping[str, Any], machine: Machine, gpu: Gpu) -> dict[str, Choice]:
    has_bf16, has_tensor_cores = _from(gpu, (8, 0)), _from(gpu, (7, 0))
    is_fp16 = flags["tr_amp_dtype"] == "fp16"
    is_whole = flags["net_model"].startswith(_WHOLE_SERIES)
    num_batches = flags["tr_iteration_num"] * flags["tr_accumulation_step"]
    exact = flags["tr_deterministic"], "--tr_deterministic 1"
    not_on_gpu = (is_whole, "whole series"), exact
    not_compiled = (
        (not has_tensor_cores.value, has_tensor_cores.reason),
        (flags["dev_enabled"], "dev mode"),
        (num_batches < LONG, f"fewer than {LONG} batches"),
        (is_whole, "series differ in length"),
        (machine.num_in_all > 1, "not tried with several processes"),
        exact,
        (machine.compile_lacks, f"{machine.compile_lacks} is missing"),
    )
    return {
        "tr_use_amp": Choice(0, "fp16 needs --tr_use_amp 1") if is_fp16 else has_bf16,
        "tr_tf32": has_bf16,
        "tr_channels_last": has_tensor_cores,
        "tr_compile": _unless(not_compiled, 0) or Choice(1, "a long training"),
        "tr_pin_memory": Choice(1, "there is a GPU"),
        "data_transform_device": _unless(not_on_gpu, "cpu") or Choice("cuda", "there is a GPU"),
    }


def _unless(reasons: Iterable[tuple[object, str]], value: int | str) -> Choice | None:
    """Return the value with the first reason that holds; None where none does."""
    return next((Choice(value, reason) for holds, reason in reasons if holds), None)


def _from(gpu: Gpu, needed: tuple[int, int]) -> Choice:
    has, needs = (".".join(map(str, pair)) for pair in (gpu.capability, needed))
    if gpu.capability < needed:
        return Choice(0, f"compute capability {has}, {needs} is needed")
    return Choice(1, f"compute capability {has}")


def _workers(machine: Machine, work: Work) -> Choice:
    most, worker_gb, own_gb = _WORKERS[work]
    cores, reason = machine.num_cores, "one per core"
    if work != "preparation":
        is_gpu = machine.gpu is not None
        cores = cores - 1 if is_gpu else max(cores // 4, 2)
        reason = "all cores but one" if is_gpu else "the network takes the cores"
    by_memory = int((machine.memory_gb / machine.num_processes - own_gb) / worker_gb)
    if by_memory < min(cores, most):
        return Choice(max(by_memory, 1), "by memory")
    return Choice(max(min(cores, most), 1), reason)


def _batch_size(flags: Mapping[str, Any], gpu: Gpu | None) -> Choice:
    if gpu is None:
        return Choice(_BATCH, "as on every CPU")
    side = max(int(flags["data_img_size"]), _USUAL_SIDE)
    # The other half is for weights, workspace, and what a training keeps there.
    num_images = int(gpu.memory_gb * 1e9 / 2 / (_BYTES_PER_PIXEL * side**2))
    power = 1 << num_images.bit_length() >> 1
    return Choice(min(max(power, _SMALLEST_BATCH), _LARGEST_BATCH), "by the memory of the GPU")
