"""Jobs in a real browser: progress, page switches, reloads, a second tab, cancelling, and a server that is stopped."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from nirvana.runs.recipe import CalibrationChoice, EvaluationChoice, ModelChoice, Recipe
from nirvana.runs.recovery import interrupted
from nirvana.runs.store import Store
from tests.browser.conftest import TIMEOUT, Server, start_server
from tests.browser.test_example import settled
from tests.processes import workers


def recipe(model: Path, text: Path, *, candidates: int = 2) -> Recipe:
    """A recipe that takes a tiny model seconds, or longer with more candidates."""
    return Recipe(
        model=ModelChoice(name=str(model), device="cpu"),
        calibration=CalibrationChoice(
            corpus=str(text), candidates=candidates, samples=4, length=24, probe_samples=4, probe_length=16
        ),
        evaluation=EvaluationChoice(corpora=(str(text),), window=32, max_tokens=256),
    )


def press(page: Page, key: str) -> None:
    """Click the button with a widget key. One with a help text is there twice; the first is the button itself."""
    page.locator(f".st-key-{key} button").first.click()


def test_a_run_is_watched_across_pages_reloads_and_tabs(
    server: Server, page: Page, tiny_folder: Path, sample_text: Path
) -> None:
    run = Store(server.home).create(recipe(tiny_folder, sample_text), name="Watched")
    page.goto(f"{server.url}/prune?run={run.id}")
    settled(page)
    press(page, "prune-compare")
    expect(page.locator(".st-key-job-cancel button").first).to_be_visible(timeout=TIMEOUT)
    page.get_by_test_id("stSidebarNavLink").filter(has_text="Calibration").click()
    expect(page.locator("h1").first).to_have_text("Calibration", timeout=TIMEOUT)
    page.reload()
    second = page.context.new_page()
    second.goto(f"{server.url}/compare?run={run.id}")
    for tab in (page, second):
        expect(tab.locator(".st-key-job-cancel")).to_have_count(0, timeout=TIMEOUT)
        expect(tab).to_have_url(re.compile(f"run={run.id}"))
        expect(tab.get_by_test_id("stException")).to_have_count(0)
    expect(second.locator(".js-plotly-plot .nsewdrag").first).to_be_attached(timeout=TIMEOUT)
    assert Store(server.home).open(run.id).status == "done"


def test_cancel_ends_the_job_and_keeps_what_was_finished(
    server: Server, page: Page, tiny_folder: Path, sample_text: Path
) -> None:
    run = Store(server.home).create(recipe(tiny_folder, sample_text, candidates=64), name="Cancelled")
    page.goto(f"{server.url}/calibration?run={run.id}")
    settled(page)
    press(page, "calibration-run")
    expect(page.get_by_text(re.compile("step 2 of 2")).first).to_be_visible(timeout=TIMEOUT)
    press(page, "job-cancel")
    expect(page.get_by_text("The last job was cancelled.")).to_be_visible(timeout=TIMEOUT)
    kept = Store(server.home).open(run.id)
    assert kept.status == "cancelled"
    assert kept.model() is not None
    assert kept.calibration() is None


def test_a_recovery_is_watched_paused_and_continued(
    server: Server, page: Page, tiny_folder: Path, sample_text: Path
) -> None:
    trains = recipe(tiny_folder, sample_text).change(
        "recovery", method="lora", minutes=5.0, batch=2, micro_batch=2, length=32, checks=100
    )
    run = Store(server.home).create(trains, name="Recovered")
    page.goto(f"{server.url}/recover?run={run.id}")
    settled(page)
    press(page, "recover-run")
    for chart in ("perplexity", "kl", "loss"):
        expect(page.locator(f".st-key-recover-{chart} .nsewdrag").first).to_be_attached(timeout=3 * TIMEOUT)
    expect(page.get_by_text("Time left").first).to_be_visible(timeout=TIMEOUT)
    pause = page.locator(".st-key-job-cancel button").first
    expect(pause).to_have_text(re.compile("Pause"))
    page.set_viewport_size({"width": 1440, "height": 900})
    settled(page)
    place, bar = (each.bounding_box() for each in (pause, page.get_by_test_id("stMain").get_by_test_id("stProgress")))
    assert place is not None and bar is not None
    assert place["y"] + place["height"] < 600, "on the first screen, above the charts"
    assert abs(place["y"] - bar["y"]) < 40 and place["x"] > bar["x"], "beside the progress"
    press(page, "job-cancel")
    expect(page.get_by_text(re.compile("Paused after step"))).to_be_visible(timeout=TIMEOUT)
    kept = interrupted(Store(server.home).open(run.id), trains)
    assert kept is not None and kept.steps
    expect(page.locator(".st-key-recover-run button").first).to_have_text(re.compile("Continue"))
    settled(page)
    press(page, "recover-run")
    expect(page.locator(".st-key-job-cancel button").first).to_have_text(re.compile("Pause"), timeout=TIMEOUT)
    page.wait_for_timeout(1500)
    press(page, "job-cancel")
    expect(page.get_by_text(re.compile("Paused after step"))).to_be_visible(timeout=TIMEOUT)
    again = interrupted(Store(server.home).open(run.id), trains)
    assert again is not None and again.steps[: len(kept.steps)] == kept.steps and len(again.steps) > len(kept.steps)


def test_ctrl_c_ends_the_server_and_its_worker_and_keeps_what_was_finished(
    page: Page, tiny_folder: Path, sample_text: Path, tmp_path: Path
) -> None:
    server = start_server(tmp_path)
    try:
        run = Store(server.home).create(recipe(tiny_folder, sample_text, candidates=64), name="Interrupted")
        page.goto(f"{server.url}/calibration?run={run.id}")
        settled(page)
        press(page, "calibration-run")
        expect(page.get_by_text(re.compile("step 2 of 2")).first).to_be_visible(timeout=TIMEOUT)
        working = workers(server.process.pid)
        assert len(working) == 1
        os.kill(server.process.pid, signal.SIGINT)
        server.process.wait(20)
        _, alive = psutil.wait_procs(working, timeout=20)
        assert not alive
    finally:
        server.process.kill()

    server = start_server(tmp_path)
    try:
        page.goto(f"{server.url}/runs?run={run.id}")
        settled(page)
        left = Store(server.home).open(run.id)
        assert left.status == "interrupted"
        assert left.model() is not None
        expect(page.get_by_text("interrupted").first).to_be_attached(timeout=TIMEOUT)
    finally:
        server.process.kill()


def test_too_large_an_upload_is_refused_and_a_text_file_taken(server: Server, page: Page, tmp_path: Path) -> None:
    large, text = tmp_path / "large.txt", tmp_path / "notes.txt"
    large.write_bytes(b"word " * ((17 << 20) // 5))
    text.write_text("\n\n".join(f"Paragraph {index} says something of its own. " * 8 for index in range(40)))
    page.goto(f"{server.url}/calibration")
    settled(page)
    page.get_by_text("Use a text of your own").click()
    page.get_by_role("tab", name="Upload").click()
    upload = page.locator(".st-key-calibration-upload input[type=file]")
    expect(upload).to_be_attached(timeout=TIMEOUT)
    upload.set_input_files(large)
    expect(page.get_by_text(re.compile("must be .*smaller|exceed", re.IGNORECASE))).to_be_visible(timeout=TIMEOUT)
    upload.set_input_files(text)
    expect(page.locator(".st-key-calibration-upload").get_by_text("notes.txt")).to_be_visible(timeout=TIMEOUT)
    page.wait_for_timeout(1000)  # the name is there before the file has arrived
    settled(page)
    press(page, "calibration-use_upload")
    deadline = time.monotonic() + TIMEOUT / 1000
    while not list((server.home / "uploads").glob("*")):
        if time.monotonic() > deadline:
            pytest.fail("the uploaded text was not kept")
        page.wait_for_timeout(200)
