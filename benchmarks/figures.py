"""The last line of a benchmark: figures and peak memory, as JSON for benchmarks/tables.py."""

import json
import resource
from typing import Any

from common.memory import peak_memory_mb


def print_figures(figures: dict[str, Any]) -> None:
    """Print figures as one line of JSON, with the peak memory of the run so far in MiB.

    `peak_memory_mb` is that of this process, `peak_child_memory_mb` that of the largest process
    that it started and waited for; figures of these names that are given are kept.
    """
    child_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    memory = {"peak_memory_mb": peak_memory_mb(), "peak_child_memory_mb": child_mb}
    print(json.dumps({name: round(mb, 1) for name, mb in memory.items()} | figures))
