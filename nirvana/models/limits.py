"""Memory checks: free memory of devices against a model's size, before weights are read. Does not import torch."""

from __future__ import annotations

import contextlib
import ctypes
import sys

import psutil

from nirvana.errors import ModelError

SHARE = 0.8  # of free memory that work above the weights may take: its estimate is not exact
HEADROOM = 0.95  # the share of free memory that weights may take; activations are sized to the rest


def available_memory(device: str = "cpu") -> int:
    """Free bytes on a device: of the system for "cpu" and "mps", of the card for "cuda"."""
    if device.startswith("cuda"):
        torch = sys.modules["torch"]
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return int(psutil.virtual_memory().available)


def give_back_free_memory() -> None:
    """Return freed memory to the system; glibc otherwise keeps it for the process."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def check_fits(weight_bytes: int, device: str, name: str) -> None:
    """Check that the weights fit on the device.

    Raises:
        ModelError: with both sizes.
    """
    free = available_memory(device)
    if weight_bytes > free * HEADROOM:
        raise ModelError(
            f"{name} needs {weight_bytes / 2**30:.1f} GiB for its weights; {device} has {free / 2**30:.1f} GiB free.",
            "Choose a smaller model, a smaller dtype such as bfloat16, another device, or close other programs.",
        )
