"""Start-up time and memory of the command line and the dashboard's server.

    python -m benchmarks.startup

Every start is a process of its own; the first one, which reads the disk, does not count.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from statistics import median
from typing import Any

import psutil

from benchmarks.tables import markdown
from nirvana.site_folder import site_folder

REPEATS = 5
COMMANDS = {
    "import nirvana": ["-c", "import nirvana"],
    "nirvana --help": ["-m", "nirvana", "--help"],
    "nirvana runs": ["-m", "nirvana", "runs"],
    "nirvana corpora": ["-m", "nirvana", "corpora"],
    "import torch, transformers": ["-c", "import torch, transformers"],
}
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def command(arguments: list[str], home: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of one process, read every five milliseconds."""
    start, peak = time.perf_counter(), 0
    process = psutil.Popen([sys.executable, *arguments], env=os.environ | {"NIRVANA_HOME": home}, **QUIET)
    while process.poll() is None:
        with suppress(psutil.Error):
            peak = max(peak, process.memory_info().rss)
        time.sleep(0.005)
    return time.perf_counter() - start, peak


def server(home: str) -> tuple[float, int]:
    """Seconds until the server answers, and its resident bytes then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "streamlit", "run", str(site_folder() / "app.py"), "--server.port", str(port)]
    line += ["--server.headless", "true", "--server.address", "127.0.0.1"]
    start = time.perf_counter()
    process = psutil.Popen(line, env=os.environ | {"NIRVANA_HOME": home}, **QUIET)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1):
                    return time.perf_counter() - start, process.memory_info().rss
            except OSError:
                if process.poll() is not None:
                    raise SystemExit("The server ended before it answered.") from None
                time.sleep(0.02)
    finally:
        process.terminate()
        process.wait()


def table() -> str:
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for name, arguments in COMMANDS.items():
            found = [command(arguments, home) for _ in range(REPEATS + 1)][1:]  # the first one reads the disk
            rows.append([f"`{name}`", f"{median(seconds for seconds, _ in found):.2f} s"])
            rows[-1].append(f"{median(size for _, size in found) / 1e6:.0f} MB")
        found = [server(home) for _ in range(REPEATS)]
        rows.append(["the server answers", f"{median(seconds for seconds, _ in found):.2f} s"])
        rows[-1].append(f"{median(size for _, size in found) / 1e6:.0f} MB")
    return markdown(["what", "time", "memory"], rows)


if __name__ == "__main__":
    print(table())
