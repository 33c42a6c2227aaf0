"""The Recover page: its choices, the course of a training, its end, and the real worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard.panels import recover as panel
from nirvana.errors import RunError
from nirvana.jobs.demo import check_job
from nirvana.jobs.queue import Job, JobManager
from nirvana.jobs.tasks.run import RunRequest
from nirvana.runs import recovery
from nirvana.runs.recipe import CalibrationChoice, EvaluationChoice, Recipe, RecoveryChoice, SaliencyChoice
from nirvana.runs.store import Run, Store
from tests.app.conftest import add_job, fill, keys_on, open_tab, recover, tables
from tests.app.test_compare_page import words
from tests.app.test_journey import wait
from tests.courses import course

pytestmark = pytest.mark.usefixtures("library_texts")
Start = Callable[..., AppTest]
TRAINS = Recipe().change("recovery", method="distill", minutes=5.0)


@pytest.fixture
def recovered(store: Store) -> Run:
    """A run with a made-up result of every step, also of a recovery."""
    return fill(store.create(TRAINS, name="Recovered"))


def open_page(app: AppTest) -> AppTest:
    app.switch_page("pages/recover.py").run()
    assert not app.exception
    return app


def draft(app: AppTest) -> RecoveryChoice:
    choice: RecoveryChoice = app.session_state["nirvana.draft"].recovery
    return choice


def test_method_and_budget_are_choices_of_the_recipe(start: Start, filled: Run) -> None:
    app = open_page(start(filled))
    assert app.button(key="recover.run").disabled and app.button(key="recover.compare").label == "Continue to Compare"
    assert app.number_input(key="recover.minutes").disabled
    app.pills(key="recover.method").set_value("distill").run()
    app.number_input(key="recover.minutes").set_value(3.0).run()
    app.number_input(key="recover.rank").set_value(4).run()
    assert draft(app) == RecoveryChoice(method="distill", minutes=3.0, rank=4)
    assert not app.button(key="recover.run").disabled and "To do: recover" in words(app)
    assert any("--recovery distill --recovery-minutes 3 --rank 4" in code.value for code in app.code)
    app.button(key="recover.published").click().run()
    assert draft(app) == RecoveryChoice.published(rank=8)


def test_a_recovery_without_budget_or_room_is_refused_with_the_reason(start: Start, filled: Run) -> None:
    app = open_page(start(filled))
    app.pills(key="recover.method").set_value("full").run()
    app.number_input(key="recover.minutes").set_value(0.0).run()
    assert app.button(key="recover.run").disabled and "no budget" in words(app)
    app.number_input(key="recover.tokens").set_value(100).run()
    assert not app.button(key="recover.run").disabled and not app.error


def test_the_course_is_shown_with_its_checks_and_protocol(start: Start, recovered: Run) -> None:
    app = open_page(start(recovered))
    assert {"recover.perplexity", "recover.kl", "recover.loss"} <= keys_on(app)
    assert "recover.export" in keys_on(open_tab(app, "Export"))
    open_tab(app, "Checks")
    text = words(app).replace("\\", "")
    assert "Step 20 is kept: **1.2** times dense on python-docs (1.5 before), **1.3** on library-docs (1.6)." in text
    assert "Distillation, all weights, 5,120 tokens of python-docs in 40 s, peak learning rate 0.0003." in text
    assert "8 windows of 256 tokens of the probe split" in text and "On cpu in float32." in text
    (checks,) = tables(app, "weights")
    assert list(checks["weights"]) == ["", "", "kept"] and list(checks["times dense, python-docs"]) == [1.5, 1.3, 1.2]
    assert not app.warning and not app.error
    assert app.button(key="recover.run").label == "Recovered"
    app.number_input(key="recover.minutes").set_value(9.0).run()
    assert "belongs to earlier choices" in words(app)
    assert app.button(key="recover.compare").label == "Recover and compare"


def test_the_compare_page_has_three_models(start: Start, recovered: Run) -> None:
    app = start(recovered).run()
    report = recovered.report()
    assert report is not None
    assert "dense" in next(metric.delta for metric in app.metric if metric.label.startswith("Perplexity"))
    assert any("then recovered by 5 min of distillation" in text.value for text in app.caption)
    app.switch_page("pages/compare.py").run()
    assert not app.exception
    labels = [metric.label for metric in open_tab(app, "Measurements").metric]
    assert labels.count("Recovered") == 3 and labels.count("Pruned, recovered") == 2
    assert app.button(key="compare.run").label == "Measurements are current"
    assert "**Recovery took perplexity from" in app.success[0].value
    open_tab(app, "Continuations")
    app.pills(key="compare.writers").set_value(["recovered"]).run()
    shown = {code.value for code in app.code}
    assert " Paris, the" in shown and " Paris." not in shown
    app.number_input(key="compare.window").set_value(128).run()
    assert "All models read 2 texts" in words(app) and app.button(key="compare.run").label == "Measure all models"


def test_overfitting_and_an_exploded_loss_are_said(start: Start, recovered: Run) -> None:
    worse = course(((1.5, 1.6), (1.3, 1.4), (1.2, 1.5)))
    recover(recovered, replace(worse, stopped="The loss rose from 1 to 9 at step 21."))
    app = open_page(start(recovered))
    assert "library-docs rises again" in app.warning[0].value
    assert "The loss rose from 1 to 9" in app.error[0].value


def test_a_live_recovery_can_be_paused(start: Start, recovered: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (recovered.folder / "recovery.info.json").unlink()
    (recovered.folder / recovery.LIVE).write_text(json.dumps(course().to_json()))
    job_id, job = add_job(recovered, "running"), JobManager.job

    def recovering(self: JobManager, *_: object, **__: object) -> Job:
        return replace(job(self, job_id), step="recover")

    monkeypatch.setattr(JobManager, "job", recovering)
    monkeypatch.setattr(JobManager, "live_jobs", lambda self, *_, **__: [recovering(self)])
    app = open_page(start(recovered))
    assert app.button(key="job.cancel").label == "Pause"
    assert "recover.loss" in keys_on(app) and "Time left" in [metric.label for metric in app.metric]


def test_an_interrupted_recovery_is_continued(start: Start, recovered: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (recovered.folder / "recovery.info.json").unlink()
    (recovered.folder / recovery.LIVE).write_text(json.dumps(course().to_json()))
    app = open_page(start(recovered))
    assert app.button(key="recover.run").label == "Recover" and "belongs to earlier choices" in words(app)
    monkeypatch.setattr(panel, "interrupted", lambda run, recipe: course())
    app = open_page(start(recovered))
    assert app.button(key="recover.run").label == "Continue"
    assert "Paused after step 20; its state is kept." in words(app) and "recover.loss" in keys_on(app)


def test_a_run_without_weights_offers_to_recover_in_another(start: Start, store: Store, recovered: Run) -> None:
    next(recovered.folder.glob("recovered-*")).unlink()
    app = open_page(start(recovered))
    assert "are not stored" in words(app) and "recover.export" not in keys_on(open_tab(app, "Export"))
    copy = store.create(recovered.recipe, parent=recovered)
    assert copy.step_state("prune") == "done" and copy.step_state("recover") == "missing"


def test_strangers_recover_briefly_on_built_in_texts(
    start: Start, filled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIRVANA_PUBLIC_DEMO", "1")
    app = open_page(start(filled))
    assert app.number_input(key="recover.minutes").max == 10
    short = TRAINS.change("model", name="tiny-llama")
    check_job(None, short, RunRequest())
    for change in ({"minutes": 60.0}, {"minutes": 0.0, "epochs": 9}, {"corpus": "/secret.txt"}):
        with pytest.raises(RunError):
            check_job(None, short.change("recovery", **change), RunRequest())


@pytest.mark.usefixtures("worker_here")
def test_the_worker_recovers_and_the_model_is_exported(
    start: Start, store: Store, sample_text: Path, tiny_folder: Path
) -> None:
    recipe = Recipe(
        calibration=CalibrationChoice(
            corpus=str(sample_text), candidates=1, samples=4, length=24, probe_samples=4, probe_length=16
        ),
        saliency=SaliencyChoice(criterion="magnitude"),
        recovery=RecoveryChoice(batch=2, length=16, checks=2),
        evaluation=EvaluationChoice(corpora=(str(sample_text),), window=32, max_tokens=256),
    ).change("model", name=str(tiny_folder), device="cpu")
    app = open_page(start(store.create(recipe, name="Recovered")))
    app.pills(key="recover.method").set_value("lora").run()
    app.number_input(key="recover.minutes").set_value(0.0).run()
    app.number_input(key="recover.tokens").set_value(128).run()
    app.button(key="recover.compare").click().run()
    assert wait(app).status == "done"
    assert {"recover.perplexity", "recover.loss"} <= keys_on(app)
    open_tab(app, "Export").button(key="recover.export").click().run()
    job = wait(app)
    assert job.result is not None and "recovered" in job.result["path"]
    assert "recover.download" in keys_on(app)
    app.switch_page("pages/prune.py").run()
    assert "prune.download" not in keys_on(app), "another model than the pruned one"
    report = store.open(app.query_params["run"]).report()
    assert report is not None and report.find("perplexity", "recovered") is not None
