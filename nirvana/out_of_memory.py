"""Detection of failed allocations, and the error for them. Does not import torch."""

from __future__ import annotations

from nirvana.errors import KEPT

CPU_ALLOCATOR = "can't allocate memory"  # message of torch's CPU allocator, in a plain RuntimeError
MESSAGE = "Memory ran out."
ADVICE = "Use fewer or shorter samples, a smaller model or dtype, or close other programs."
HINT = f"{ADVICE} {KEPT}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on the CPU or on an accelerator."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or CPU_ALLOCATOR in str(error)
