"""Does it fit? Memory of devices, and of models before their weights are read. No torch unless it is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import sys

import psutil

from nirvana.errors import ModelError

HEADROOM = 0.95  # the share of free memory that weights may take; activations are sized to what is left


def available_memory(device: str = "cpu") -> int:
    """Free bytes on a device: of the system for "cpu" and "mps", of the card for "cuda"."""
    if device.startswith("cuda"):
        torch = sys.modules["torch"]
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return int(psutil.virtual_memory().available)


def give_back_free_memory() -> None:
    """Return freed memory to the system: glibc keeps it for the process, however large it is, until it is told."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such call, and less need of it
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
