"""`make bench`: every benchmark of speed and memory side by side in one run, on an idle machine.

    python -m benchmarks.performance --into docs/performance.md
    python -m benchmarks.performance --only planning surgery

Each section runs in a process of its own and is written between its marks as soon as it is measured.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.quality_table import between_marks
from benchmarks.tables import machine

SECTIONS = ("saliency", "planning", "surgery", "inference", "scaling", "startup")


def measure(section: str) -> str:
    """The table of a section, and the machine."""
    table: Callable[[], str] = importlib.import_module(f"benchmarks.{section}").table
    return f"{table()}\n\n{machine()}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--into", type=Path, help="Markdown file with marks for each section")
    given = parser.parse_args()
    for section in given.only:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # whose processes may have children
            text = pool.submit(measure, section).result()
        print(f"## {section}\n\n{text}", flush=True)
        if given.into:
            document = given.into.read_text(encoding="utf-8")
            given.into.write_text(between_marks(document, section, text), encoding="utf-8")


if __name__ == "__main__":
    main()
