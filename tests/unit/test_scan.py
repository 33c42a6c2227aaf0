"""The sensitivity scan as part of a run: kept with the scores, drawn, and compared with the plan."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import nirvana as nv
from nirvana import cli
from nirvana.errors import RunError
from nirvana.jobs.execute import check_task, execute
from nirvana.layout import Site
from nirvana.loss_curves import Sensitivity, Shift
from nirvana.reporting.figures.sensitivity import agreement, most_sensitive, scan_heatmap
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from tests.reporter import Reporter


@pytest.fixture
def run(tiny_folder: Path) -> Run:
    recipe = Recipe().change("model", name=str(tiny_folder), device="cpu").change("saliency", criterion="magnitude")
    drawn = {"candidates": 1, "samples": 4, "length": 32, "probe_samples": 4, "probe_length": 16}
    recipe = recipe.change("calibration", **drawn).change("allocation", sparsity=0.3)
    return Store().create(recipe)


def test_a_scan_is_kept_with_the_scores(run: Run) -> None:
    with pytest.raises(RunError, match="no scores"):
        check_task(run, "sensitivity", {"levels": [0.3]})
    compute_steps(run, until="allocation")
    models = ModelCache()
    found = Sensitivity.from_json(execute(run, "sensitivity", {"levels": [0.4]}, Reporter(), models))
    lm, scores = models.dense(run.recipe.model), run.saliency()
    assert scores is not None
    probe = nv.sample_probe(lm, nv.load_corpus("python-docs"), samples=4, length=16, seed=42)
    direct = nv.sensitivity(lm, scores, probe, levels=(0.4,))
    assert dict(found) == dict(direct)
    kept = Store().open(run.id).sensitivity()
    assert kept is not None and dict(kept) == dict(found)
    child = Store().create(run.recipe.change("allocation", sparsity=0.2), parent=run)
    assert child.sensitivity() is not None, "the scores are the same"
    other = Store().create(run.recipe.change("saliency", criterion="random"), parent=run)
    assert other.sensitivity() is None


@pytest.mark.parametrize("rate", [0, 1, "a", True])
def test_a_rate_that_makes_no_sense(run: Run, rate: object) -> None:
    compute_steps(run, until="saliency")
    with pytest.raises(RunError, match="between 0 and 1"):
        check_task(run, "sensitivity", {"levels": [rate]})


def test_the_heatmap_and_what_it_says(run: Run) -> None:
    compute_steps(run, until="allocation")
    plan, scores = run.plan(), run.saliency()
    assert plan is not None and scores is not None
    rates = {site: 1 - len(kept) / plan.layout[site].units for site, kept in plan.items()}
    against = Sensitivity(
        {site: (Shift(1.0 - rate, 0.01, 1, scores.layout[site].units),) for site, rate in rates.items()},
        {"levels": [0.01], "criterion": "magnitude"},
    )
    assert agreement(against.at(0.01), plan) == pytest.approx(-1)
    chart = scan_heatmap(against, 0.01, scores.layout, plan)
    assert "removes less from sensitive modules" in chart.takeaway
    assert chart.figure.data[0].z.shape == (2, len({site.layer for site in scores.layout}))
    assert chart.table["KL"].is_monotonic_decreasing
    worst = Site("decoder", 1, "mlp")
    one = Sensitivity({**against.curves, worst: (Shift(9.0, 0.1, 1, 2),)}, against.protocol)
    assert most_sensitive(one.at(0.01))[0] == 1
    assert scan_heatmap(one, 0.01, scores.layout, None).takeaway.startswith("Layer 1, ")
    assert math.isnan(agreement({worst: Shift(1, 0, 1, 2)}, plan))


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    compute_steps(run, until="allocation")
    assert cli.main(["sensitivity", run.id, "--level", "0.5", "--json"]) == 0
    found = Sensitivity.from_json(json.loads(capsys.readouterr().out))
    assert found.levels == (0.5,) and len(found) == len(run.saliency() or ())
    assert cli.main(["sensitivity", run.id]) == 0
    assert "The most sensitive modules" in capsys.readouterr().out


def test_scores_of_earlier_choices_are_not_scanned(run: Run) -> None:
    compute_steps(run, until="saliency")
    changed = Store().set_recipe(run.id, run.recipe.change("calibration", probe_samples=6))
    with pytest.raises(RunError, match="earlier choices"):
        check_task(changed, "sensitivity", {})
