"""Regenerate the pictures of the README from the real dashboard on the example run.

    python -m benchmarks.walkthrough [--folder docs]

Writes `screenshot.png`, the Saliency page, and `walkthrough.gif`, one frame for each page and two while a slider
moves. Needs Chromium and the requirements of the tests.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from nirvana.dashboard.guide import PAGES
from tests.browser.conftest import FLAGS, TIMEOUT, chromium, start_server

SIZE = {"width": 1280, "height": 720}
WIDTH, COLOURS, SECONDS = 900, 96, 2.2  # of the animation
LEFT_OUT = {"runs"}
MOVES = 8  # steps of the slider


def settle(page: Page) -> None:
    """Wait until the script has ended, and its charts are drawn."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=TIMEOUT)
    page.wait_for_timeout(1500)


def frames(page: Page, url: str) -> Iterator[tuple[str, bytes]]:
    """Name and PNG of each frame."""
    for guide in PAGES:
        if guide.key in LEFT_OUT:
            continue
        page.goto(f"{url}/{'' if guide.key == 'home' else guide.key}")
        page.wait_for_selector("h1", timeout=TIMEOUT)
        settle(page)
        yield guide.key, page.screenshot()
        if guide.key == "allocation":
            slider = page.locator(".st-key-allocation-sparsity").get_by_role("slider")
            slider.focus()
            for _ in range(MOVES):
                slider.press("ArrowRight")
            settle(page)
            yield f"{guide.key}, moved", page.screenshot()


def animation(pictures: list[bytes], file: Path) -> None:
    """Write the frames as one GIF with a common palette."""
    small = []
    for picture in pictures:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        small.append(image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS))
    strip = Image.new("RGB", (WIDTH, sum(image.height for image in small)))
    for place, image in enumerate(small):
        strip.paste(image, (0, place * image.height))
    palette = strip.quantize(COLOURS, dither=Image.Dither.NONE)
    first, *rest = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in small)
    first.save(file, save_all=True, append_images=rest, duration=round(1000 * SECONDS), loop=0, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        server = start_server(Path(home))
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            found = dict(frames(browser.new_context(viewport=SIZE).new_page(), server.url))  # type: ignore[arg-type]
        finally:
            browser.close()
            server.process.terminate()
            server.process.wait(10)
    (folder / "screenshot.png").write_bytes(found["saliency"])
    animation(list(found.values()), folder / "walkthrough.gif")
    for file in ("screenshot.png", "walkthrough.gif"):
        print(f"{file}: {(folder / file).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
