"""A selection in a real browser: a click is in the URL, on other pages, and restored by the copied link."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import TIMEOUT, Server
from tests.browser.test_example import click_chart, settled


def test_a_clicked_unit_is_in_the_url_on_other_pages_and_in_the_link(example_server: Server, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    page.goto(f"{example_server.url}/saliency")
    settled(page)
    click_chart(page, "saliency.heatmap.mlp", 0.3, 0.6)
    page.wait_for_url(re.compile(r"unit=mlp\.\d+"))
    settled(page)
    found = re.search(r"layer=(\d+).*unit=mlp\.(\d+)", page.url)
    assert found is not None
    layer, unit = found.groups()
    detail = page.locator(".st-key-saliency-detail")
    expect(detail).to_contain_text(f"Neuron {unit}, layer {layer}", timeout=TIMEOUT)
    place = detail.bounding_box()
    assert place is not None and place["y"] + 60 < 720, "it is on the first screen"

    page.get_by_test_id("stSidebarNavLink").filter(has_text=re.compile("Unit$")).click()
    expect(page.locator("h1").first).to_have_text("Unit", timeout=TIMEOUT)
    settled(page)
    expect(page.get_by_text(re.compile(rf"Neuron {unit}, layer {layer}")).first).to_be_visible(timeout=TIMEOUT)
    page.get_by_role("button", name="Copy link").click()
    shown = page.get_by_test_id("stPopoverBody").locator("code")
    expect(shown).to_contain_text(f"unit=mlp.{unit}", timeout=TIMEOUT)
    link = shown.inner_text().replace("\n", "")
    context.close()

    other = browser.new_context()
    other.set_default_timeout(TIMEOUT)
    reader = other.new_page()
    reader.goto(link)
    settled(reader)
    expect(reader.locator("h1").first).to_have_text("Unit", timeout=TIMEOUT)
    expect(reader.get_by_text(re.compile(rf"Neuron {unit}, layer {layer}")).first).to_be_visible(timeout=TIMEOUT)
    reader.reload()
    settled(reader)
    expect(reader).to_have_url(re.compile(rf"layer={layer}.*unit=mlp\.{unit}"), timeout=TIMEOUT)
    other.close()


def test_a_click_on_a_layer_of_a_plan_selects_it(example_server: Server, page: Page) -> None:
    page.goto(f"{example_server.url}/allocation")
    settled(page)
    click_chart(page, "allocation.kept.decoder", 0.66, 0.9)
    page.wait_for_url(re.compile(r"layer=\d+"))
    settled(page)
    found = re.search(r"layer=(\d+)", page.url)
    assert found is not None and 15 < int(found[1]) < 25  # two thirds along 30 layers
    expect(page.locator(".st-key-allocation-detail")).to_contain_text(f"Layer {found[1]} keeps", timeout=TIMEOUT)


def test_a_bad_link_is_shown_with_a_notice(example_server: Server, page: Page) -> None:
    page.goto(f"{example_server.url}/saliency?layer=77&unit=mlp.3")
    settled(page)
    expect(page.get_by_text(re.compile("The link names layer '77'"))).to_be_visible(timeout=TIMEOUT)
    expect(page).to_have_url(re.compile(r"layer=0.*unit=mlp\.3|unit=mlp\.3.*layer=0"), timeout=TIMEOUT)
