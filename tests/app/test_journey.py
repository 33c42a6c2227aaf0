"""The whole way through the dashboard, computed by the real worker on a tiny random model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard import state
from nirvana.jobs.queue import Job
from nirvana.runs.recipe import CalibrationChoice, EvaluationChoice, Recipe
from nirvana.runs.store import Store
from tests.processes import workers

Start = Callable[..., AppTest]
PATIENCE = 600  # seconds; a passing test waits far less, but on a busy machine


@pytest.fixture
def small(sample_text: Path) -> Recipe:
    """A recipe that takes a tiny model seconds; its model is still to be chosen."""
    text = str(sample_text)
    return Recipe(
        calibration=CalibrationChoice(
            corpus=text, candidates=2, samples=4, length=24, probe_samples=4, probe_length=16
        ),
        evaluation=EvaluationChoice(corpora=(text,), window=32, max_tokens=256),
    )


def wait(app: AppTest) -> Job:
    """Wait until the open run's newest job has ended, then run the page again."""
    job = state.jobs().jobs(app.query_params["run"])[0]
    deadline = time.monotonic() + PATIENCE
    while job.live:
        assert time.monotonic() < deadline, f"{job.stage} still runs"
        time.sleep(0.1)
        job = state.jobs().job(job.id)
    app.run()
    assert not app.exception
    return job


def test_from_a_model_folder_to_a_comparison(start: Start, store: Store, small: Recipe, tiny_folder: Path) -> None:
    app = start(store.create(small, name="Journey"))
    app.switch_page("pages/model.py").run()
    app.segmented_control(key="model.source").select("Local").run()
    app.text_input(key="model.path").set_value(str(tiny_folder)).run()
    assert not app.error
    app.button(key="model.load").click().run()
    assert wait(app).status == "done"
    assert app.button(key="model.load").label == "Loaded"

    for step, key in (
        ("calibration", "calibration.run"),
        ("saliency", "saliency.run"),
    ):
        app.switch_page(f"pages/{step}.py").run()
        app.button(key=key).click().run()
        assert wait(app).status == "done", app.error

    app.switch_page("pages/allocation.py").run()
    app.slider(key="allocation.sparsity").set_value(0.3).run()
    app.select_slider(key="allocation.gamma").set_value(1.0).run()
    assert not app.exception

    app.switch_page("pages/prune.py").run()
    app.button(key="prune.run").click().run()
    assert wait(app).status == "done"
    run = store.open(app.query_params["run"])
    plan = run.plan()
    assert plan is not None
    assert plan.requested == 0.3
    assert plan.gamma == 1.0

    app.button(key="prune.compare").click().run()
    assert wait(app).status == "done"
    app.switch_page("pages/compare.py").run()
    assert not app.exception
    run = store.open(app.query_params["run"])
    report = run.report()
    assert run.status == "done"
    assert report is not None
    assert report.find("perplexity", "pruned") is not None
    assert report.find("KL divergence", "pruned") is not None

    # Another choice starts a new run with what still holds, and the old one keeps its results.
    app.switch_page("pages/allocation.py").run()
    app.slider(key="allocation.sparsity").set_value(0.2).run()
    app.switch_page("pages/prune.py").run()
    app.button(key="prune.run").click().run()
    assert wait(app).status == "done"
    assert app.query_params["run"] != run.id
    assert store.open(run.id).status == "done"
    again = store.open(app.query_params["run"])
    assert again.saliency() is not None
    first, second = run.info("saliency"), again.info("saliency")
    assert first is not None and second is not None
    assert second["finished"] == first["finished"]  # copied, not computed


@pytest.mark.usefixtures("worker_here")
def test_a_model_that_cannot_be_read_fails_with_the_reason(
    start: Start, store: Store, small: Recipe, tiny_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_folder.iterdir():
        content = file.read_bytes()
        (broken / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    app = start(store.create(small.change("model", name=str(broken)))).run()
    app.switch_page("pages/model.py").run()
    app.button(key="model.load").click().run()
    assert wait(app).status == "failed"
    failure = store.open(app.query_params["run"]).failure()
    assert failure is not None
    assert failure["hint"]
    assert app.error
    assert not app.button(key="model.load").disabled


def test_cancel_stops_the_job_and_unload_ends_the_worker(
    start: Start, store: Store, small: Recipe, tiny_folder: Path
) -> None:
    recipe = small.change("model", name=str(tiny_folder)).change("calibration", candidates=64)
    app = start(store.create(recipe))
    app.switch_page("pages/saliency.py").run()
    app.button(key="saliency.run").click().run()
    app.button(key="job.cancel").click().run()
    assert wait(app).status == "cancelled"
    assert "cancelled" in app.info[-1].value
    state.jobs().unload()
    assert not workers()
