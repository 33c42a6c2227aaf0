"""Lecture mode in a real browser: one chart fills the screen, and the arrow keys move on."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import TIMEOUT, Server

SMALLEST = 18  # pixels of a label


def slide(page: Page) -> dict[str, float]:
    """Box of the only chart on the page."""
    chart = page.locator(".js-plotly-plot")
    chart.first.locator(".main-svg").first.wait_for(timeout=TIMEOUT)
    expect(chart).to_have_count(1)
    box = chart.bounding_box()
    assert box is not None
    return {"y": box["y"], "width": box["width"], "height": box["height"]}


def test_one_chart_a_screen_in_large_type_and_the_arrow_keys_move_on(example_server: Server, page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(f"{example_server.url}/allocation?lecture=1")
    box = slide(page)
    assert box["width"] > 700 and box["height"] > 400 and box["y"] + box["height"] <= 720
    sizes = page.locator(".js-plotly-plot .xtick text").evaluate_all(
        "all => all.map(each => parseFloat(getComputedStyle(each).fontSize))"
    )
    assert sizes and min(sizes) >= SMALLEST
    expect(page.get_by_test_id("stSidebar")).to_be_hidden()
    assert page.get_by_test_id("stCaptionContainer").evaluate_all(
        "all => all.every(each => each.getBoundingClientRect().width === 0)"
    )
    bar = page.locator(".st-key-lecture-bar")
    expect(bar).to_contain_text("Allocation · 1 of")
    page.keyboard.press("ArrowRight")
    expect(bar).to_contain_text("Allocation · 2 of", timeout=TIMEOUT)
    expect(page).to_have_url(re.compile("lecture=2"))
    slide(page)
    page.keyboard.press("ArrowLeft")
    expect(bar).to_contain_text("Allocation · 1 of", timeout=TIMEOUT)
    page.get_by_role("button", name="End the lecture").click()
    expect(page.get_by_test_id("stSidebar")).to_be_visible(timeout=TIMEOUT)
    expect(page.locator("h1")).to_have_text("Allocation")
