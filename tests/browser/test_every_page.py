"""Every page at four sizes, light and dark: it draws without an error, its picture on the first screen, no overflow, no
request to another host, and no serious violation by axe-core. The browser goes through the pages once on a screen and
once on a phone.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import TimeoutError as TooLate

from nirvana.dashboard.guide import GUIDES, PAGES, STEP_GUIDES
from tests.browser.conftest import TIMEOUT, Server
from tests.browser.requests import outside, record
from tests.browser.test_example import settled

DESKTOP, LAPTOP, PHONE = (1440, 900), (1280, 720), (390, 844)
SERIOUS = {"serious", "critical"}
# Streamlit's own markup: the lists of its navigation hold other elements than items.
OF_STREAMLIT = {"list", "listitem"}
TOPICS = (
    "One weight",
    "Unit",
    "KV groups",
    "First order",
    "gamma",
    "Text by KL",
    "Theorem",
    "Why it loses",
    "Glossary",
)
TOPIC_ADDRESSES = [f"method, {topic}" for topic in TOPICS]
ADDRESSES = [at for guide in PAGES for at in (guide.key, *(TOPIC_ADDRESSES if guide.key == "method" else ()))]
# Pages of the example that have a chart.
PICTURES = {"home", "experiments", "method", "sweep", "tune", "unit", *(guide.key for guide in STEP_GUIDES.values())}
CHARTS = {"model": 1, "calibration": 2, "saliency": 4, "allocation": 3, "prune": 2, "compare": 1, "method": 1}
REDRAWN = 600  # milliseconds after a change of the size


def has_picture(address: str) -> bool:
    return address in PICTURES or (address in TOPIC_ADDRESSES and not address.endswith(("Text by KL", "Glossary")))


def go_to(page: Page, address: str) -> None:
    """Open a page of the navigation, or a topic of the Method page, without loading the dashboard again."""
    key, _, topic = address.partition(", ")
    if topic:
        page.get_by_role("tab", name=topic, exact=True).click()
        expect(page.get_by_role("tab", name=topic, exact=True)).to_have_attribute("aria-selected", "true")
    else:
        link = page.locator(f"a[data-testid='stSidebarNavLink'][href$='/{'' if key == 'home' else key}']")
        if page.viewport_size == dict(zip(("width", "height"), PHONE, strict=True)):
            link.dispatch_event("click")  # the navigation is folded away
        else:
            link.click()
        expect(page.locator("h1").first).to_have_text(GUIDES[key].title, timeout=TIMEOUT)
    page.wait_for_timeout(REDRAWN // 3)  # until the script has begun
    settled(page)


def resized(page: Page, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.wait_for_timeout(REDRAWN)


def undrawn(page: Page, address: str) -> Iterator[str]:
    """Faults of a page of the example: missing charts, a wrong URL, an error."""
    if count := CHARTS.get(address):
        try:
            page.locator(".js-plotly-plot .nsewdrag").nth(count - 1).wait_for(state="attached")
        except TooLate:
            yield f"fewer than {count} charts"
    if "run=example" not in page.url:
        yield page.url
    for error in ("stException", "stAlertContentError"):
        yield from page.get_by_test_id(error).all_inner_texts()


def below(page: Page, height: int) -> Iterator[str]:
    """The first chart, if it is not on the first screen."""
    chart = page.locator(".js-plotly-plot").first
    try:
        chart.locator(".main-svg").first.wait_for()
    except TooLate:
        yield "no chart"
        return
    box = chart.bounding_box()
    assert box is not None
    if box["y"] + box["height"] > height:
        yield f"the first chart ends at {box['y'] + box['height']:.0f} of {height} pixels"


def covered(page: Page) -> Iterator[str]:
    """Charts whose buttons cover their data."""
    for chart in page.locator(".js-plotly-plot").all():
        bar, data = chart.locator(".modebar").bounding_box(), chart.locator(".nsewdrag").first.bounding_box()
        if bar and data and bar["y"] + bar["height"] > data["y"] + 1:
            yield f"buttons down to {bar['y'] + bar['height']:.0f} over data from {data['y']:.0f}"


def too_wide(page: Page, width: int) -> Iterator[str]:
    found = page.get_by_test_id("stMain").evaluate("element => element.scrollWidth")
    if found > width:
        yield f"{found} pixels wide on a screen of {width}"


def violations(page: Page) -> list[str]:
    """Violations that are serious and not Streamlit's own: rule, and the first elements."""
    found = [each for each in Axe().run(page).response["violations"] if each["impact"] in SERIOUS]
    return [
        f"{each['id']}: {[node['html'][:160] for node in each['nodes'][:3]]}"
        for each in found
        if each["id"] not in OF_STREAMLIT
    ]


def faults(page: Page, address: str, first: tuple[int, int]) -> Iterator[str]:
    """Faults of the page, which was loaded at the size `first`."""
    yield from undrawn(page, address)
    if has_picture(address):
        yield from below(page, first[1])
    if first == PHONE:
        yield from too_wide(page, PHONE[0])
        if address in TOPIC_ADDRESSES:  # whose colours are those of the page
            return
        resized(page, DESKTOP)
    else:
        yield from covered(page)
        resized(page, LAPTOP)
        if has_picture(address):
            yield from below(page, LAPTOP[1])
    if violations(page):  # an element that is still faded in, after a rerun, has little contrast for a moment
        page.wait_for_timeout(3_000)
        yield from violations(page)


@pytest.mark.parametrize(("scheme", "size"), [("light", DESKTOP), ("dark", PHONE)], ids=["light-desktop", "dark-phone"])
def test_every_page_is_in_order(example_server: Server, browser: Browser, scheme: str, size: tuple[int, int]) -> None:
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(TIMEOUT)
    page, found = context.new_page(), {}
    asked = record(page)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(example_server.url)
    settled(page)
    for address in ADDRESSES:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        go_to(page, address)
        if faulty := list(faults(page, address, size)):
            found[address] = faulty
    context.close()
    assert found == {}
    assert len(asked) > 20
    assert outside(asked, urlsplit(example_server.url).netloc) == []
