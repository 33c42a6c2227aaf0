"""The Unit page: what drives a unit, its rank by each criterion, and its measured removal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.evaluation.ablation_results import Ablation, Ablations
from nirvana.evaluation.unit_inspection_results import (
    Excerpt,
    TokenMean,
    UnitInspection,
    UnitInspections,
    WeightNorm,
)
from nirvana.jobs.tasks.ablation import UnitRequest
from nirvana.layout import ATTENTION, KV_GROUP, MLP, NEURON, Site
from nirvana.models.families.t5 import T5Family
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import SMALL_T5, add_job, fill, keys_on, open_tab, tables

Start = Callable[..., AppTest]
SITE = Site("decoder", 2, MLP)


def inspection(site: Site = SITE, unit: int = 17, kind: str = NEURON) -> UnitInspection:
    excerpt = Excerpt(3, 5, 2, ("a <b>", "", "or", "\n"), (0.5, 0.1, -4.0, 0.0))
    tokens = (TokenMean(" or", 9, 2.5), TokenMean("<i>", 2, 1.5))
    weights = (WeightNorm("down_proj", 1.5, 2.0, 70),)
    protocol = {"model": "ab" * 32, "inputs": "cd" * 32, "positions": 64, "samples": 4}
    return UnitInspection(site, unit, kind, (excerpt,), tokens, tuple(i / 2.5 for i in range(11)), weights, protocol)


def put_unit(run: Run, site: Site = SITE, unit: int = 17, kind: str = NEURON) -> None:
    """Give a run the made-up inspection and removal of a unit."""
    run.attach("units", UnitInspections((inspection(site, unit, kind),)))
    found = Ablation(site, unit, kind, score=0.5, first_order=0.01, change=-0.02, kl=0.003, kl_error=0.0004)
    protocol = {"criterion": "nirvana", "output": 1.5, "samples": 8, "length": 128}
    run.attach("removals", Ablations((found,), protocol))


def opened(start: Start, run: Run, **values: str) -> AppTest:
    app = start(run)
    for name, value in values.items():
        app.query_params[name] = value
    app.switch_page("pages/unit.py").run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    return "\n".join(each.value for each in (*app.markdown, *app.caption))


def test_the_best_neuron_is_shown_first(start: Start, filled: Run) -> None:
    app = opened(start, filled)
    scores, plan = filled.saliency(), filled.plan()
    assert scores is not None and plan is not None
    site = Site("decoder", 0, MLP)
    best = int(scores[site].argmax())
    assert app.number_input(key="unit.number").value == best
    assert f"**Neuron {best}, layer 0**" in words(app)
    rank = int((scores.flat(NEURON) < scores[site][best]).sum()) + 1
    assert f"rank {rank:,} of 384" in words(app) and "The plan **keeps** it." in words(app)
    worst = int(scores[site].argmin())
    app.number_input(key="unit.number").set_value(worst).run()
    assert f"**Neuron {worst}, layer 0**" in words(app)
    assert ("**keeps**" in words(app)) == (worst in plan[site])


def test_what_drives_it_and_its_removal_are_shown(start: Start, filled: Run) -> None:
    put_unit(filled)
    app = opened(start, filled, layer="2", unit="mlp.17")
    assert app.button(key="unit.inspect").disabled and app.button(key="unit.remove").disabled
    html = "".join(each.proto.body for each in app.get("html"))
    assert "a &lt;b&gt;" in html and "<b>" not in html, "foreign text is escaped"
    assert "−4" in html and "font-weight: 700" in html
    assert "Its largest value is -4, 2 times the median over 64 positions." in words(app)
    values = {metric.label: metric.value for metric in app.metric}
    assert values["Predicted change of f"] == "+0.01" and values["Measured change of f"] == "-0.02"
    assert values["KL without it"] == "0.003 nats"
    assert "**wrong sign**" in words(app)
    open_tab(app, "Tokens")
    assert "unit.tokens" in keys_on(app) and "␣or, with a mean size of 2.5 over 9 occurrences" in words(app)
    open_tab(app, "Weights")
    (table,) = tables(app, "mean of the module")
    assert table["place among 96"].tolist() == [70]
    other = opened(start, filled, layer="2", unit="mlp.18")
    assert not other.button(key="unit.inspect").disabled and not other.metric


def test_every_criterion_of_the_model_is_ranked(start: Start, store: Store, filled: Run) -> None:
    fill(store.create(Recipe().change("saliency", criterion="random"), name="Second"), seed=1)
    fill(store.create(Recipe().change("saliency", criterion="random"), name="Third"), seed=2)
    app = opened(start, filled, layer="1", unit="attention.3")
    assert "Do the criteria agree about it?" in words(app)
    app.session_state["unit.ranks.table.open"] = True
    app.run()
    (table,) = tables(app, "criterion")
    assert len(table) == 2, "one run a criterion"
    scores = filled.saliency()
    assert scores is not None
    assert table["score"][0] == pytest.approx(float(scores[Site("decoder", 1, ATTENTION)][3]))
    assert set(table["units"]) == {16}


def test_a_kv_group_of_an_encoder(start: Start, store: Store) -> None:
    run = fill(store.create(Recipe(), name="T5"), SMALL_T5, family=T5Family())
    put_unit(run, Site("encoder", 1, ATTENTION), 2, KV_GROUP)
    app = opened(start, run, stack="encoder", layer="1", unit="attention.2")
    assert "KV group 2, layer 1, encoder self-attention" in words(app)
    assert "Its largest norm" in words(app)
    for label in ("Tokens", "All excerpts", "Weights", "How it works"):
        assert not open_tab(app, label).exception, label


def test_the_buttons_queue_tasks_on_the_unit(start: Start, filled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    queued = []
    monkeypatch.setattr(
        "nirvana.dashboard.state.start_task", lambda task, **arguments: queued.append((task, arguments))
    )
    app = opened(start, filled, layer="2", unit="mlp.17")
    app.button(key="unit.inspect").click().run()
    app.button(key="unit.remove").click().run()
    assert queued == [(task, {"site": SITE.key, "unit": 17}) for task in ("inspect-unit", "ablate-unit")]
    UnitRequest.from_json(queued[1][1])


def test_while_a_job_runs_and_without_scores(start: Start, store: Store, filled: Run) -> None:
    add_job(filled, "running")
    app = opened(start, filled)
    assert app.button(key="unit.inspect").disabled and app.button(key="unit.remove").disabled
    empty = opened(start, store.create(Recipe(), name="New"))
    assert any("Nothing to show yet" in each.value for each in empty.markdown)
