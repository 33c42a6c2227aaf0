"""Devices and their memory as a page shows them, found without importing torch."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

ROCM_CARDS = Path("/sys/class/drm")


@dataclass(frozen=True)
class DeviceInfo:
    """A place to compute, e.g. `DeviceInfo("cuda:0", "NVIDIA A10G", free=23 * 2**30, total=24 * 2**30)`."""

    name: str  # as for load_model
    title: str
    free: int  # bytes
    total: int


def devices() -> list[DeviceInfo]:
    """Every device that torch could use here, the fastest kind first, the CPU last; memory in bytes.

    Found by cheap hints (nvidia-smi, the kernel's list of AMD cards, the machine type), so a listed accelerator
    still needs a torch build for it.
    """
    memory = psutil.virtual_memory()
    cpu = DeviceInfo("cpu", f"CPU, {psutil.cpu_count() or 1} cores", int(memory.available), int(memory.total))
    accelerators = _nvidia() or _amd()
    if not accelerators and platform.system() == "Darwin" and platform.machine() == "arm64":
        accelerators = [DeviceInfo("mps", "Apple silicon", cpu.free, cpu.total)]  # memory is shared with the CPU
    return [*accelerators, cpu]


def _nvidia() -> list[DeviceInfo]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_nvidia_smi(answer)


def parse_nvidia_smi(answer: str) -> list[DeviceInfo]:
    """Parse lines such as `NVIDIA A10G, 22000, 23028` (MiB); lines without numbers are skipped."""
    found = []
    for index, line in enumerate(answer.strip().splitlines()):
        parts = line.rsplit(",", 2)
        if len(parts) < 3:
            continue
        title, free, total = parts
        if free.strip().isdigit() and total.strip().isdigit():
            found.append(DeviceInfo(f"cuda:{index}", title.strip(), int(free) << 20, int(total) << 20))
    return found


def _amd() -> list[DeviceInfo]:
    """AMD cards, which torch also calls cuda, from the kernel's counters."""
    found: list[DeviceInfo] = []
    for total_file in sorted(ROCM_CARDS.glob("card*/device/mem_info_vram_total")):
        try:
            total = int(total_file.read_text(encoding="ascii"))
            used = int(total_file.with_name("mem_info_vram_used").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        found.append(DeviceInfo(f"cuda:{len(found)}", "AMD GPU (ROCm)", total - used, total))
    return found
