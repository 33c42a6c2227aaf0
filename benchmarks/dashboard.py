"""Times of the dashboard in Chromium: first paint, a switch to each page, and a slider, on the example run.

    python -m benchmarks.dashboard [--rounds 3]

A page is stable once its script has ended and nothing on it has changed for half a second; the time is that of the
last change. The first round includes what the server computes once. Needs Chromium and the requirements of the tests,
and an idle machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, Page, sync_playwright

from nirvana.dashboard.guide import GUIDES, PAGES, PageGuide
from tests.browser.conftest import FLAGS, TIMEOUT, chromium, start_server

QUIET = 500  # milliseconds without a change
SLIDERS = {"allocation.sparsity": "allocation", "allocation.gamma": "allocation", "saliency.layer": "saliency"}
PRESSES = 5
# Times of changes in milliseconds since the last click; a change of an animation or of the clock does not count.
WATCH = """() => {
  window.lastChange = 0;
  if (window.watching) return;
  window.watching = new MutationObserver(() => { window.lastChange = performance.now(); });
  window.watching.observe(document.querySelector('[data-testid="stApp"]'),
    {subtree: true, childList: true, characterData: true});
}"""
STABLE = """quiet => {
  const app = document.querySelector('[data-testid="stApp"]');
  const done = app && app.getAttribute('data-test-script-state') === 'notRunning';
  return done && window.lastChange > 0 && performance.now() - window.lastChange > quiet;
}"""


class Visit:
    """One browser tab, whose changes are watched."""

    def __init__(self, page: Page) -> None:
        self.page, self._start = page, 0.0

    def begin(self) -> None:
        """Start the clock."""
        self.page.evaluate(WATCH)
        self._start = self.page.evaluate("performance.now()")

    def until_text(self, selector: str, text: str) -> float:
        """Seconds until an element has a text."""
        self.page.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.innerText.trim() === text",
            arg=[selector, text],
            polling="raf",
            timeout=TIMEOUT,
        )
        return self._seconds("performance.now()")

    def until_stable(self) -> float:
        """Seconds until the last change."""
        self.page.wait_for_function(STABLE, arg=QUIET, polling=50, timeout=TIMEOUT)
        return self._seconds("window.lastChange")

    def _seconds(self, now: str) -> float:
        return (float(self.page.evaluate(now)) - self._start) / 1000


def first_paint(browser: Browser, url: str, visits: int) -> list[float]:
    """Seconds from the request to the heading, each in a fresh browser context."""
    found = []
    for _ in range(visits):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page, start = context.new_page(), time.perf_counter()
        page.goto(url, wait_until="commit")
        page.wait_for_selector("h1", timeout=TIMEOUT)
        found.append(time.perf_counter() - start)
        context.close()
    return found


def switch(visit: Visit, guide: PageGuide) -> tuple[float, float]:
    """Seconds from the click in the sidebar to the page's heading, and until it is stable."""
    title = "Home" if guide.key == "home" else guide.title
    visit.begin()
    visit.page.get_by_test_id("stSidebarNavLink").get_by_text(title, exact=True).click()
    heading = visit.until_text("h1", guide.title)
    return heading, visit.until_stable()


def press(visit: Visit, key: str) -> float:
    """Seconds from a step of a slider until the page is stable."""
    slider = visit.page.locator(f".st-key-{key.replace('.', '-')}").get_by_role("slider")
    slider.focus()
    visit.begin()
    slider.press("ArrowRight")
    return visit.until_stable()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        server = start_server(Path(home))
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            paints = first_paint(browser, server.url, rounds + 1)
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            page.goto(server.url)
            visit = Visit(page)
            visit.until_text("h1", GUIDES["home"].title)
            times: dict[str, list[tuple[float, float]]] = {}
            for _ in range(rounds + 1):
                for guide in (*PAGES[1:], PAGES[0]):
                    times.setdefault(guide.key, []).append(switch(visit, guide))
            moves = {}
            for key, where in SLIDERS.items():
                switch(visit, GUIDES[where])
                moves[key] = [press(visit, key) for _ in range(PRESSES)]
        finally:
            browser.close()
            server.process.terminate()
            server.process.wait(10)
    print(f"First paint: {paints[0]:.2f} s at the first visit, {median(paints[1:]):.2f} s later\n")
    print("| page | heading, first visit | stable, first visit | heading | stable |\n|---|---|---|---|---|")
    for guide in PAGES:
        first, *later = times[guide.key]
        heading, stable = (median(each[part] for each in later) for part in (0, 1))
        print(f"| {guide.title} | {first[0]:.2f} s | {first[1]:.2f} s | {heading:.2f} s | {stable:.2f} s |")
    print("\n| slider | stable, median | slowest |\n|---|---|---|")
    for key, found in moves.items():
        print(f"| `{key}` | {median(found):.2f} s | {max(found):.2f} s |")


if __name__ == "__main__":
    main()
