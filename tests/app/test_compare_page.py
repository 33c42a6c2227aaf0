"""The Compare page: both models side by side, honest verdicts, continuations, and its empty and stale states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard import state
from nirvana.dashboard.panels.continuations import agreement
from nirvana.evaluation.results import Measurement, Report
from nirvana.jobs.queue import JobManager
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import Continuation
from nirvana.runs.store import Run, Store
from tests.app.conftest import keys_on, open_tab

Start = Callable[..., AppTest]


def open_page(start: Start, run: Run | None = None) -> AppTest:
    app = start(run)
    app.switch_page("pages/compare.py").run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Everything that the page says in running text."""
    parts = [*app.markdown, *app.caption, *app.warning, *app.error, *app.info, *app.success]
    return "\n".join(str(part.value) for part in parts)


def scale_pruned(run: Run, factor: float) -> None:
    """Make the pruned model's perplexities `factor` times what they are."""
    report = run.report()
    assert report is not None
    found = [
        replace(item, value=item.value * factor) if (item.metric, item.subject) == ("perplexity", "pruned") else item
        for item in report.measurements
    ]
    run.put("evaluate", Report(tuple(found)), device="cpu", dtype="float32", seconds=1.0)


def find(run: Run, metric: str, subject: str, **protocol: Any) -> Measurement:
    report = run.report()
    assert report is not None
    found = report.find(metric, subject, **protocol)
    assert found is not None
    return found


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of the job manager; nothing is started."""
    found: list[dict[str, Any]] = []

    def submit(self: JobManager, run_id: str, **arguments: Any) -> None:
        found.append({"run_id": run_id, **arguments})

    monkeypatch.setattr(JobManager, "submit", submit)
    return found


def test_both_models_stand_side_by_side_with_errors_and_protocol(start: Start, filled: Run) -> None:
    app = open_tab(open_page(start, filled), "Measurements")
    dense, pruned = (find(filled, "perplexity", subject, corpus="library-docs") for subject in ("dense", "pruned"))
    cards = [metric for metric in app.metric if metric.value == f"{pruned.value:.2f}"]
    assert len(cards) == 1 and cards[0].label == "Pruned"
    assert cards[0].delta == f"{pruned.value / dense.value - 1:+.1%}"
    assert cards[0].proto.MetricColor.Name(cards[0].proto.color) == "RED"  # higher is worse
    text = words(app)
    assert "library-docs efefefef, 16,352 tokens in windows of 512, cpu float32, 4-bit origin" in text
    assert "n = 32" in text and "How many times higher is perplexity after pruning?" in text
    assert "KL to the dense model on python-docs" in text
    open_tab(app, "All numbers")
    assert len(app.dataframe[0].value) == len(filled.report().measurements)  # type: ignore[union-attr]


def test_a_run_without_results_says_what_comes_first(start: Start, store: Store) -> None:
    app = open_page(start, store.create(Recipe()))
    assert "Nothing to show yet" in words(app) and "**Prune** step first" in words(app)
    assert not [button for button in app.button if button.key == "compare.continue"]


def test_another_protocol_goes_to_the_draft_and_marks_the_result_stale(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    assert app.button(key="compare.run").disabled
    app.multiselect(key="compare.corpora").set_value(["stdlib-code"]).run()
    app.number_input(key="compare.window").set_value(128).run()
    choice = app.session_state[state.DRAFT].evaluation
    assert choice.corpora == ("stdlib-code",) and choice.window == 128
    assert "belongs to earlier choices" in words(app)
    assert not app.button(key="compare.run").disabled


def test_a_window_that_cannot_be_filled_is_refused(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    app.number_input(key="compare.max_tokens").set_value(100).run()
    assert "100 tokens do not fill one window of 512" in words(app)
    assert app.button(key="compare.run").disabled


def test_a_collapse_is_said_first(start: Start, filled: Run) -> None:
    assert not open_page(start, filled).error
    scale_pruned(filled, 1e4)
    text = words(open_page(start, filled))
    assert "Pruning broke this model" in text and "more than the 300 of guessing blindly" in text
    scale_pruned(filled, math.inf)
    assert "perplexity is infinite" in words(open_page(start, filled))


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.5, "A baseline is better than this run"), (3.0, "Better than a baseline")]
)
def test_a_baseline_of_the_same_model_is_held_against_the_run(
    start: Start, store: Store, filled: Run, factor: float, verdict: str
) -> None:
    other = store.create(filled.recipe.change("saliency", criterion="random"), name="Dice *throw*")
    for step in ("model", "calibration", "saliency", "allocation", "prune", "evaluate"):
        other.put(step, filled.steps.read(step))
    scale_pruned(other, factor)
    app = open_page(start, filled)
    text = words(app)
    assert verdict in text and r"Dice \*throw\*" in text
    theirs, ours = (find(run, "perplexity", "pruned", corpus="python-docs") for run in (other, filled))
    assert f"On python-docs the random criterion reaches perplexity {theirs.value:.2f}" in text.replace("\\", "")
    assert f"this run {ours.value:.2f}" in text
    assert "What do other runs reach on python-docs?" in words(open_tab(app, "Other runs"))


def test_runs_of_other_weights_or_texts_are_no_rivals(start: Start, store: Store, filled: Run) -> None:
    other = store.create(filled.recipe.change("saliency", criterion="random"), name="Stranger")
    for step in ("model", "calibration", "saliency", "allocation", "prune", "evaluate"):
        other.put(step, filled.steps.read(step))
    scale_pruned(other, 0.5)
    card = other.model()
    assert card is not None
    other.put("model", replace(card, hash="00" * 32))
    text = words(open_tab(open_page(start, filled), "Other runs"))
    assert "Stranger" not in text and "No other run of this model" in text


def test_continuations_are_shown_letter_by_letter_newest_first(start: Start, filled: Run) -> None:
    filled.add_continuation(Continuation("<b>Tell</b> me", True, 8, {"dense": "One $x$.", "pruned": "One *y*."}))
    app = open_page(start, filled)
    shown = [code.value for code in app.code]
    assert {"<b>Tell</b> me", "One $x$.", "One *y*."} <= set(shown) and " Paris." not in shown
    assert "in the chat template" in words(app) and "They differ after 4 characters." in words(app)
    app.selectbox(key="compare.continuation").set_value(0).run()
    assert " Paris." in [code.value for code in app.code]


def test_a_prompt_is_sent_to_both_models(start: Start, filled: Run, submitted: list[dict[str, Any]]) -> None:
    app = open_page(start, filled)
    app.text_area(key="compare.prompt").set_value("Once upon")
    app.toggle(key="compare.chat").set_value(True)
    app.number_input(key="compare.new_tokens").set_value(12)
    app.button(key="compare.continue").click().run()
    assert submitted == [
        {"run_id": filled.id, "task": "continue", "prompt": "Once upon", "chat": True, "max_new_tokens": 12}
    ]


def test_an_empty_prompt_is_refused_with_a_reason(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    app.button(key="compare.continue").click().run()
    assert not app.exception and "A prompt has 1 to 8,000 characters" in words(app).replace("\\", "")


def test_a_model_without_chat_template_says_so(start: Start, filled: Run) -> None:
    card = filled.model()
    assert card is not None
    filled.put("model", replace(card, has_chat_template=False))
    app = open_page(start, filled)
    assert app.toggle(key="compare.chat").disabled


@pytest.mark.parametrize(
    ("dense", "pruned", "sentence"),
    [
        ("abc", "abd", "They differ after 2 characters."),
        ("abc", "ab", "They differ after 2 characters."),
        ("abc", "abc", "Both models generate the same text."),
        ("abc", "", "They differ from the first character."),
    ],
)
def test_where_two_texts_part(dense: str, pruned: str, sentence: str) -> None:
    assert agreement(Continuation("p", False, 4, {"dense": dense, "pruned": pruned})) == sentence


def test_any_set_of_runs_beside_each_other(start: Start, store: Store, filled: Run) -> None:
    others = []
    for name, sparsity in (("Other", 0.35), ("Third", 0.3), ("Fourth", 0.25)):
        others.append(store.create(filled.recipe.change("allocation", sparsity=sparsity), name=name, parent=filled))
    app = start(filled)
    app.switch_page("pages/compare.py").run()
    open_tab(app, "Other runs")
    assert "compare.many" not in keys_on(app)
    app.multiselect(key="compare.beside").set_value([others[0].id]).run()
    assert not app.exception
    assert app.query_params["with"] == others[0].id
    assert "compare.line" in keys_on(app) and "compare.many_chart" in keys_on(app)
    assert any("not measured" in info.value for info in app.info)
    table = next(frame.value for frame in app.dataframe if "measured" in frame.value.columns)
    assert list(table.columns) == ["measured", "Filled (20 %)", "Other (35 %)", "winner"]
    app.multiselect(key="compare.beside").set_value([run.id for run in others]).run()
    assert not app.exception and app.query_params["with"].count(",") == 2
    assert app.query_params["run"] == filled.id
    again = start(filled)
    again.query_params["with"] = others[1].id
    again.switch_page("pages/compare.py").run()
    assert again.multiselect(key="compare.beside").value == [others[1].id]
    app.multiselect(key="compare.beside").set_value([]).run()
    assert "with" not in app.query_params


def test_runs_measured_differently_are_measured_like_the_first(
    start: Start, store: Store, filled: Run, submitted: list[dict[str, Any]]
) -> None:
    longer = filled.recipe.change("evaluation", max_tokens=32_768)
    other = store.create(longer, name="Longer", parent=filled)
    report = filled.report()
    assert report is not None
    rows = [replace(each, protocol=each.protocol | {"tokens": 32_704}) for each in report.measurements]
    other.put("evaluate", Report(tuple(rows)), device="cpu", dtype="float32", seconds=1.0)
    same = store.create(filled.recipe.change("allocation", sparsity=0.3), name="Same", parent=filled)
    app = start(filled)
    app.query_params["with"] = f"{other.id},{same.id}"
    app.switch_page("pages/compare.py").run()
    open_tab(app, "Other runs")
    assert not app.exception
    text = words(app).replace("\\", "")
    assert "measured differently from the first" in text and "tokens 32,704 instead of 16,352" in text
    button = app.button(key="compare.alike")
    assert button.label == "Measure 1 run like the first"
    button.click().run()
    assert not app.exception
    (made,) = [run for run in store.runs() if run.id not in (filled.id, other.id, same.id)]
    assert submitted == [{"run_id": made.id}] and made.name == "Longer, measured again"
    assert made.recipe == filled.recipe and made.step_state("prune") == "done"
    assert app.multiselect(key="compare.beside").value == [made.id, same.id]
    assert app.query_params["with"] == f"{made.id},{same.id}" and "compare.alike" not in keys_on(app)
    kept = store.open(other.id)
    assert kept.recipe == longer and kept.report() == other.report()


def test_a_run_that_was_measured_alike_before_is_taken_again(
    start: Start, store: Store, filled: Run, submitted: list[dict[str, Any]]
) -> None:
    other = store.create(filled.recipe.change("evaluation", window=128), name="Other", parent=filled)
    same = store.create(filled.recipe, name="Alike", parent=filled)
    app = start(filled)
    app.query_params["with"] = other.id
    app.switch_page("pages/compare.py").run()
    open_tab(app, "Other runs")
    app.button(key="compare.alike").click().run()
    assert not app.exception and submitted == [] and len(store.runs()) == 3
    assert app.multiselect(key="compare.beside").value == [same.id]


def test_the_runs_page_asks_for_two_rows(start: Start, filled: Run) -> None:
    app = start(filled)
    app.switch_page("pages/runs.py").run()
    assert app.button(key="runs.compare").disabled
