"""Detection of failed allocations, and the error for them. Does not import torch."""

from __future__ import annotations

from pathlib import Path

from nirvana.errors import KEPT

CPU_ALLOCATOR = "can't allocate memory"  # message of torch's CPU allocator, in a plain RuntimeError
MESSAGE = "Memory ran out."
ADVICE = "Use fewer or shorter samples, a smaller model or dtype, or close other programs."
HINT = f"{ADVICE} {KEPT}"
COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))  # of the system, and of this container


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on the CPU or on an accelerator."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or CPU_ALLOCATOR in str(error)


def kills() -> int | None:
    """Processes that the system has killed so far because memory ran out; None where it does not count them."""
    found = []
    for path in COUNTERS:
        try:
            lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
            found += [int(count) for name, count in filter(lambda line: len(line) == 2, lines) if name == "oom_kill"]
        except (OSError, ValueError):
            continue
    return sum(found) if found else None
