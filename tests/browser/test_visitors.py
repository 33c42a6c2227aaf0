"""A public demo in a real browser: its cookie tells visitors apart, and a reload finds the visitor's run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from nirvana.runs.store import Store
from tests.browser.conftest import TIMEOUT, Server, start_server
from tests.browser.test_example import settled
from tests.browser.test_live import press


@pytest.fixture
def demo(own_home: Path, library_texts: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NIRVANA_PUBLIC_DEMO", "1")
    running = start_server(own_home)
    yield running
    running.process.terminate()
    running.process.wait(10)


def test_a_link_opens_a_run_for_its_visitor_only(demo: Server, browser: Browser, page: Page) -> None:
    page.goto(demo.url)
    settled(page)
    press(page, "home-demo")
    expect(page).to_have_url(re.compile("run=(?!example)"), timeout=TIMEOUT)
    link = page.url
    run_id = parse_qs(urlsplit(link).query)["run"][0]
    assert Store(demo.home).open(run_id).visitor

    other = browser.new_context()
    other.set_default_timeout(TIMEOUT)
    stranger = other.new_page()
    stranger.goto(link)
    expect(stranger.get_by_text("There is no such run.")).to_be_visible(timeout=TIMEOUT)
    expect(stranger).to_have_url(re.compile("run=example"), timeout=TIMEOUT)
    expect(stranger.get_by_text(re.compile("Busy with . jobs? of other visitors"))).to_be_visible(timeout=TIMEOUT)
    expect(stranger.get_by_text("Demo with")).to_have_count(0)
    other.close()

    page.reload()
    tab = page.context.new_page()
    tab.goto(link)
    for each in (page, tab):
        expect(each.get_by_test_id("stSidebar").get_by_text("Demo with")).to_be_visible(timeout=TIMEOUT)
        expect(each).to_have_url(re.compile(f"run={run_id}"))
