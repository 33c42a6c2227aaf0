"""Time to the first page: from the request to the visible heading, on a running server.

    python -m benchmarks.first_paint [--visits 5]

The first visit includes the server's imports; later ones are reloads. Needs Chromium and the requirements of the tests.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import FLAGS, chromium, start_server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=5)
    visits = parser.parse_args().visits
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        server = start_server(Path(home))
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            for visit in range(1, visits + 1):
                page = browser.new_context().new_page()
                start = time.perf_counter()
                page.goto(server.url, wait_until="commit")
                page.wait_for_selector("h1")
                print(f"visit {visit}: {time.perf_counter() - start:.2f} s to the heading")
                page.context.close()
        finally:
            browser.close()
            server.process.terminate()
            server.process.wait(10)


if __name__ == "__main__":
    main()
