"""A real server and a real Chromium. Skipped, with the reason, where no Chromium is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.processes import heed_interrupts

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 60_000  # milliseconds that Chromium may wait for anything; a passing test waits far less


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if chromium() is None:
                item.add_marker(pytest.mark.skip(reason="Chromium is not installed (Debian: apt install chromium)"))


@dataclass(frozen=True)
class Server:
    """A running dashboard with a home folder of its own."""

    url: str
    home: Path
    process: subprocess.Popen[bytes]


def start_server(home: Path) -> Server:
    """Start the dashboard on a free port and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (home / "server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={port}"],
        cwd=ROOT,
        env={**os.environ, "NIRVANA_HOME": str(home)},
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=heed_interrupts,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return Server(url, home, process)
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((home / "server.log").read_text()) from error
            time.sleep(0.1)


def _serving(home: Path, texts: Path) -> Iterator[Server]:
    shutil.copytree(texts, home / "cache" / "corpora")
    running = start_server(home)
    yield running
    running.process.terminate()
    try:
        running.process.wait(10)
    except subprocess.TimeoutExpired:
        running.process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, extracted_texts: Path) -> Iterator[Server]:
    """A dashboard in which the tests of a module may start runs."""
    yield from _serving(tmp_path_factory.mktemp("home"), extracted_texts)


@pytest.fixture(scope="session")
def example_server(tmp_path_factory: pytest.TempPathFactory, extracted_texts: Path) -> Iterator[Server]:
    """A dashboard with the example alone, for tests that start no run."""
    yield from _serving(tmp_path_factory.mktemp("home"), extracted_texts)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(TIMEOUT)
    yield context.new_page()
    context.close()
