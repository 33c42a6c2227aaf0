"""Any set of runs side by side: aligned, and a winner only where the interval says so."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirvana import cli
from nirvana.allocation.allocate import allocate
from nirvana.evaluation.intervals import from_errors, paired_mean
from nirvana.evaluation.results import Measurement, Report, pack_parts
from nirvana.evaluation.zero_shot.results import pack_outcomes
from nirvana.layout import Layout
from nirvana.models.families.llama import LlamaFamily
from nirvana.reporting.figures import comparison as figures
from nirvana.runs.comparison import Comparison, compare_runs, difference, headings
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import ModelCard
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from nirvana.saliency.scores import Saliency

SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
    "tie_word_embeddings": True,
}
PROTOCOL = {"corpus": "docs", "corpus_hash": "c", "window": 512, "tokens": 2044, "dtype": "float32", "device": "cpu"}
LOSSES = np.array([3.0, 3.4, 2.9, 3.3])


@pytest.fixture(scope="module")
def layout() -> Layout:
    return LlamaFamily().layout(SMALL)


def perplexity(losses: np.ndarray, subject: str = "pruned", **protocol: Any) -> Measurement:
    losses = np.asarray(losses, float)
    value = math.exp(losses.mean())
    error = value * losses.std(ddof=1) / math.sqrt(len(losses))
    return Measurement("perplexity", subject, value, error, len(losses), PROTOCOL | protocol, parts=pack_parts(losses))


def made(layout: Layout, name: str, recipe: Recipe, measured: Sequence[Measurement], weights: str = "w") -> Run:
    run = Store().create(recipe, name=name)
    card = ModelCard(
        name="small",
        origin="here",
        note="",
        family="llama",
        layout=layout,
        geometry=LlamaFamily().geometry(SMALL),
        hash=weights,
        weight_bytes=4 * layout.parameters,
        has_chat_template=False,
        seconds=1.0,
        device="cpu",
        dtype="float32",
    )
    scores = {site: np.arange(place.units, dtype=np.float32) for site, place in layout.items()}
    run.put("model", card)
    run.put("allocation", allocate(Saliency(scores, layout, "magnitude"), sparsity=recipe.allocation.sparsity))
    if measured:
        run.put("evaluate", Report((perplexity(LOSSES - 1, "dense"), *measured)))
    return Store().open(run.id)


def two(layout: Layout, shifts: Sequence[float], criteria: Sequence[str] = ("nirvana", "flap")) -> Comparison:
    runs = [
        made(layout, f"run {i}", Recipe().change("saliency", criterion=name), [perplexity(LOSSES + shift)])
        for i, (name, shift) in enumerate(zip(criteria, shifts, strict=True))
    ]
    return compare_runs(runs)


def test_windows_are_paired(layout: Layout) -> None:
    """The losses spread over 0.5 between windows, yet a shift of 0.01 in all of them is clear; by hand: no spread."""
    found = two(layout, (0.01, 0.0))
    line = found.lines[-1]
    assert line.winner == 1 and line.reason == "Paired 95 % intervals."
    assert line.cells[1] is not None and line.cells[1].ratio == pytest.approx(math.e)
    assert line.dense[0] is not None and line.dense[0].value == pytest.approx(math.exp(LOSSES.mean() - 1))
    assert [column.heading for column in found.columns] == ["nirvana", "flap"]
    assert found.findings and "flap does better than nirvana" in found.findings[0]
    assert not two(layout, (0.0, 0.01)).findings


def test_an_interval_that_includes_zero_names_nobody(layout: Layout) -> None:
    """By hand: differences 0.3, -0.2, 0.2, -0.1 have mean 0.05, sd 0.238, and t = 3.182 gives 0.05 +- 0.379."""
    other = perplexity(LOSSES + np.array([0.3, -0.2, 0.2, -0.1]))
    interval = difference(other, perplexity(LOSSES))
    assert interval is not None and interval.paired and not interval.clear
    assert interval.value == pytest.approx(0.05, abs=1e-6) and interval.high == pytest.approx(0.4288, abs=1e-3)
    runs = [
        made(layout, "a", Recipe(), [perplexity(LOSSES)]),
        made(layout, "b", Recipe().change("saliency", criterion="flap"), [other]),
    ]
    line = compare_runs(runs).lines[-1]
    assert line.winner is None and "includes zero" in line.reason


def test_without_windows_the_standard_errors_decide(layout: Layout) -> None:
    one, other = (replace(perplexity(LOSSES + shift), parts="") for shift in (0.0, 0.01))
    close = difference(one, other)
    assert close is not None and not close.paired and not close.clear
    far = difference(one, replace(perplexity(LOSSES + 3), parts=""))
    assert far is not None and far.high < 0
    assert from_errors(5.0, 0.3, 4.0, 0.4).low == pytest.approx(1 - 1.959964 * 0.5)
    assert paired_mean(np.array([1.0, 2.0]), np.array([0.0, 1.0])).clear


def test_accuracies_are_paired_by_item(layout: Layout) -> None:
    right = np.zeros(100, bool)
    right[:60] = True
    worse = right.copy()
    worse[:30] = False

    def accuracy(values: np.ndarray) -> Measurement:
        protocol = {"task": "piqa", "items": "i", "harness": "lm-eval 1"}
        error = values.std(ddof=1) / 10
        return Measurement("accuracy", "pruned", values.mean(), error, 100, protocol, pack_outcomes(values))

    runs = [
        made(layout, "a", Recipe(), [accuracy(worse)]),
        made(layout, "b", Recipe().change("saliency", criterion="flap"), [accuracy(right)]),
    ]
    line = next(line for line in compare_runs(runs).lines if line.metric == "accuracy")
    assert line.winner == 1 and not line.lower_is_better and line.text == "piqa"


def test_what_was_measured_differently_is_said_and_not_compared(layout: Layout) -> None:
    runs = [
        made(layout, "a", Recipe(), [perplexity(LOSSES)]),
        made(layout, "b", Recipe().change("saliency", criterion="flap"), [perplexity(LOSSES + 2, window=256)]),
    ]
    line = compare_runs(runs).lines[-1]
    assert line.winner is None and line.reason == "Measured differently (window), so not compared."
    others = [runs[0], made(layout, "c", Recipe().change("model", name="x"), [perplexity(LOSSES + 2)], weights="v")]
    found = compare_runs(others)
    assert len(found.models) == 2 and found.lines[-1].reason.startswith("Of different models")
    assert len(found.lines[-1].dense) == 2


def test_stale_and_missing_runs_win_nothing(layout: Layout) -> None:
    good = made(layout, "a", Recipe(), [perplexity(LOSSES + 1)])
    stale = made(layout, "b", Recipe().change("saliency", criterion="flap"), [perplexity(LOSSES)])
    Store().set_recipe(stale.id, stale.recipe.change("allocation", sparsity=0.3))
    missing = made(layout, "c", Recipe().change("saliency", criterion="random"), [])
    found = compare_runs([good, Store().open(stale.id), missing, good])
    assert [column.state for column in found.columns] == ["measured", "stale", "not measured"]
    line = found.lines[-1]
    assert line.winner is None and line.cells[2] is None


def test_headings_say_what_differs() -> None:
    base = Recipe()
    recipes = [
        base,
        base.change("saliency", criterion="flap"),
        base.change("saliency", criterion="flap").change("allocation", sparsity=0.4),
        base.change("saliency", criterion="flap"),
    ]
    assert headings(recipes, list("abcd")) == ["nirvana, 20 %", "flap, 20 %", "flap, 40 %", "flap, 20 % (2)"]
    assert headings([base], ["Mine"]) == ["Mine"]
    assert headings([base] * 4, ["a", "a (2)", "a", "dense"]) == ["a", "a (2)", "a (3)", "dense (2)"]
    published = base.change("allocation", method="published")
    assert headings([base, published], ["a", "b"]) == ["same allocation", "as published"]
    squeezed = base.change("prune", compensation="least_squares")
    assert headings([base, squeezed], ["a", "b"]) == ["no compensation", "least squares"]


def test_tables_and_chart(layout: Layout) -> None:
    found = two(layout, (0.01, 0.0))
    table = figures.shown_table(found)
    assert list(table.columns) == ["measured", "dense", "nirvana", "flap", "winner", "protocol"]
    assert table["flap"][1].startswith("★ 23.3 ± 2.8") and "(+172%)" in table["flap"][1]
    assert figures.directions(found)["flap"][1] == "worse" and table["flap"][0].endswith("%")
    numbers = figures.number_table(found)
    assert numbers["run"].tolist() == ["nirvana", "flap", "dense", "nirvana", "flap"]
    assert numbers["winner"].tolist() == [False] * 4 + [True]
    chart = figures.line_chart(found, found.lines[-1])
    assert list(chart.figure.data[0].y) == ["nirvana", "flap"] and chart.figure.data[1].y[0] == "flap"
    assert "**flap**" in chart.takeaway
    recipes = {"one": Recipe(), "two": Recipe().change("allocation", protected=(0, 1))}
    assert figures.recipe_table(recipes).to_dict("records") == [
        {"choice": "allocation: protected", "one": "none", "two": "0, 1"}
    ]
    assert found.to_json()["lines"][-1]["winner"] == 1


def test_the_command(layout: Layout, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runs = [
        made(layout, name, Recipe().change("saliency", criterion=name), [perplexity(LOSSES + shift)])
        for name, shift in (("nirvana", 0.1), ("flap", 0.0))
    ]
    csv = tmp_path / "runs.csv"
    ids = [run.id for run in runs]
    assert cli.main(["compare", *ids, "--csv", str(csv)]) == 0
    shown = capsys.readouterr().out
    assert "flap does better than nirvana" in shown and "★" in shown
    assert len(csv.read_text().splitlines()) == 6
    assert cli.main(["compare", *ids, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"][-1]["winner"] == 1


def test_a_model_that_broke_down_loses(layout: Layout) -> None:
    broken = Measurement("perplexity", "pruned", math.inf, None, 4, PROTOCOL)
    runs = [
        made(layout, "a", Recipe(), [perplexity(LOSSES)]),
        made(layout, "b", Recipe().change("saliency", criterion="random"), [broken]),
    ]
    line = compare_runs(runs).lines[-1]
    assert line.winner == 0
    unknown = replace(perplexity(LOSSES + 1), parts="", standard_error=None)
    runs[1] = made(layout, "c", Recipe().change("saliency", criterion="flap"), [unknown])
    assert compare_runs(runs).lines[-1].reason.startswith("No error is known")


def test_a_run_that_does_not_compare_hides_no_finding(layout: Layout) -> None:
    flap, random = (Recipe().change("saliency", criterion=name) for name in ("flap", "random"))
    runs = [
        made(layout, "a", Recipe(), [perplexity(LOSSES + 0.1)]),
        made(layout, "b", flap, [perplexity(LOSSES)]),
        made(layout, "c", random, [perplexity(LOSSES, window=256)]),
        made(layout, "d", random, [perplexity(LOSSES - 1)], weights="v"),
    ]
    (finding,) = compare_runs(runs).findings
    assert "flap does better than nirvana" in finding
    Store().set_recipe(runs[1].id, flap.change("allocation", sparsity=0.3))
    found = compare_runs([runs[0], Store().open(runs[1].id)])
    assert found.columns[1].heading.endswith(", stale") and not found.findings
