"""The whole journey on a built-in tiny model from a cold start: the tour, every step, a unit inspected and removed by
hand, and the run opened by its link on a phone, in the dark.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, expect

from nirvana.runs.recipe import CalibrationChoice, EvaluationChoice, ModelChoice, Recipe
from nirvana.runs.store import Run, Store
from tests.browser.conftest import TIMEOUT, Server
from tests.browser.test_example import click_chart, settled
from tests.browser.test_live import press

TINY = Recipe(
    model=ModelChoice(name="tiny-llama", device="cpu"),
    calibration=CalibrationChoice(candidates=2, samples=4, length=64, probe_samples=4, probe_length=64),
    evaluation=EvaluationChoice(corpora=("python-docs",), window=128, max_tokens=1024),
).change("recovery", method="distill", minutes=0.02, batch=2, micro_batch=2, length=64, checks=2)


def context(browser: Browser, width: int, height: int, scheme: str) -> BrowserContext:
    made = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    made.set_default_timeout(TIMEOUT)
    return made


def on_page(page: Page, title: str) -> None:
    expect(page.locator("h1").first).to_have_text(title, timeout=TIMEOUT)
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def go(page: Page, title: str) -> None:
    page.get_by_test_id("stSidebarNavLink").filter(has_text=re.compile(f"{title}$")).click()
    on_page(page, title)


def finished(page: Page, store: Store, run_id: str, done: Callable[[Run], object]) -> None:
    """Wait until the run has a result, and its page shows it."""
    deadline = time.monotonic() + 3 * TIMEOUT / 1000
    while not done(store.open(run_id)) or store.open(run_id).status in ("running", "queued"):
        assert time.monotonic() < deadline
        page.wait_for_timeout(100)
    expect(page.locator(".st-key-job-cancel")).to_have_count(0, timeout=TIMEOUT)
    page.wait_for_timeout(500)  # until the page has begun to show the result
    settled(page)


def open_tab(page: Page, label: str) -> None:
    page.get_by_role("tab", name=label, exact=True).click()
    settled(page)


def test_from_a_cold_start_to_a_recovered_model(server: Server, browser: Browser, tmp_path: Path) -> None:
    desktop = context(browser, 1440, 900, "light")
    page = desktop.new_page()
    page.goto(server.url)
    settled(page)
    press(page, "home-tour")
    settled(page)
    press(page, "tour-next")
    on_page(page, "Model")
    expect(page.get_by_text(re.compile("Find the MLP"))).to_be_visible(timeout=TIMEOUT)
    press(page, "tour-leave")

    store = Store(server.home)
    run = store.create(TINY, name="Journey")

    def wait(done: Callable[[Run], object]) -> None:
        finished(page, store, run.id, done)

    page.goto(f"{server.url}/model?run={run.id}")
    on_page(page, "Model")
    press(page, "model-load")
    wait(Run.model)
    go(page, "Calibration")
    press(page, "calibration-run")
    wait(Run.calibration)
    go(page, "Saliency")
    press(page, "saliency-run")
    wait(Run.saliency)
    click_chart(page, "saliency.heatmap.mlp", 0.3, 0.6)
    page.wait_for_url(re.compile(r"unit=mlp\.\d+"))
    settled(page)
    chosen = re.search(r"unit=mlp\.(\d+)", page.url)
    assert chosen is not None

    go(page, "Unit")
    press(page, "unit-inspect")
    wait(Run.inspections)
    expect(page.get_by_text("What drives it?")).to_be_visible(timeout=TIMEOUT)

    go(page, "Allocation")
    before = page.get_by_test_id("stMetric").filter(has_text="Parameters").first.inner_text()
    thumb = page.locator(".st-key-allocation-sparsity").get_by_role("slider")
    thumb.focus()
    for _ in range(10):
        thumb.press("ArrowRight")
    expect(page.get_by_test_id("stMetric").filter(has_text="Parameters").first).not_to_have_text(before)
    settled(page)
    open_tab(page, "What if")
    press(page, "allocation-edit")
    expect(page.locator(".st-key-allocation-edit-words")).to_contain_text(f"decoder.{layer(page)}.mlp.{chosen[1]}")
    press(page, "allocation-edit-layer-keep")
    expect(page.locator(".st-key-allocation-edit-words")).to_contain_text(f"keep decoder.{layer(page)}")
    settled(page)

    go(page, "Prune")
    press(page, "prune-run")
    wait(Run.pruned)
    plan = store.open(run.id).plan()
    assert plan is not None and plan.edits == (f"keep decoder.{layer(page)}",) and plan.requested == 0.3
    go(page, "Allocation")
    open_tab(page, "What if")
    press(page, "allocation-edit-measure")
    wait(Run.plan_trials)
    expect(page.get_by_text(re.compile("The edits change KL by"))).to_be_visible(timeout=TIMEOUT)

    go(page, "Recover")
    press(page, "recover-compare")
    expect(page.locator(".st-key-job-cancel button").first).to_be_visible(timeout=TIMEOUT)
    link, phone = page.url, context(browser, 390, 844, "dark")
    desktop.close()
    reader = phone.new_page()
    reader.goto(link)
    on_page(reader, "Recover")
    finished(reader, store, run.id, Run.report)
    assert store.open(run.id).status == "done"
    reader.goto(link.replace("/recover", "/compare"))
    on_page(reader, "Compare")
    expect(reader.locator(".js-plotly-plot .nsewdrag").first).to_be_attached(timeout=TIMEOUT)
    assert reader.get_by_test_id("stMain").evaluate("element => element.scrollWidth") <= 390
    with reader.expect_download() as waiting:
        reader.locator(".st-key-compare-report button:visible").first.click()
    waiting.value.save_as(tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Journey" in report and "recovered" in report and f"keep decoder.{layer(reader)}" in report
    reader.reload()
    on_page(reader, "Compare")
    expect(reader).to_have_url(re.compile(f"run={run.id}.*unit=mlp.{chosen[1]}|unit=mlp.{chosen[1]}.*run={run.id}"))
    phone.close()


def layer(page: Page) -> str:
    """The selected layer, from the URL."""
    found = re.search(r"layer=(\d+)", page.url)
    assert found is not None
    return found[1]
