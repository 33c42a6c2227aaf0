"""Speed, bytes and shaded continuations on the Compare page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from streamlit.testing.v1 import AppTest

from nirvana.evaluation.results import Measurement, Report
from nirvana.evaluation.speed_report import ModelSpeed, SpeedReport, Spread
from nirvana.jobs.queue import JobManager
from nirvana.loss_curves import Sensitivity, Shift
from nirvana.runs.results import Continuation, ScoredText
from nirvana.runs.store import Run
from tests.app.conftest import add_job, open_tab, tables
from tests.app.test_compare_page import open_page, submitted, words

__all__ = ["submitted"]  # a fixture
Start = Callable[..., AppTest]


def put_speed(run: Run) -> None:
    def model(factor: float) -> ModelSpeed:
        spread = Spread.of([factor * value for value in (9.0, 10.0, 11.0)])
        return ModelSpeed(
            spread, spread, spread, 2_000, False, 1_000, 250, int(900 / factor), int(900 / factor), "float32"
        )

    run.attach("speed", SpeedReport({"dense": model(1.0), "pruned": model(1.5)}, 1, 64, 16, 3, "cpu (x86_64)", 2))


def put_sizes(run: Run) -> None:
    where = {"corpus": "python-docs", "window": 512, "tokens": 16_352, "dtype": "float32", "device": "cpu", "note": ""}
    found = []
    for subject, value, size in (("dense", 20.0, 4e8), ("pruned", 31.0, 3e8), ("dense int8", 21.0, 1e8)):
        found.append(Measurement("perplexity", subject, value, 0.5, 32, where))
        found.append(Measurement("bytes", subject, size))
    run.attach("sizes", Report(tuple(found)))


def put_scan(run: Run, *, base: float) -> None:
    """Attach loss curves whose KL rises with the layer from `base`."""
    scores = run.saliency()
    assert scores is not None
    protocol = {"levels": [0.2, 0.5], "criterion": "nirvana", "samples": 4, "length": 8}
    shifts = {site: (Shift(base + site.layer, 0.01, 1, place.units),) for site, place in scores.layout.items()}
    run.attach("sensitivity", Sensitivity(shifts, protocol | {"dtype": "float32", "device": "cpu"}))


def open_speed(start: Start, run: Run) -> AppTest:
    return open_tab(open_page(start, run), "Speed and bytes")


def test_what_was_measured_is_shown_with_its_protocol(start: Start, filled: Run) -> None:
    before = words(open_speed(start, filled))
    assert "Speed was not measured" in before and "Quality against bytes was not measured" in before
    put_speed(filled)
    put_sizes(filled)
    app = open_speed(start, filled)
    text = words(app).replace("\\", "")
    assert "reads 1.50 times as fast as dense" in text and "3 turns of each model" in text
    assert "estimate: a process's memory cannot be split by model" in text
    assert "Which quality at which size on python-docs?" in text and "better for fewer bytes" in text
    assert "16,352 tokens in windows of 512, cpu" in text


def test_speed_and_sizes_are_asked_for(start: Start, filled: Run, submitted: list[dict[str, Any]]) -> None:
    app = open_speed(start, filled)
    app.number_input(key="compare.speed.prompt").set_value(64)
    app.multiselect(key="compare.speed.schemes").set_value(["int8"])
    app.button(key="compare.speed.run").click().run()
    app.button(key="compare.sizes.run").click().run()
    assert submitted == [
        {"run_id": filled.id, "task": "speed", "batch": 1, "prompt": 64, "new_tokens": 32, "repeats": 5}
        | {"schemes": ["int8"]},
        {"run_id": filled.id, "task": "sizes", "schemes": ["int8"]},
    ]


def test_a_length_beyond_the_models_positions_is_refused_with_a_reason(start: Start, filled: Run) -> None:
    app = open_speed(start, filled)
    app.number_input(key="compare.speed.prompt").set_value(30_000)
    app.button(key="compare.speed.run").click().run()
    assert not app.exception and "positions" in words(app) and "shorter prompt" in words(app)


def test_without_quantised_copies_there_is_nothing_to_weigh(start: Start, filled: Run) -> None:
    app = open_speed(start, filled)
    app.multiselect(key="compare.speed.schemes").set_value([]).run()
    assert app.button(key="compare.sizes.run").disabled and not app.button(key="compare.speed.run").disabled
    assert "--quantised" not in "".join(str(code.value) for code in app.code)


def test_the_code_says_what_the_controls_say(start: Start, filled: Run) -> None:
    app = open_speed(start, filled)
    app.number_input(key="compare.speed.repeats").set_value(7).run()
    shown = "\n".join(str(code.value) for code in app.code)
    assert "nv.measure_speed(models, batch=1, prompt=128, new_tokens=32, repeats=7)" in shown
    assert f"nirvana speed {filled.id}" in shown and "--quantised int4 --sizes" in shown


def test_tokens_are_shaded_under_both_models(start: Start, filled: Run) -> None:
    scored = {
        "dense": ScoredText((" <i>a", " b"), {"dense": (0.9, 0.8), "pruned": (0.5, 0.01)}),
        "pruned": ScoredText((" c",), {"dense": (0.2,), "pruned": (0.7,)}),
    }
    filled.add_continuation(Continuation("Hello", False, 8, {"dense": " <i>a b", "pruned": " c"}, scored))
    app = open_page(start, filled)
    found: Any = app.get("html")
    blocks = [body for block in found if not (body := str(block.body)).startswith("<style>")]
    assert len(blocks) == 5 and all("<i>" not in block for block in blocks)
    assert "&lt;i&gt;a" in blocks[0] and "dense 80 %, pruned 1 %" in blocks[0]
    text = words(app)
    assert "Probability under the pruned model: perplexity 14.14" in text
    assert "Probability under the dense model: perplexity 5" in text
    assert tables(app, "written by") == []


def test_the_text_so_far_is_shown(start: Start, filled: Run, monkeypatch: Any) -> None:
    job_id = add_job(filled, "running")
    job = JobManager.job

    def with_text(self: JobManager, job_id: str) -> Any:
        return replace(job(self, job_id), text="Dense: Once upon", task="continue")

    monkeypatch.setattr(JobManager, "job", with_text)
    monkeypatch.setattr(JobManager, "jobs", lambda self, *_, **__: [with_text(self, job_id)])
    app = open_page(start, filled)
    assert "Dense: Once upon" in [code.value for code in app.code]
