"""Markdown tables, and what a measurement ran on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
import transformers

CPUINFO = Path("/proc/cpuinfo")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Processor, threads, memory and versions, in a sentence."""
    model = platform.processor() or platform.machine()
    if CPUINFO.exists():
        named = [line.partition(":")[2].strip() for line in CPUINFO.read_text().splitlines() if "model name" in line]
        model = named[0] if named else model
    memory, today = psutil.virtual_memory().total / 2**30, datetime.now(UTC).date().isoformat()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    return f"{model}, {torch.get_num_threads()} threads, {memory:.0f} GiB. {versions}. {today}."
