"""The dashboard asks no other host for anything: no font, no script, no statistics."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request, WebSocket, expect

from nirvana.dashboard.guide import PAGES
from nirvana.reporting.html.report import report_html
from nirvana.runs.store import Store
from tests.browser.conftest import Server


def record(page: Page) -> list[str]:
    """Addresses of everything that the page asks for from now on, refused or not."""
    asked: list[str] = []

    def request(found: Request) -> None:
        asked.append(found.url)

    def socket(found: WebSocket) -> None:
        asked.append(found.url)

    page.on("request", request)
    page.on("websocket", socket)
    return asked


def outside(asked: list[str], host: str) -> list[str]:
    return [address for address in asked if urlsplit(address).scheme not in ("data", "blob") and host not in address]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_served_by_this_server_alone(page: Page, server: Server, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    asked = record(page)
    host = urlsplit(server.url).netloc
    for guide in PAGES:
        page.goto(f"{server.url}/{'' if guide.key == 'home' else guide.key}?run=example")
        expect(page.get_by_role("heading", name=guide.title, exact=True).first).to_be_visible()
        page.wait_for_load_state("networkidle")
    assert len(asked) > 3 * len(PAGES)
    assert outside(asked, host) == []


def test_the_report_asks_for_nothing(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIRVANA_HOME", str(tmp_path / "home"))
    file = tmp_path / "report.html"
    file.write_text(report_html(Store().open("example")), encoding="utf-8")
    asked = record(page)
    page.goto(file.as_uri())
    page.wait_for_load_state("networkidle")
    assert asked and outside(asked, str(file)) == []


def test_a_request_to_another_host_is_noticed(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text('<img src="http://192.0.2.1/icon.png">', encoding="utf-8")
    asked = record(page)
    page.goto(file.as_uri())
    assert outside(asked, str(file)) == ["http://192.0.2.1/icon.png"]
