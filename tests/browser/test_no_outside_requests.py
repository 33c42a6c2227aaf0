"""The report asks no other host for anything: no font, no script, no statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from nirvana.reporting.html.report import report_html
from nirvana.runs.store import Store
from tests.browser.requests import outside, record


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
