"""The documented widget keys are those of the pages, no more and no fewer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from streamlit.testing.v1 import AppTest

from nirvana.dashboard.guide import PAGES
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import ROOT, add_job, fill

ROW = re.compile(r"^\| `([^`]+)` \|[^|]*\|[^|]*\|([^|]*)\|$", re.MULTILINE)


def documented() -> dict[str, str]:
    """Key -> when it appears; empty where always."""
    return {key: when.strip() for key, when in ROW.findall((ROOT / "docs/widget-keys.md").read_text(encoding="utf-8"))}


def pattern(key: str) -> re.Pattern[str]:
    whole = re.escape(key).replace("<chart>", ".+").replace("<page>", "[a-z]+")
    return re.compile(re.sub(r"<\w+>", "[^.]+", whole))


def keys_on(app: AppTest) -> set[str]:
    nodes: Iterator[Any] = (node for block in (app.main, app.sidebar) for node in block)
    return {str(node.key) for node in nodes if getattr(node, "key", None)}


def test_documented_keys_are_those_of_the_pages(start: Callable[..., AppTest], store: Store, filled: Run) -> None:
    fill(store.create(Recipe().change("allocation", sparsity=0.35), name="Second"), seed=1)
    new = store.create(Recipe(), name="New")
    add_job(new, "running")
    found: set[str] = set()
    for run in (filled, new):
        app = start(run).run()
        for page in PAGES:
            app.switch_page(page.path).run()
            assert not app.exception, page.key
            found |= keys_on(app)
    known = documented()
    patterns = {key: pattern(key) for key in known}
    assert sorted(key for key in found if not any(each.fullmatch(key) for each in patterns.values())) == []
    always = [key for key, when in known.items() if not when]
    assert [key for key in always if not any(patterns[key].fullmatch(each) for each in found)] == []


def test_keys_that_appear_at_times_are_in_the_source() -> None:
    files = [*(ROOT / "pages").glob("*.py"), *(ROOT / "nirvana/dashboard").rglob("*.py")]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    for key, when in documented().items():
        literal = re.sub(r"^<\w+>(\.table)?", "", key).partition("<")[0]
        assert not when or literal in source, key
