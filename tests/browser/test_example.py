"""The packaged example run in a real browser: every page draws, clicks choose, nothing overflows."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from nirvana.dashboard.guide import PAGES
from tests.browser.conftest import TIMEOUT, Server

CHARTS = {"model": 1, "calibration": 2, "saliency": 4, "allocation": 3, "prune": 2, "compare": 1, "method": 1}


def settled(page: Page) -> None:
    """Wait until the script has run and its charts are drawn."""
    expect(page.locator("h1").first).to_be_visible(timeout=TIMEOUT)
    expect(page.get_by_test_id("stApp")).to_have_attribute(
        "data-test-script-state", re.compile("notRunning|compilationError"), timeout=TIMEOUT
    )


def click_chart(page: Page, key: str, x: float, y: float) -> None:
    """Click on the data of the chart `key`, at shares of its width and height."""
    data = page.locator(f".st-key-{key.replace('.', '-')} .nsewdrag").first
    expect(data).to_be_visible(timeout=TIMEOUT)
    box = data.bounding_box()
    assert box is not None
    data.click(position={"x": box["width"] * x, "y": box["height"] * y})


def test_each_page_draws_and_keeps_the_run_in_the_url(server: Server, page: Page) -> None:
    page.goto(server.url)
    settled(page)
    for guide in PAGES:
        title = "Home" if guide.key == "home" else guide.title
        page.get_by_test_id("stSidebarNavLink").filter(has_text=re.compile(f"{title}$")).click()
        expect(page.locator("h1").first).to_have_text(guide.title, timeout=TIMEOUT)
        settled(page)
        expect(page).to_have_url(re.compile("run=example"))
        expect(page.get_by_test_id("stException")).to_have_count(0)
        expect(page.get_by_test_id("stAlertContentError")).to_have_count(0)
        for chart in range(CHARTS.get(guide.key, 0)):
            expect(page.locator(".js-plotly-plot .nsewdrag").nth(chart)).to_be_attached(timeout=TIMEOUT)


def test_a_click_on_the_heatmap_chooses_the_layer(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/saliency")
    settled(page)
    before = page.url
    click_chart(page, "saliency.heatmap.mlp", 0.5, 0.6)
    page.wait_for_url(lambda url: url != before and "&layer=" in url)
    chosen = re.search(r"&layer=(\d+)", page.url)
    assert chosen is not None
    assert 10 < int(chosen[1]) < 25  # 60 % down a map of 30 layers, the first at the top
    expect(page.get_by_text(re.compile(rf"Which neurons of layer {chosen[1]} are removed\?"))).to_be_visible(
        timeout=TIMEOUT
    )

    page.reload()
    settled(page)
    expect(page.get_by_text(re.compile(rf"Which neurons of layer {chosen[1]} are removed\?"))).to_be_visible(
        timeout=TIMEOUT
    )


def test_a_slider_replans_without_a_job(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/allocation")
    settled(page)
    achieved = page.get_by_test_id("stMetric").filter(has_text="Achieved sparsity").get_by_test_id("stMetricValue")
    expect(achieved).to_have_text(re.compile(r"^0\.(199|200)"), timeout=TIMEOUT)
    slider = page.locator(".st-key-allocation-sparsity").get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    expect(achieved).to_have_text(re.compile(r"^0\.(209|210)"), timeout=TIMEOUT)
    expect(page).to_have_url(re.compile("run=example"))
