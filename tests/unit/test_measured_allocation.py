"""The measured allocation against an exhaustive search, and as part of a run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nirvana as nv
from nirvana import cli
from nirvana.errors import Cancelled, PlanError
from nirvana.layout import KV_GROUP, NEURON, Layout, Site, SiteLayout
from nirvana.loss_curves import LEVELS, Sensitivity, Shift
from nirvana.plan import PruningPlan
from nirvana.progress import Progress
from nirvana.reporting.code import python_code
from nirvana.reporting.sweeps import comparison
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.runs.workspace import Workspace
from nirvana.saliency.scores import Saliency
from nirvana.studies.sweep_grid import Grid
from tests.sweeps import PERPLEXITY, grid_of, make_rows


def made(units: list[int], cost: int, kind: str) -> Layout:
    module = "attention" if kind == KV_GROUP else "mlp"
    return Layout({Site("decoder", i, module): SiteLayout(count, cost, kind) for i, count in enumerate(units)})


def scored(layout: Layout, seed: int = 0) -> Saliency:
    draw = np.random.default_rng(seed)
    return Saliency({s: draw.random(p.units, np.float32) for s, p in layout.items()}, layout, "random")


def curves_of(saliency: Saliency, kl: dict[Site, list[float]]) -> Sensitivity:
    """Curves that are measured at every number of units."""
    points = {
        site: tuple(Shift(value, 0.0, count, saliency.layout[site].units) for count, value in enumerate(values, 1))
        for site, values in kl.items()
    }
    return Sensitivity(points, {"scores": saliency.hash})


def total(kl: dict[Site, list[float]], removed: dict[Site, int]) -> float:
    return sum(kl[site][count - 1] if count else 0.0 for site, count in removed.items())


@settings(deadline=None, max_examples=80)
@given(
    units=st.lists(st.integers(2, 5), min_size=1, max_size=4),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
)
def test_of_convex_curves_the_cheapest_combination_is_found(units: list[int], share: float, seed: int) -> None:
    layout = made(units, 10, KV_GROUP)
    scores, draw = scored(layout, seed), np.random.default_rng(seed)
    kl = {site: np.cumsum(np.sort(draw.random(place.units - 1))).tolist() for site, place in layout.items()}
    limit = nv.reachable_sparsity(layout, method="measured")
    sparsity = max(share * limit, 1e-3)
    plan = nv.allocate(scores, sparsity=sparsity, method="measured", sensitivity=curves_of(scores, kl))
    removed = {site: layout[site].units - len(kept) for site, kept in plan.items()}
    most = int(sparsity * layout.prunable + 1e-6) // 10
    assert sum(removed.values()) == most
    every = itertools.product(*(range(place.units) for place in layout.values()))
    best = min(total(kl, dict(zip(layout, each, strict=True))) for each in every if sum(each) == most)
    assert total(kl, removed) == pytest.approx(best)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1000), sparsity=st.floats(0.05, 0.6), multiple=st.sampled_from([1, 4, 8]))
def test_the_budget_is_met_and_lowest_scores_go(seed: int, sparsity: float, multiple: int) -> None:
    draw = np.random.default_rng(seed)
    attention = {Site("decoder", i, "attention"): SiteLayout(4, 64, KV_GROUP) for i in range(3)}
    mlp = {Site("decoder", i, "mlp"): SiteLayout(32, 6, NEURON) for i in range(3)}
    layout = Layout(
        {site: {**attention, **mlp}[site] for i in range(3) for site in [*attention, *mlp] if site.layer == i}
    )
    scores = scored(layout, seed)
    kl = {site: (draw.random(place.units - 1) * place.units).tolist() for site, place in layout.items()}  # any shape
    plan = nv.allocate(
        scores, sparsity=sparsity, method="measured", multiple_of=multiple, sensitivity=curves_of(scores, kl)
    )
    assert 0 <= sparsity - plan.sparsity < multiple * 6 / layout.prunable + 1e-9
    for site, kept in plan.items():
        gone = np.setdiff1d(np.arange(layout[site].units), kept)
        assert not len(gone) or scores[site][gone].max() <= scores[site][kept].min()
        assert layout[site].kind == KV_GROUP or len(kept) % multiple == 0
        assert len(kept) >= (1 if layout[site].kind == KV_GROUP else multiple)


def test_the_dearer_module_is_spared_and_protected_layers_are_whole() -> None:
    layout = made([16, 16, 16], 6, NEURON)
    scores = scored(layout)
    kl = {site: (np.arange(1, 16) * (10.0 if site.layer == 1 else 1.0)).tolist() for site in layout}
    curves = curves_of(scores, kl)
    plan = nv.allocate(scores, sparsity=0.3, multiple_of=1, method="measured", sensitivity=curves)
    assert [len(kept) for kept in plan.values()][1] == 16
    plan = nv.allocate(scores, sparsity=0.3, multiple_of=1, method="measured", sensitivity=curves, protected=(0,))
    assert len(plan[Site("decoder", 0, "mlp")]) == 16 and plan.sparsity == pytest.approx(0.3, abs=1 / 48)


def test_more_than_was_measured_goes_last() -> None:
    layout = made([20, 20], 6, NEURON)
    scores, (one, two) = scored(layout), layout
    curves = Sensitivity(
        {one: (Shift(1e-6, 0, 4, 20), Shift(2e-6, 0, 10, 20)), two: (Shift(1.0, 0, 4, 20), Shift(3.0, 0, 10, 20))},
        {"scores": scores.hash},
    )
    at_half = nv.allocate(scores, sparsity=0.5, multiple_of=1, method="measured", sensitivity=curves)
    assert [len(kept) for kept in at_half.values()] == [10, 10]
    more = nv.allocate(scores, sparsity=0.6, multiple_of=1, method="measured", sensitivity=curves)
    assert len(more[one]) < 10 and any(one.key in note for note in more.notes)


def test_equal_widths_take_the_pair_with_the_least_kl(tiny_lm: nv.LM, tmp_path: Path) -> None:
    layout = tiny_lm.layout
    scores = nv.score(tiny_lm, None, criterion="random")
    for dear, groups in (("attention", 2), ("mlp", 1)):
        kl = {
            site: (np.arange(1, place.units) * (1.0 if site.module == dear else 1e-3) / place.units).tolist()
            for site, place in layout.items()
        }
        curves = curves_of(scores, kl)
        plan = nv.allocate(scores, sparsity=0.3, uniform=True, method="measured", sensitivity=curves)
        sizes = {(site.module, len(kept)) for site, kept in plan.items()}
        assert len(sizes) == 2 and ("attention", groups) in sizes
        assert plan.sparsity <= 0.3
    with pytest.raises(PlanError, match="out of reach"):
        nv.allocate(scores, sparsity=0.95, uniform=True, method="measured", sensitivity=curves)
    with pytest.raises(PlanError, match="protected"):
        nv.allocate(scores, sparsity=0.3, uniform=True, protected=(0,), method="measured", sensitivity=curves)


def test_curves_are_needed_and_must_fit() -> None:
    layout = made([4, 4], 10, KV_GROUP)
    scores, others = scored(layout), scored(layout, seed=1)
    curves = curves_of(others, {site: [0.1, 0.2, 0.3] for site in layout})
    with pytest.raises(PlanError, match="needs loss curves"):
        nv.allocate(scores, sparsity=0.2, method="measured")
    with pytest.raises(PlanError, match="other scores"):
        nv.allocate(scores, sparsity=0.2, method="measured", sensitivity=curves)
    some = Sensitivity({site: curves[site] for site in list(layout)[:1]}, {})
    with pytest.raises(PlanError, match=r"decoder\.1"):
        nv.allocate(scores, sparsity=0.2, method="measured", sensitivity=some)
    with pytest.raises(PlanError, match="out of reach"):
        nv.allocate(others, sparsity=0.9, method="measured", sensitivity=curves)
    with pytest.raises(PlanError, match="normalise"):
        nv.allocate(others, sparsity=0.2, method="measured", sensitivity=curves, normalisation=0.5)


@pytest.fixture
def recipe(tiny_folder: Path) -> Recipe:
    drawn = {"candidates": 1, "samples": 4, "length": 32, "probe_samples": 4, "probe_length": 16}
    recipe = Recipe().change("model", name=str(tiny_folder), device="cpu").change("saliency", criterion="magnitude")
    return recipe.change("calibration", **drawn).change("allocation", sparsity=0.3, method="measured")


def test_a_run_measures_keeps_and_uses_its_curves(recipe: Recipe) -> None:
    run = Store().create(recipe)
    compute_steps(run, until="prune")
    run = Store().open(run.id)
    curves, scores, plan = run.loss_curves(), run.saliency(), run.plan()
    assert curves is not None and scores is not None and plan is not None
    assert curves.levels == LEVELS and curves.protocol["compensation"]["method"] == "least_squares"
    assert curves.protocol["length"] == 512
    again = nv.allocate(scores, sparsity=0.3, method="measured", sensitivity=curves)
    assert again.to_json() == plan.to_json() and plan.method == "measured"
    assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))).method == "measured"
    assert any("as with a gamma of" in note for note in plan.notes)


def test_an_interrupted_run_continues_its_curves(recipe: Recipe) -> None:
    run, seen = Store().create(recipe), list[str]()

    def stop(progress: Progress) -> None:
        if "decoder.1" in progress.stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        compute_steps(run, until="allocation", progress=stop)
    compute_steps(run, until="allocation", progress=lambda each: seen.append(each.stage))
    assert any("decoder.1" in stage for stage in seen) and not any("decoder.0" in stage for stage in seen)
    curves = Store().open(run.id).loss_curves()
    assert curves is not None and len(curves) == len(curves.at(LEVELS[0])) == 6
    seen.clear()
    workspace = Workspace.of(Store().open(run.id), progress=lambda each: seen.append(each.stage))
    assert workspace.loss_curves().hash == curves.hash
    assert not any("Sensitivity" in stage for stage in seen), "they are cached"


def test_the_command_line_allocates_by_saved_curves(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Store().create(recipe)
    compute_steps(run, until="saliency")
    levels = [word for level in LEVELS for word in ("--level", str(level))]
    asked = ["sensitivity", run.id, *levels, "--curve-compensation", "least_squares", "--curve-samples", "4", "--json"]
    assert cli.main(asked) == 0
    (tmp_path / "curves.json").write_text(capsys.readouterr().out, encoding="utf-8")
    scores = run.saliency()
    assert scores is not None
    (tmp_path / "scores.npz").write_bytes(scores.to_bytes())
    files = ["--saliency", str(tmp_path / "scores.npz"), "--output", str(tmp_path / "plan.json")]
    measured = ["allocate", *files, "--allocation", "measured", "--sparsity", "0.3"]
    assert cli.main(measured) == 2 and "needs loss curves" in capsys.readouterr().err
    assert cli.main([*measured, "--curves", str(tmp_path / "scores.npz")]) == 2
    assert cli.main([*measured, "--curves", str(tmp_path / "curves.json")]) == 0
    plan = PruningPlan.from_json(json.loads((tmp_path / "plan.json").read_text(encoding="utf-8")))
    assert plan.method == "measured" and plan.sparsity == pytest.approx(0.3, abs=0.01)


def test_the_code_of_a_measured_run_does_the_same(tmp_path: Path) -> None:
    recipe = Recipe().change("model", name="tiny-llama", device="cpu").change("saliency", criterion="magnitude")
    recipe = recipe.change("calibration", candidates=1, samples=4, length=32)
    recipe = recipe.change("allocation", sparsity=0.3, method="measured")
    code = python_code(recipe, "allocation")
    assert "nv.sensitivity(" in code and "sensitivity=curves" in code
    compile(code, "code", "exec")


def test_a_sweep_sets_the_measured_allocation_beside_gamma() -> None:
    grid = grid_of(("taylor", "nirvana"), ("shared", "measured"), (0.2,), (0, 1), ("least_squares",), gammas=(1.0, 4.0))
    points = grid.points()
    assert len(points) == 2 * 2 * (2 + 1), "gammas belong to the shared allocation"
    measured = [point for point in points if point.method == "measured"]
    assert measured[0].label == "taylor, measured allocation, 20 %, least squares, seed 0"
    assert not any(point.as_published for point in measured)
    assert measured[0].recipe(Recipe()).allocation.method == "measured"
    columns, lines = comparison(make_rows(grid), PERPLEXITY)
    assert "measured allocation, least squares" in columns and len(columns) == 3 and len(lines) == 2
    assert Grid().methods == ("shared", "published"), "curves take minutes, so they are asked for"
