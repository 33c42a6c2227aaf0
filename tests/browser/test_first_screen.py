"""The first screen of every page, and its accessibility by axe-core."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from nirvana.dashboard.guide import GUIDES, PAGES, STEP_GUIDES
from tests.browser.conftest import TIMEOUT, Server
from tests.browser.test_example import settled

SIZES = {"laptop": (1280, 720), "desktop": (1440, 900), "phone": (390, 844)}
SERIOUS = {"serious", "critical"}
TOPICS = ("kernel", "one-weight", "unit", "kv-groups", "first-order", "gamma", "theorem", "why-it-loses")
# Streamlit's own markup: the lists of its navigation hold other elements than items.
OF_STREAMLIT = {"list", "listitem"}


def open_page(server: Server, page: Page, key: str) -> None:
    page.goto(f"{server.url}/{'' if key == 'home' else key}")
    settled(page)


def serious(page: Page) -> list[tuple[str, list[str]]]:
    """Violations that are serious and not Streamlit's own: rule, and the first elements."""
    return [
        (violation["id"], [node["html"][:160] for node in violation["nodes"][:3]])
        for violation in Axe().run(page).response["violations"]
        if violation["impact"] in SERIOUS and violation["id"] not in OF_STREAMLIT
    ]


@pytest.mark.parametrize("size", SIZES)
def test_the_first_chart_of_each_step_is_on_the_first_screen(server: Server, browser: Browser, size: str) -> None:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height})
    page, below = context.new_page(), {}
    for guide in (*STEP_GUIDES.values(), GUIDES["unit"]):
        open_page(server, page, guide.key)
        chart = page.locator(".js-plotly-plot").first
        chart.locator(".main-svg").first.wait_for(timeout=TIMEOUT)
        box = chart.bounding_box()
        assert box is not None
        if box["y"] + box["height"] > height:
            below[guide.key] = (round(box["y"]), round(box["y"] + box["height"]))
    context.close()
    assert not below


def test_the_buttons_over_a_chart_cover_no_data(server: Server, page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    covered = []
    for guide in (*STEP_GUIDES.values(), GUIDES["unit"]):
        open_page(server, page, guide.key)
        page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=TIMEOUT)
        for chart in page.locator(".js-plotly-plot").all():
            bar, data = chart.locator(".modebar").bounding_box(), chart.locator(".nsewdrag").first.bounding_box()
            if bar and data and bar["y"] + bar["height"] > data["y"] + 1:
                covered.append((guide.key, round(bar["y"] + bar["height"]), round(data["y"])))
    assert not covered


@pytest.mark.parametrize("size", SIZES)
def test_each_picture_of_the_method_is_on_the_first_screen(server: Server, browser: Browser, size: str) -> None:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height})
    page, below = context.new_page(), {}
    for topic in TOPICS:
        open_page(server, page, f"method?topic={topic}")
        chart = page.locator(".js-plotly-plot").first
        chart.locator(".main-svg").first.wait_for(timeout=TIMEOUT)
        box = chart.bounding_box()
        assert box is not None
        if box["y"] + box["height"] > height:
            below[topic] = (round(box["y"]), round(box["y"] + box["height"]))
    context.close()
    assert not below


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_topic_of_the_method_has_a_serious_violation(server: Server, browser: Browser, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page, found = context.new_page(), []
    for topic in (*TOPICS, "glossary"):
        open_page(server, page, f"method?topic={topic}")
        page.wait_for_timeout(1_000)
        found += [(topic, *violation) for violation in serious(page)]
    context.close()
    assert found == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_violation(server: Server, browser: Browser, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page, found = context.new_page(), []
    for guide in PAGES:
        open_page(server, page, guide.key)
        violations = serious(page)
        if violations:  # an element that is still faded in, after a rerun, has little contrast for a moment
            page.wait_for_timeout(3_000)
            violations = serious(page)
        found += [(guide.key, *violation) for violation in violations]
    context.close()
    assert found == []
