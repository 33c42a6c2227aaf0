"""Devices as a page lists them, without torch and whatever the machine has."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from nirvana.models import devices
from nirvana.models.devices import DeviceInfo, parse_nvidia_smi


def test_the_cpu_is_always_last() -> None:
    found = devices.devices()[-1]
    assert found.name == "cpu"
    assert 0 < found.free <= found.total


def test_nvidia_cards_are_read_from_their_tool() -> None:
    answer = "NVIDIA A10G, 22000, 23028\nNVIDIA H100, [N/A], [N/A]\nTesla T4, 16GB, 100, 15360\n\nno answer"
    assert parse_nvidia_smi(answer) == [
        DeviceInfo("cuda:0", "NVIDIA A10G", 22000 << 20, 23028 << 20),
        DeviceInfo("cuda:2", "Tesla T4, 16GB", 100 << 20, 15360 << 20),
    ]


@pytest.mark.parametrize("failure", [OSError(), subprocess.TimeoutExpired("nvidia-smi", 5)])
def test_a_driver_that_does_not_answer_leaves_the_cpu(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(devices, "ROCM_CARDS", Path("/nowhere"))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert [device.name for device in devices.devices()] == ["cpu"]


def test_amd_cards_are_read_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "card1" / "device"
    folder.mkdir(parents=True)
    (folder / "mem_info_vram_total").write_text("1000\n")
    (folder / "mem_info_vram_used").write_text("400\n")
    monkeypatch.setattr(devices, "ROCM_CARDS", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert devices.devices()[0] == DeviceInfo("cuda:0", "AMD GPU (ROCm)", 600, 1000)


def test_apple_silicon_is_known_by_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(devices, "ROCM_CARDS", Path("/nowhere"))
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert [device.name for device in devices.devices()] == ["mps", "cpu"]
