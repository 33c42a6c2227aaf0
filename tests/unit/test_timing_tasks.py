"""Speed and quality against bytes of a run's models: what is kept, what is measured once, and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import nirvana
from nirvana.errors import RunError
from nirvana.evaluation import perplexity as perplexity_module
from nirvana.evaluation.quantisation import quantise
from nirvana.evaluation.speed_report import SpeedReport
from nirvana.jobs.execute import check_task, execute
from nirvana.reporting import code
from nirvana.runs import measurements
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.reporter import Reporter

VARIANTS = ["dense", "pruned", "dense int8", "pruned int8", "dense int4", "pruned int4"]


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    return small_recipe.change("evaluation", max_tokens=512)


@pytest.fixture
def models() -> ModelCache:
    return ModelCache()


@pytest.fixture
def run(recipe: Recipe, models: ModelCache) -> Run:
    run = Store().create(recipe)
    compute_steps(run, until="prune", models=models)
    return run


def test_speed_is_kept_with_the_run(run: Run, models: ModelCache) -> None:
    reporter, asked = Reporter(), {"prompt": 8, "new_tokens": 3, "repeats": 2, "schemes": ["int8"]}
    result = execute(run, "speed", asked, reporter, models)
    found = run.speed()
    assert found is not None and SpeedReport.from_json(result) == found
    assert list(found.models) == ["dense", "pruned", "dense int8", "pruned int8"]
    assert (found.batch, found.prompt, found.new_tokens, found.repeats) == (1, 8, 3, 2)
    assert all(len(speed.decode.values) == 2 for speed in found.models.values())
    assert found.models["dense int8"].file_bytes < found.models["dense"].file_bytes
    assert reporter.seen[-1].fraction == 1
    assert len(models.resident()) == 2


def test_quality_against_bytes_is_kept_with_the_run(
    run: Run, recipe: Recipe, models: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    original = perplexity_module.perplexity

    def counted(lm: Any, *arguments: Any, **named: Any) -> Any:
        calls[lm.hash] += 1
        return original(lm, *arguments, **named)

    monkeypatch.setattr(measurements, "perplexity", counted)
    reporter = Reporter()
    execute(run, "sizes", {}, reporter, models)
    found = run.sizes()
    assert found is not None
    perplexities = {item.subject: item for item in found.measurements if item.metric == "perplexity"}
    assert list(perplexities) == VARIANTS and len(calls) == 6
    assert len({item.value for item in perplexities.values()}) == 6
    assert {item.protocol["tokens"] for item in perplexities.values()} == {perplexities["dense"].protocol["tokens"]}
    dense = models.dense(recipe.model)
    stored = {item.subject: item.value for item in found.measurements if item.metric == "bytes"}
    assert stored["dense"] == dense.weight_bytes and stored["dense int4"] == quantise(dense, "int4").weight_bytes
    assert stored["pruned int8"] < stored["pruned"]
    assert "int4" in perplexities["pruned int4"].protocol["note"] and not perplexities["pruned"].protocol["note"]
    done = [progress.fraction for progress in reporter.seen]
    assert done[-1] == 1 and sorted(done) == done
    execute(run, "sizes", {}, reporter, models)
    assert set(calls.values()) == {1}, "each variant is measured once"


def test_it_needs_a_text(run: Run, recipe: Recipe) -> None:
    changed = Store().set_recipe(run.id, recipe.change("evaluation", corpora=()))
    with pytest.raises(RunError, match="no text"):
        check_task(changed, "sizes", {})


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch": 0},
        {"prompt": True},
        {"repeats": 51},
        {"new_tokens": 1},
        {"prompt": 506, "new_tokens": 16},
        {"schemes": ["int2"]},
        {"schemes": "int8"},
    ],
)
def test_arguments_are_checked_before_the_job(run: Run, arguments: dict[str, Any]) -> None:
    with pytest.raises(RunError) as caught:
        check_task(run, "speed", arguments)
    assert caught.value.hint


def test_schemes_of_sizes_are_checked_too(run: Run) -> None:
    with pytest.raises(RunError, match="int8, int4"):
        check_task(run, "sizes", {"schemes": ["fp4"]})
    assert check_task(run, "sizes", {}).to_json() == {"schemes": ("int8", "int4")}


def test_the_code_that_pages_show_runs(
    run: Run, recipe: Recipe, models: ModelCache, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = {"batch": 1, "prompt": 8, "new_tokens": 3, "repeats": 2}
    script = code.speed_code(recipe, protocol, ["int8"])
    dense, plan = models.dense(recipe.model), run.plan()
    assert plan is not None
    exec(script, {"nv": nirvana, "lm": dense, "small": models.pruned(dense, plan)})
    said = capsys.readouterr().out
    assert "Spread(median=" in said and "pruned int8" in said and "Perplexity(value=" in said
