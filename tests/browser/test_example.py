"""The packaged example run in a real browser: clicks choose, and a slider plans anew."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import TIMEOUT, Server


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


def test_a_click_on_the_heatmap_chooses_the_layer(example_server: Server, page: Page) -> None:
    page.goto(f"{example_server.url}/saliency")
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


def test_a_slider_replans_without_a_job(example_server: Server, page: Page) -> None:
    page.goto(f"{example_server.url}/allocation")
    settled(page)
    achieved = page.get_by_test_id("stMetric").filter(has_text="Achieved sparsity").get_by_test_id("stMetricValue")
    expect(achieved).to_have_text(re.compile(r"^(19\.9|20\.0)"), timeout=TIMEOUT)
    slider = page.locator(".st-key-allocation-sparsity").get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    expect(achieved).to_have_text(re.compile(r"^(20\.9|21\.0)"), timeout=TIMEOUT)
    expect(page).to_have_url(re.compile("run=example"))
