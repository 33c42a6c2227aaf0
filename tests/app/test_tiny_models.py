"""The whole way on the tiny models that come with the program, by the real worker: nothing is typed or downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from nirvana import cli
from nirvana.jobs.queue import JobManager
from nirvana.models.sources import BUILT_IN
from nirvana.models.tiny import QUICK
from nirvana.runs.presets import PRESETS, TINY_RECOVERY, TINY_WINDOWS
from nirvana.runs.recipe import CalibrationChoice, EvaluationChoice, Recipe
from nirvana.runs.store import Store
from nirvana.studies.sweep_rows import read_rows
from tests.app.conftest import keys_on
from tests.app.test_journey import wait

pytestmark = pytest.mark.usefixtures("library_texts")
Start = Callable[..., AppTest]
SHORT = {
    "calibration": {"samples": 4, "length": 128, "probe_samples": 4, "probe_length": 128},
    "prune": {"samples": 4, "length": 128},
    "evaluation": {"max_tokens": 2048},
}


def recipe() -> Recipe:
    return Recipe(
        calibration=CalibrationChoice(candidates=2, samples=4, length=128, probe_samples=4, probe_length=128),
        evaluation=EvaluationChoice(corpora=("python-docs",), window=256, max_tokens=2048),
    )


def test_the_model_page_offers_the_built_in_models(start: Start, store: Store) -> None:
    app = start(store.create(Recipe(), name="New"))
    app.switch_page("pages/model.py").run()
    assert app.radio(key="model.built_in").options == list(BUILT_IN)


@pytest.mark.usefixtures("worker_here")
@pytest.mark.parametrize(
    ("name", "family", "layers"), [("tiny-qwen3", "Qwen3", "6"), ("tiny-t5", "T5", "4 + 3")], ids=["qwen3", "t5"]
)
def test_from_a_built_in_model_to_a_comparison(start: Start, store: Store, name: str, family: str, layers: str) -> None:
    app = start(store.create(recipe(), name="Journey"))
    app.switch_page("pages/model.py").run()
    app.radio(key="model.built_in").set_value(name).run()
    assert not app.exception
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown.get("Layers", shown.get("Encoder and decoder layers")) == layers
    app.button(key="model.load").click().run()
    assert wait(app).status == "done", app.error

    for step in ("calibration", "saliency"):
        app.switch_page(f"pages/{step}.py").run()
        app.button(key=f"{step}.run").click().run()
        assert wait(app).status == "done", app.error
    app.switch_page("pages/allocation.py").run()
    app.slider(key="allocation.sparsity").set_value(0.3).run()
    assert not app.exception
    app.switch_page("pages/prune.py").run()
    app.button(key="prune.compare").click().run()
    assert wait(app).status == "done", app.error
    app.switch_page("pages/compare.py").run()
    assert not app.exception
    run = store.open(app.query_params["run"])
    card, plan, report = run.model(), run.plan(), run.report()
    assert card is not None and plan is not None and report is not None
    assert (card.family, plan.requested) == (family, 0.3)
    found = [report.find("bits per byte", subject) for subject in ("dense", "pruned")]
    assert all(item is not None and item.value < 5 for item in found)  # 8 without training
    divergence = report.find("KL divergence", "pruned")
    assert divergence is not None and divergence.value > 0

    app.switch_page("pages/prune.py").run()
    app.button(key="prune.export").click().run()
    assert wait(app).status == "done", app.error
    assert "prune.download" in keys_on(app)


@pytest.mark.usefixtures("worker_here")
def test_the_demo_starts_on_a_model_that_takes_seconds(
    start: Start, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for section, sizes in SHORT.items():  # the sizes that users get are those of the next test
        monkeypatch.setitem(TINY_WINDOWS, section, sizes)
    monkeypatch.setitem(TINY_RECOVERY, "minutes", 0.02)
    app = start().run()
    assert app.segmented_control(key="home.model").value == QUICK
    app.button(key="home.demo").click().run()
    assert wait(app).status == "done", app.error
    run = store.open(app.query_params["run"])
    assert run.recipe == PRESETS["recommended"].recipe(QUICK)
    assert run.report() is not None
    assert any(QUICK in caption.value for caption in app.caption)
    rows = read_rows(run)
    assert [row.point.sparsity for row in rows] == [0.3, 0.5, 0.7] and "home.curve" in keys_on(app)
    report = run.report()
    assert report is not None
    pruned, recovered = (report.find("perplexity", subject) for subject in ("pruned", "recovered"))
    assert pruned is not None and recovered is not None


@pytest.mark.parametrize("preset", PRESETS)
def test_demo_and_command_line_make_the_same_run(
    preset: str, start: Start, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(JobManager, "submit", lambda *_, **__: None)
    app = start().run()
    app.segmented_control(key="home.preset").select(preset).run()
    app.button(key="home.demo").click().run()
    (run,) = store.runs()
    assert cli.main(["run", preset, "--model", QUICK, "--until", "model", "--json"]) == 0
    asked = Recipe.from_json(json.loads(capsys.readouterr().out)["recipe"])
    assert (asked.calibration.samples, asked.calibration.length, asked.calibration.probe_samples) == (12, 512, 32)
    assert (asked.prune.samples, asked.prune.length, asked.evaluation.max_tokens) == (32, 512, 8192)
    assert asked == run.recipe and asked.fingerprint("evaluate") == run.recipe.fingerprint("evaluate")
