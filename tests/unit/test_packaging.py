"""The wheel: what it installs works from any folder, the dashboard with its pages, theme and example included."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure import ROOT

VISIT = """
import sys
from streamlit.testing.v1 import AppTest
from nirvana.dashboard.guide import PAGES
from nirvana.site_folder import site_folder
app = AppTest.from_file(str(site_folder() / "app.py"), default_timeout=60).run()
for guide in PAGES:
    app.switch_page(guide.path).run()
    assert not app.exception, (guide.key, app.exception[0].message)
    print(app.title[0].value)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the built wheel, which finds dependencies in the present one."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.split(b"\0")
    names = [name.decode() for name in tracked if name and not name.startswith((b"tests/", b"docs/"))]
    if not names:
        pytest.skip("not a git checkout")
    for name in names:
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = ["wheel", str(folder / "source"), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *built], check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    present = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    (Path(own) / "dependencies.pth").write_text(f"{present}\n")
    (wheel,) = folder.glob("*.whl")
    target = ["--python", str(python), "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    subprocess.run([*pip, *target], check=True, capture_output=True)
    return python


@pytest.fixture
def elsewhere(tmp_path: Path, own_home: Path) -> Iterator[dict[str, str]]:
    """The environment of a shell in an empty folder, which knows nothing of the checkout."""
    (tmp_path / "empty").mkdir()
    before = Path.cwd()
    os.chdir(tmp_path / "empty")
    yield {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.chdir(before)


def ask(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_and_its_command_work_from_another_folder(installed: Path, elsewhere: dict[str, str]) -> None:
    where = Path(ask([str(installed), "-c", "import nirvana; print(nirvana.__file__)"], elsewhere).strip())
    assert installed.parents[1] in where.parents
    command = str(installed.with_name("nirvana"))
    assert ask([command, "--version"], elsewhere).strip() == "0.1.0"
    assert "tiny-llama" in ask([command, "inspect", "tiny-llama"], elsewhere)
    assert "example" in ask([command, "runs", "show", "example"], elsewhere)


def test_every_page_of_the_installed_dashboard_opens(installed: Path, elsewhere: dict[str, str]) -> None:
    from nirvana.dashboard.guide import PAGES

    assert ask([str(installed), "-c", VISIT], elsewhere).splitlines() == [guide.title for guide in PAGES]
    site = "from nirvana.site_folder import site_folder; print(site_folder())"
    folder = Path(ask([str(installed), "-c", site], elsewhere).strip())
    assert installed.parents[1] in folder.parents
    settings = ROOT / ".streamlit" / "config.toml"
    assert (folder / ".streamlit" / "config.toml").read_bytes() == settings.read_bytes()


def test_the_installed_dashboard_is_served(installed: Path, elsewhere: dict[str, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [str(installed.with_name("nirvana")), "app", "--port", str(port), "--", "--server.headless", "true"]
    server = subprocess.Popen(line, env=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert wait_for(f"http://127.0.0.1:{port}/_stcore/health", server) == b"ok"
        assert b"<title>" in wait_for(f"http://127.0.0.1:{port}/", server)
    finally:
        server.terminate()
        assert server.wait(timeout=20) is not None


def wait_for(address: str, server: subprocess.Popen[bytes]) -> bytes:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                content: bytes = answer.read()
                return content
        except OSError:
            time.sleep(0.2)
    output = server.stdout.read().decode() if server.poll() is not None and server.stdout else ""
    raise AssertionError(f"{address} does not answer. {output}")
