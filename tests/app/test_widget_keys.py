"""The documented widget keys are those of the pages, no more and no fewer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from streamlit.testing.v1 import AppTest

from nirvana.dashboard.guide import PAGES
from nirvana.layout import MLP, Site
from nirvana.models.families.t5 import T5Family
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from nirvana.studies.kernel_rows import KernelRow
from nirvana.studies.sweep_grid import Point
from nirvana.studies.sweep_rows import Row
from tests.ablations import ablations, study_of_kernel
from tests.app.conftest import ROOT, SMALL_T5, add_job, fill, keys_of_all_tabs, keys_on, open_tab
from tests.app.test_allocation_search_panel import STEPS
from tests.app.test_experiments_page import put_rows
from tests.app.test_speed_panel import put_scan, put_sizes, put_speed
from tests.app.test_sweep_page import put_sweep
from tests.app.test_tune_page import SETTINGS, TRIALS
from tests.app.test_unit_page import put_unit
from tests.app.test_zero_shot_panel import with_tasks
from tests.journals import write_allocation_search, write_kernel, write_matrix, write_search, write_sweep
from tests.sweeps import grid_of
from tests.unit.test_figures_matrix import make

ROW = re.compile(r"^\| `([^`]+)` \|[^|]*\|[^|]*\|([^|]*)\|$", re.MULTILINE)

CHOICES: dict[str, Callable[[AppTest], Any]] = {
    "model": lambda app: app.segmented_control(key="model.source").select("Hub"),
    "allocation": lambda app: app.slider(key="allocation.sparsity").set_value(0.99),
    "method": lambda app: open_tab(app, "Unit").segmented_control(key="method.unit.kind").set_value("KV group"),
    "prune": lambda app: app.radio(key="prune.compensation").set_value("bias"),
    "experiments": lambda app: app.radio(key="experiments.choice").set_value("attention"),
    "compare": lambda app: (
        open_tab(app, "Other runs").multiselect(key="compare.beside").set_value([Store().runs()[0].id])
    ),
}
# AppTest keeps no keys of tables without selections.
TABLES = {
    "model.units", "model.geometry", "calibration.texts", "saliency.best.<module>", "saliency.worst.<module>",
    "compare.differences.table", "compare.many", "sweep.comparison", "tune.trials", "runs.points.table",
    "recover.checks.table", "experiments.points", "unit.weights", "allocation.edit.trials",
}  # fmt: skip
# Need a click into an expander, an own text, a damaged index, an export, missing weights or a worker with a model.
ELSEWHERE = {
    "<chart>.table.csv", "model.path", "model.unload", "calibration.together", "calibration.mixtures",
    "notices.read", "prune.download", "compare.alike", "recover.download", "recover.again",
    "lecture.back", "lecture.next", "lecture.end", "allocation.detail", "prune.detail", "allocation.edit",
}  # fmt: skip


def documented() -> dict[str, str]:
    """Key -> when it appears; empty where always."""
    return {key: when.strip() for key, when in ROW.findall((ROOT / "docs/widget-keys.md").read_text(encoding="utf-8"))}


def pattern(key: str) -> re.Pattern[str]:
    whole = re.escape(key).replace("<chart>", ".+").replace("<page>", "[a-z]+")
    return re.compile(re.sub(r"<\w+>", "[^.]+", whole))


def best_neuron(run: Run) -> int:
    """The unit that the Unit page starts with."""
    scores = run.saliency()
    assert scores is not None
    return int(scores[Site("decoder", 0, MLP)].argmax())


def study(run: Run, store: Store) -> Run:
    """Give a run the made-up rows of all studies, with failed ones, and all that can be measured beside the steps."""
    with_tasks(run)
    put_speed(run)
    put_sizes(run)
    put_scan(run, base=0.0)
    put_unit(run, Site("decoder", 0, MLP), best_neuron(run))
    (row,) = put_sweep(store, run, grid_of(("random",), ("shared",), (0.2,), (0,)))
    put_sweep(store, run, grid_of(("random",), ("shared",), (0.2,), (0,), recoveries=("distill",)))
    point = row.point._replace(sparsity=0.9)
    wanted = point.recipe(run.recipe).fingerprint("evaluate")
    write_sweep(run, [Row(point, fingerprint=wanted, failure="out of reach")])
    failed_trial = replace(TRIALS[0], number=len(TRIALS), kl=math.nan, failure="out of reach")
    write_search(run.folder, SETTINGS, [*TRIALS, failed_trial])
    plan = run.plan()
    assert plan is not None
    write_allocation_search(run, plan, STEPS)
    put_rows(store, "attention", failed=True)
    matrix = make(0.2)
    failed_row = replace(matrix.rows[0], seed=1, kl=(), perplexity=(), failure="out of reach")
    write_matrix(run.folder, replace(matrix, failed=(failed_row,)))
    run.attach("ablation", ablations())
    theorem = study_of_kernel()
    write_kernel(
        run.folder, replace(theorem, failed=(KernelRow(Point(0, "flap", "shared", 0.2, "none", 4.0), failure="no"),))
    )
    return store.open(row.run_id)


def test_documented_keys_are_those_of_the_pages(start: Callable[..., AppTest], store: Store, filled: Run) -> None:
    point = study(filled, store)
    fill(store.create(Recipe().change("saliency", criterion="random"), name="Second"), seed=1)
    with_encoder = fill(store.create(Recipe(), name="T5"), SMALL_T5, family=T5Family())
    trained = fill(store.create(Recipe().change("recovery", method="distill"), name="Trained"))
    edited = Recipe().change("allocation", widths=("decoder.0.mlp=40",))
    changed = fill(store.create(edited, name="Own widths"))
    rounds = store.create(Recipe().change("allocation", rounds=2), name="Rounds", parent=filled)
    timed = fill(store.create(Recipe().change("allocation", budget="latency"), name="Timed"))
    new = store.create(Recipe(), name="New")
    add_job(new, "running")
    found: set[str] = set()
    only = {  # pages that differ for these runs
        point.id: {"sweep", "runs"},
        with_encoder.id: {"calibration", "saliency", "allocation", "compare", "unit", "method"},
        trained.id: {"recover", "compare"},
        changed.id: {"allocation"},
        rounds.id: {"allocation"},
        timed.id: {"allocation"},
    }
    for run in (filled, point, with_encoder, trained, changed, rounds, timed, new):
        app = start(run).run()
        found |= keys_on(app)  # with the sidebar
        for page in PAGES:
            if page.key not in only.get(run.id, {page.key}):
                continue
            app.switch_page(page.path).run()
            assert not app.exception, page.key
            found |= keys_of_all_tabs(app)
    for stop in ("1", "2"):  # of the tour, on the page of its second stop
        app = start(filled)
        app.query_params["tour"] = stop
        found |= keys_on(app.switch_page("pages/model.py").run())
    for name, choose in CHOICES.items():
        app = start(filled)
        app.switch_page(f"pages/{name}.py").run()
        choose(app).run()
        assert not app.exception, name
        found |= keys_of_all_tabs(app)
    known = documented()
    patterns = {key: pattern(key) for key in known}
    assert sorted(key for key in found if not any(each.fullmatch(key) for each in patterns.values())) == []
    missing = [key for key in known if not any(patterns[key].fullmatch(each) for each in found)]
    assert [key for key in missing if not known[key]] == []
    assert sorted(set(missing) ^ (TABLES | ELSEWHERE)) == []
