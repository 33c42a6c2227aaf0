"""The Tune page: a search on a tiny model, live results, and a run made of a trial."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.cli import build_parser
from nirvana.dashboard import state
from nirvana.options import given
from nirvana.reporting.figures import search as figures
from nirvana.reporting.search import CHOICES, command_line, describe, python_code, trials_table
from nirvana.reporting.text import plain
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.studies.search import SearchRequest
from nirvana.studies.search_space import Choices
from nirvana.studies.search_trials import Trial, read_trials
from tests.app.conftest import keys_on, open_tab
from tests.journals import write_search
from tests.visitors import as_visitor

Start = Callable[..., AppTest]
RECIPE = (
    Recipe()
    .change("model", name="tiny-llama")
    .change("calibration", samples=4, length=64, candidates=1)
    .change("prune", samples=4, length=64)
    .change("evaluation", corpora=("python-docs",), window=128, max_tokens=256)
)


def trial(number: int, kl: float, perplexity: float, criterion: str = "taylor", **values: Any) -> Trial:
    usual: dict[str, Any] = {"criterion": criterion, "corpus": "python-docs", "seed": 0, "gamma": 1.0 + number}
    chosen = Choices(**usual | {"normalisation": 0.0, "compensation": "none"} | values)
    return Trial(number, chosen, kl, 0.01, {"python-docs": [perplexity, 0.5]}, 0.2, 1.0)


TRIALS = [
    trial(0, 0.8, 30.0, "nirvana"),
    trial(1, 0.2, 14.0, compensation="least_squares"),
    trial(2, 0.3, 15.0),
    trial(3, 0.5, 20.0, first=1),
]
MEASURED = trial(4, 0.1, 12.0, gamma=3.36, method="measured", compensation="least_squares")


@pytest.mark.usefixtures("worker_here")
def test_a_search_and_a_run_of_its_best(start: Start, store: Store) -> None:
    run = store.create(RECIPE)
    app = start(run)
    app.switch_page("pages/tune.py").run()
    assert not app.exception and "tune.by_choice" not in keys_on(app)
    app.multiselect(key="tune.criteria").set_value(["magnitude", "flap"]).run()
    app.number_input(key="tune.minutes").set_value(1).run()
    app.button(key="tune.run").click().run()
    assert not app.exception
    jobs, deadline = state.jobs(), time.monotonic() + 120
    while len(read_trials(run.folder)[1]) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    live = jobs.live(run.id)
    assert live is not None and live.task == "tune"
    jobs.cancel(live.id)
    while jobs.live(run.id) is not None and time.monotonic() < deadline:
        time.sleep(0.2)
    app.run()
    assert not app.exception and {"tune.by_choice", "tune.over_time", "tune.make"} <= keys_on(app)
    kept = len(read_trials(run.folder)[1])
    assert kept >= 2 and f"Continue with trial {kept + 1}" in app.button(key="tune.run").label
    app.button(key="tune.make").click().run()
    assert not app.exception
    made = store.open(app.query_params["run"])
    assert "prune.run" in keys_on(app), "the run is shown where its model is made"
    assert made.id != run.id and made.recipe.saliency.criterion in ("magnitude", "flap")
    assert made.recipe.calibration.samples == 4 and made.recipe.model.name == "tiny-llama"
    made_job = jobs.live(made.id)
    if made_job is not None:
        jobs.cancel(made_job.id)


def test_without_texts_nothing_starts(start: Start, store: Store) -> None:
    app = start(store.create(RECIPE))
    app.switch_page("pages/tune.py").run()
    app.multiselect(key="tune.corpora").set_value([]).run()
    assert app.button(key="tune.run").disabled
    assert any("no text" in error.value for error in app.error)


def test_the_controls_show_the_search_of_the_run(start: Start, store: Store) -> None:
    run = store.create(RECIPE)
    write_search(run.folder, SETTINGS, TRIALS)
    app = start(run)
    app.switch_page("pages/tune.py").run()
    assert not app.exception
    assert app.multiselect(key="tune.criteria").value == ["nirvana", "taylor"]
    assert app.slider(key="tune.sparsity").value == 0.25
    open_tab(app, "KL and perplexity")
    assert any("rank correlation is **1.00**" in text.value for text in app.markdown)
    assert any(plain(describe(TRIALS[1].choices)) in text.value for text in app.markdown)


def test_the_allocations_are_those_of_the_search(start: Start, store: Store) -> None:
    run = store.create(RECIPE)
    write_search(run.folder, SETTINGS | {"methods": ["shared", "measured"]}, [*TRIALS, MEASURED])
    app = start(run)
    app.switch_page("pages/tune.py").run()
    assert not app.exception and app.multiselect(key="tune.methods").value == ["shared", "measured"]
    assert "minutes" in app.multiselect(key="tune.methods").help
    assert app.button(key="tune.run").label == "Continue with trial 6"
    command = next(each.value for each in app.code if each.value.startswith("nirvana tune"))
    assert "--method shared --method measured" in command
    app.segmented_control(key="tune.choice").set_value("allocation").run()
    assert any("Which allocation keeps" in text.value for text in app.markdown)
    app.multiselect(key="tune.methods").set_value(["measured"]).run()
    assert app.button(key="tune.run").label == "Search", "another space has trials of its own"
    app.multiselect(key="tune.methods").set_value([]).run()
    assert app.button(key="tune.run").disabled and any("no allocation" in error.value for error in app.error)


SETTINGS = {
    "corpora": {"python-docs": "hash"},
    "criteria": ["nirvana", "taylor"],
    "sparsity": 0.25,
    "seed": 0,
    "base": RECIPE.to_json(),
    "layers": [0, 1, 2, 3],
    "probe": {"samples": 64, "length": 64, "seed": 42, "hash": "x"},
    "perplexity": {"split": "probe", "window": 512, "max_tokens": 2048},
    "dtype": "torch.float32",
    "device": "cpu",
}


@pytest.mark.parametrize("choice", CHOICES)
def test_charts_ring_the_best(choice: str) -> None:
    chart = figures.by_choice(TRIALS, choice)
    assert chart is not None
    marks, ring = chart.figure.data
    assert list(marks.y) == [0.8, 0.2, 0.3, 0.5] and ring.y[0] == 0.2 and ring.x[0] == marks.x[1]
    assert figures.by_choice([], choice) is None


def test_measured_trials_are_beside_the_others_but_have_no_gamma() -> None:
    every = [*TRIALS, MEASURED]
    by_method, by_gamma = figures.by_choice(every, "allocation"), figures.by_choice(every, "gamma")
    assert by_method is not None and by_gamma is not None
    assert list(by_method.figure.layout.xaxis.ticktext) == ["measured allocation", "shared allocation"]
    assert "The best so far has measured allocation: 0.1" in by_method.takeaway
    hover = by_method.figure.data[0].text
    assert "measured allocation, least squares" in hover[4] and "gamma 2, least squares" in hover[1]
    assert list(by_gamma.figure.data[0].x) == [1.0, 2.0, 3.0, 4.0] and by_gamma.figure.data[1].y[0] == 0.2
    assert "The best with the shared allocation has 2.0" in by_gamma.takeaway
    assert "Left out: 1 trial with the measured allocation" in by_gamma.reading
    assert figures.by_choice([MEASURED], "normalisation") is None
    table = trials_table(every)
    assert table["gamma"].isna().tolist() == table["normalisation"].isna().tolist() == 4 * [False] + [True]


def test_the_claim_is_tested() -> None:
    chart = figures.kl_against_perplexity(TRIALS)
    assert chart is not None and "**1.00** over 4 models" in chart.takeaway and "the same trial" in chart.takeaway
    worse = [*TRIALS[:3], trial(3, 0.9, 10.0), trial(4, 0.95, 9.0)]
    other = figures.kl_against_perplexity(worse)
    assert other is not None and "does not hold" in other.takeaway and "costs 55.6%" in other.takeaway
    few = figures.kl_against_perplexity(TRIALS[:2])
    assert few is not None and "too few" in few.takeaway


def test_the_best_so_far_only_falls() -> None:
    chart = figures.over_time(TRIALS)
    assert chart is not None
    assert list(chart.figure.data[1].y) == [0.8, 0.2, 0.2, 0.2]
    assert "From 0.8 nats with the first trial to 0.2 with trial 2, 75% less." in chart.takeaway


def test_words_tables_and_code() -> None:
    words = describe(TRIALS[3].choices)
    assert words == "taylor, gamma 4, on python-docs, seed 0, first 1 layer protected"
    words = describe(MEASURED.choices)
    assert words == "taylor, measured allocation, least squares, on python-docs, seed 0"
    table = trials_table([*TRIALS, Trial(4, TRIALS[0].choices, failure="no")])
    assert len(table) == 4 and table["protected"].tolist() == ["none", "none", "none", "first 1, last 0"]
    asked = SearchRequest(corpora=("a b.txt",), criteria=("taylor",), sparsity=0.3, minutes=5, seed=2)
    script = python_code(RECIPE, asked)
    compile(script, "script", "exec")
    assert "nv.tune(lm, corpora, 0.3, minutes=5, criteria=('taylor',), seed=2, base=base)" in script
    trained = RECIPE.change("recovery", method="distill", minutes=3.0)
    script = python_code(trained, asked)
    compile(script, "script", "exec")
    assert (
        "recovery" not in python_code(RECIPE, asked) and ".change(\"recovery\", method='distill', minutes=3.0" in script
    )
    assert "--recovery distill --recovery-minutes 3" in command_line(trained, asked)
    line = command_line(RECIPE, asked)
    assert "--corpus 'a b.txt' --sparsity 0.3 --minutes 5 --criterion taylor --seed 2" in line
    both = asked.with_values(methods=("shared", "measured"))
    assert "criteria=('taylor',), methods=('shared', 'measured'), seed=2" in python_code(RECIPE, both)
    parsed = build_parser().parse_args(shlex.split(command_line(RECIPE, both))[1:])
    assert SearchRequest(**given(SearchRequest, parsed)) == both


def test_strangers_search_on_built_in_texts_only(start: Start, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIRVANA_PUBLIC_DEMO", "1")
    app = as_visitor(start(store.of("ann").create(RECIPE)), "ann")
    app.switch_page("pages/tune.py").run()
    assert app.number_input(key="tune.minutes").max == 10
    app.session_state["tune.corpora"] = ["/secret.txt"]
    app.run()
    assert app.button(key="tune.run").disabled, "what was not offered is not taken"

    def forged() -> None:
        import streamlit as st

        from nirvana.dashboard import state
        from nirvana.runs.recipe import Recipe

        problem = state.take_problem()
        if problem is None:
            state.start_study("tune", Recipe().change("model", name="tiny-llama"), corpora=["/secret.txt"])
        else:
            st.error(str(problem))

    direct = AppTest.from_function(forged).run()
    assert any("built-in" in error.value for error in direct.error)
