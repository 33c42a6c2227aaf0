"""The report: one file that parses, holds every section's numbers, and fetches nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from nirvana import cli
from nirvana.models.families.t5 import T5Family
from nirvana.reporting.html.document import Document, cell
from nirvana.reporting.html.report import report_html
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import Continuation, ScoredText
from nirvana.runs.store import Run, Store
from tests.app.conftest import ROOT, SMALL_T5, fill
from tests.app.test_allocation_search_panel import STEPS
from tests.app.test_compare_page import open_page
from tests.app.test_speed_panel import put_scan, put_sizes, put_speed
from tests.app.test_tune_page import SETTINGS, TRIALS
from tests.journals import write_allocation_search, write_search, write_sweep
from tests.sweeps import make_rows

VOID = {"meta", "br", "img", "link", "input", "hr", "base"}
FETCHING = {"src", "href", "srcset", "action", "data", "poster", "formaction", "background"}


class Page(HTMLParser):
    """Checks that tags are closed; keeps text outside scripts, by section, and everything that could be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.policy = ""
        self.section = ""
        self.text: dict[str, str] = {}
        self.charts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self.section = found["id"]
        self.charts += found.get("class", "") == "plotly-graph-div"
        if "id" in found:
            self.ids.append(found["id"])
        self.links += [value for name, value in found.items() if name in FETCHING]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text[self.section] = self.text.get(self.section, "") + data + " "


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


@pytest.fixture
def whole(filled: Run) -> Run:
    put_speed(filled)
    put_sizes(filled)
    scored = {
        name: ScoredText((" the", " <b>city"), {"dense": (0.5, 0.25), "pruned": (1.0, 0.01)})
        for name in ("dense", "pruned")
    }
    filled.add_continuation(
        Continuation("Rome is", False, 8, {"dense": " the <b>city", "pruned": " the <b>city"}, scored)
    )
    return filled


def test_every_section_has_its_numbers(whole: Run) -> None:
    page = read(report_html(whole))
    card, plan, report, calibration = whole.model(), whole.plan(), whole.report(), whole.calibration()
    assert card and plan and report and calibration
    text = page.text
    assert list(text) == [
        *("", "recipe", "model", "calibration", "saliency", "allocation", "prune", "compare", "speed"),
        *("continuations", "provenance"),
    ]
    assert f"{plan.sparsity:.2%}" in text[""] and "4-bit origin" in text[""]
    assert "python-docs" in text["recipe"] and json.dumps(whole.recipe.to_json(), indent=1) in text["recipe"]
    assert f"{card.layout.parameters:,}" in text["model"] and card.hash in text["model"]
    assert calibration.hash in text["calibration"] or "6 probe samples of 16 tokens" in text["calibration"]
    assert "nirvana" in text["saliency"] and "micro-batches" in text["saliency"]
    assert f"{plan.removed:,}" in text["allocation"]
    assert f"{plan.pruned_layout.parameters:,}" in text["prune"] and "decoder.0.mlp" in text["prune"]
    for item in report.measurements:
        assert cell(item.value) in text["compare"], item
    assert "reads 1.50 times as fast" in text["speed"] and "3 turns of each model" in text["speed"]
    assert "31" in text["speed"] and "300,000,000" in text["speed"]
    assert "The capital of France is" in text["continuations"] and " <b>city" in text["continuations"]
    assert "evaluate" in text["provenance"] and "torch" in text["provenance"]
    assert page.charts > 15 and len(page.ids) == len(set(page.ids))


def test_a_recovered_model_has_its_section_and_columns(store: Store) -> None:
    run = fill(store.create(Recipe().change("recovery", method="distill", minutes=5.0), name="Recovered"))
    text = read(report_html(run)).text
    assert "Step 20 is kept" in text["recover"] and "8 windows of 256 tokens" in text["recover"]
    assert "Recovery took perplexity from" in text["compare"] and "recovered / dense" in text["compare"]
    assert " recovered, " in text[""] and " Paris, the" in text["continuations"]


def test_it_fetches_nothing_whatever_names_say(store: Store) -> None:
    recipe = Recipe().change("calibration", corpus="/home/someone/novel.txt")
    recipe = recipe.change("model", name="/home/someone/models/mine")
    recipe = recipe.change("recovery", corpus=str(Path.home() / "a.txt"))
    run = fill(store.create(recipe, name='<img src="https://example.org/x">'))
    card = run.model()
    assert card is not None
    run.put("model", replace(card, name=recipe.model.name, note=f"weights of {run.folder / 'x'}"))
    run.add_continuation(
        Continuation("</pre><script src=//example.org/y></script>", False, 8, {"dense": "a", "pruned": "b"})
    )
    html = report_html(run)
    page = read(html)
    assert all(link.startswith("#") for link in page.links) and page.links
    assert "default-src 'none'" in page.policy and "connect-src" not in page.policy
    assert "<img" not in html.replace("&lt;img", "").split("</head>")[1]
    assert "/home/someone" not in html and "novel.txt" in page.text["recipe"] and "mine" in page.text["model"]
    assert str(Path.home()) + "/" not in html and str(run.folder.parent) not in html and f"{run.id}/x" in html


def test_an_empty_run_has_a_report_too(store: Store) -> None:
    page = read(report_html(store.create(Recipe(), name="Empty")))
    assert list(page.text) == ["", "recipe", "provenance"] and page.charts == 0
    assert "empty" in page.text[""]


def test_an_encoder_decoder_and_stale_results(store: Store) -> None:
    run = fill(store.create(Recipe()), SMALL_T5, family=T5Family())
    page = read(report_html(store.set_recipe(run.id, Recipe().change("evaluation", window=64))))
    assert "belong to earlier choices than the recipe: evaluate" in page.text[""]
    assert "encoder self-attention" in page.text["model"] and "cross-attention" in page.text["allocation"]


def test_long_tables_wait_behind_a_click() -> None:
    document = Document("Title")
    document.table(pd.DataFrame({"value": range(12)}))
    assert "<details>" not in document.html().split("</head>")[1]
    document.table(pd.DataFrame({"value": range(13)}), summary="Many")
    assert "<summary>Many (13 rows)</summary>" in document.html()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ""),
        (True, "yes"),
        (1_234_567, "1,234,567"),
        (float("nan"), ""),
        (float("inf"), "inf"),
        (1234.5678, "1,234.6"),
        (2.0e6, "2,000,000"),
        ({"a": 1, "b": [0.5, "x"]}, "a: 1; b: 0.5, x"),
    ],
)
def test_cells_say_what_they_hold(value: object, words: str) -> None:
    assert cell(value) == words


def test_the_page_offers_it(start: Callable[..., AppTest], filled: Run) -> None:
    app = open_page(start, filled)
    buttons: Any = app.get("download_button")
    assert [button.label for button in buttons if button.key == "compare.report"] == ["Download the report (HTML)"]


def test_the_command_writes_the_example_without_torch(tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    code = (
        f"import sys; from nirvana import cli; code = cli.main(['report', 'example', '--output', {str(output)!r}, "
        "'--json']); print('torch' in sys.modules, 'streamlit' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["bytes"] == output.stat().st_size
    assert done.stderr.split()[-2:] == ["False", "False"]
    assert read(output.read_text(encoding="utf-8")).charts > 10


def test_the_command_knows_no_other_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "nosuchrun"]) == cli.FAILED
    assert "no such run" in capsys.readouterr().err


def test_studies_around_a_run_have_their_sections(filled: Run) -> None:
    put_scan(filled, base=0.25)
    for row in make_rows():
        recipe = row.point.recipe(filled.recipe)
        write_sweep(filled, [replace(row, run_id="", fingerprint=recipe.fingerprint("evaluate"))])
    write_search(filled.folder, SETTINGS, TRIALS)
    plan = filled.plan()
    assert plan is not None
    write_allocation_search(filled, plan, STEPS)
    page = read(report_html(filled))
    assert "In 3 steps KL fell by 20.0%" in page.text["allocation-search"]
    assert "3.25" in page.text["sensitivity"] and "4 x 8 probe tokens" in page.text["sensitivity"]
    assert "taylor" in page.text["sweep"] and "Every point" in page.text["sweep"]
    assert "The best of 4 trials" in page.text["search"] and "correlation is 1.00 over 4 models" in page.text["search"]
    assert page.charts > read(report_html(Store().create(filled.recipe, parent=filled))).charts + 10
