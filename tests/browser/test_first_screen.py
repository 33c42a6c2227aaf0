"""The first screen of every page, and its accessibility by axe-core."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from nirvana.dashboard.guide import PAGES, STEP_GUIDES
from tests.browser.conftest import TIMEOUT, Server
from tests.browser.test_example import settled

SIZES = {"laptop": (1280, 720), "desktop": (1440, 900)}
SERIOUS = {"serious", "critical"}
# Streamlit's own markup: the lists of its navigation hold other elements than items.
OF_STREAMLIT = {"list", "listitem"}


def open_page(server: Server, page: Page, key: str) -> None:
    page.goto(f"{server.url}/{'' if key == 'home' else key}")
    settled(page)


@pytest.mark.parametrize("size", SIZES)
def test_the_first_chart_of_each_step_is_on_the_first_screen(server: Server, browser: Browser, size: str) -> None:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height})
    page, below = context.new_page(), {}
    for guide in STEP_GUIDES.values():
        open_page(server, page, guide.key)
        chart = page.locator(".js-plotly-plot").first
        chart.locator(".main-svg").first.wait_for(timeout=TIMEOUT)
        box = chart.bounding_box()
        assert box is not None
        if box["y"] + box["height"] > height:
            below[guide.key] = (round(box["y"]), round(box["y"] + box["height"]))
    context.close()
    assert not below


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_violation(server: Server, browser: Browser, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page, found = context.new_page(), []
    for guide in PAGES:
        open_page(server, page, guide.key)
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in SERIOUS and violation["id"] not in OF_STREAMLIT:
                nodes = [node["html"][:160] for node in violation["nodes"][:3]]
                found.append((guide.key, violation["id"], len(violation["nodes"]), nodes))
    context.close()
    assert found == []
