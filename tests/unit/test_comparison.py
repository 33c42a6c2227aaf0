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
from nirvana.evaluation.results import Measurement, Report, pack_parts
from nirvana.evaluation.zero_shot.results import pack_outcomes
from nirvana.layout import Layout
from nirvana.models.families.llama import LlamaFamily
from nirvana.reporting.comparison import Comparison, compare_runs, headings
from nirvana.reporting.figures import comparison as figures
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


def made(
    layout: Layout,
    name: str,
    recipe: Recipe,
    measured: Sequence[Measurement],
    weights: str = "w",
    dense: Measurement | None = None,
) -> Run:
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
        run.put("evaluate", Report((dense or perplexity(LOSSES - 1, "dense"), *measured)))
    return Store().open(run.id)


def two(layout: Layout, shifts: Sequence[float], criteria: Sequence[str] = ("nirvana", "flap")) -> Comparison:
    runs = [
        made(layout, f"run {i}", Recipe().change("saliency", criterion=name), [perplexity(LOSSES + shift)])
        for i, (name, shift) in enumerate(zip(criteria, shifts, strict=True))
    ]
    return compare_runs(runs)


def test_windows_are_paired(layout: Layout) -> None:
    """The losses spread over 0.5 between windows, yet a shift of 0.01 in all of them is clear."""
    found = two(layout, (0.01, 0.0))
    line = found.lines[-1]
    assert line.winner == 1 and line.reason == "Paired 95 % intervals."
    cell = line.cells[1]
    assert cell is not None and cell.alike and cell.ratio == pytest.approx(math.e)
    assert cell.dense == pytest.approx(math.exp(LOSSES.mean() - 1))
    assert [column.heading for column in found.columns] == ["run 0 (nirvana)", "run 1 (flap)"]
    assert found.findings and "run 1 (flap) is better than run 0 (nirvana)" in found.findings[0]
    assert not two(layout, (0.0, 0.01)).findings


def test_an_interval_that_includes_zero_names_nobody(layout: Layout) -> None:
    other = perplexity(LOSSES + np.array([0.3, -0.2, 0.2, -0.1]))
    runs = [
        made(layout, "a", Recipe(), [perplexity(LOSSES)]),
        made(layout, "b", Recipe().change("saliency", criterion="flap"), [other]),
    ]
    line = compare_runs(runs).lines[-1]
    assert line.winner is None and line.reason == "No clear winner: no significant difference."


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


def test_a_run_measured_differently_keeps_its_own_dense_value_and_wins_nothing(layout: Layout) -> None:
    """On twice the tokens both models are better: that says nothing of the pruning."""
    longer: dict[str, Any] = {"tokens": 4088}
    runs = [
        made(layout, "short", Recipe(), [perplexity(LOSSES)]),
        made(
            layout,
            "long",
            Recipe().change("evaluation", max_tokens=32_768),
            [perplexity(LOSSES - 2, **longer)],
            dense=perplexity(LOSSES - 2.01, "dense", **longer),
        ),
        made(layout, "third", Recipe(), [perplexity(LOSSES + 0.1)]),
    ]
    found = compare_runs(runs)
    line = found.lines[-1]
    cell = line.cells[1]
    assert cell is not None and not cell.alike and cell.ratio == pytest.approx(math.exp(0.01))
    assert found.columns[1].differs == ("tokens 4,088 instead of 2,044",)
    assert [column.differs for column in found.columns[::2]] == [(), ()]
    assert line.winner == 0 and line.reason == "Paired 95 % intervals. Runs measured differently are excluded."
    table = figures.shown_table(found)
    head = found.columns[1].heading
    assert head == "long (on 32,768 tokens)"
    assert table[head].iloc[-1].startswith("≠ 3.1") and "(+1.01 %)" in table[head].iloc[-1]
    assert figures.directions(found)[head].iloc[-1] == "otherwise"
    chart = figures.line_chart(found, line)
    assert len(chart.table) == 3 and list(chart.figure.data[1].y) == [0, 1] and "long" not in str(chart.figure)
    numbers = figures.number_table(found).query("run == @runs[1].id and metric == 'perplexity'").iloc[0]
    assert not numbers["measured alike"] and numbers["dense"] == pytest.approx(math.exp(LOSSES.mean() - 2.01))
    told = found.to_json()["lines"][-1]["cells"][1]
    assert told["dense"] == cell.dense and told["ratio"] == cell.ratio and told["protocol"].startswith("4,088 tokens")


def test_two_runs_measured_differently_have_no_winner(layout: Layout) -> None:
    runs = [
        made(layout, "a", Recipe(), [perplexity(LOSSES)]),
        made(layout, "b", Recipe(), [perplexity(LOSSES + 2, window=256, corpus_hash="d")]),
    ]
    found = compare_runs(runs)
    line = found.lines[-1]
    assert line.winner is None and line.reason == "Measured differently, so not compared."
    assert found.columns[1].differs == ("another corpus hash", "window 256 instead of 512")
    others = [runs[0], made(layout, "c", Recipe().change("model", name="x"), [perplexity(LOSSES + 2)], weights="v")]
    found = compare_runs(others)
    assert found.columns[1].differs == ("another dense model",) and found.lines[-1].winner is None
    assert found.lines[-1].cells[1] is not None and not found.lines[-1].cells[1].alike


def test_the_first_run_with_current_numbers_is_the_measure(layout: Layout) -> None:
    empty = made(layout, "empty", Recipe(), [])
    stale = made(layout, "stale", Recipe(), [perplexity(LOSSES, window=256)])
    Store().set_recipe(stale.id, stale.recipe.change("allocation", sparsity=0.3))
    good = [made(layout, name, Recipe(), [perplexity(LOSSES + shift)]) for name, shift in (("a", 0.0), ("b", 0.1))]
    found = compare_runs([empty, Store().open(stale.id), *good])
    assert [bool(column.differs) for column in found.columns] == [False, True, False, False]
    assert found.lines[-1].winner == 2


def test_stale_and_missing_runs_win_nothing(layout: Layout) -> None:
    good = made(layout, "a", Recipe(), [perplexity(LOSSES + 1)])
    stale = made(layout, "b", Recipe().change("saliency", criterion="flap"), [perplexity(LOSSES)])
    Store().set_recipe(stale.id, stale.recipe.change("allocation", sparsity=0.3))
    missing = made(layout, "c", Recipe().change("saliency", criterion="random"), [])
    found = compare_runs([good, Store().open(stale.id), missing, good])
    assert [column.state for column in found.columns] == ["measured", "stale", "not measured"]
    line = found.lines[-1]
    assert line.winner is None and line.cells[2] is None


def test_headings_are_names_with_the_settings_that_differ() -> None:
    base = Recipe()

    def heads(*named: tuple[str, Recipe]) -> list[str]:
        return headings([Store().create(recipe, name=name) for name, recipe in named])

    flap = base.change("saliency", criterion="flap")
    assert heads(("a", base), ("b", flap), ("Flap, 40 %", flap.change("allocation", sparsity=0.4)), ("b", flap)) == [
        "a (nirvana, 20 %)",
        "b (flap, 20 %)",
        "Flap, 40 %",
        "b (flap, 20 %) (2)",
    ]
    assert heads(("Mine", base)) == ["Mine"]
    assert heads(*[(name, base) for name in ("a", "a (2)", "a", "measured")]) == ["a", "a (2)", "a (3)", "measured (2)"]
    published = base.change("allocation", method="published")
    assert heads(("a", base), ("b", published)) == ["a (same allocation)", "b (as published)"]
    squeezed = base.change("prune", compensation="least_squares")
    assert heads(("a", base), ("b", squeezed)) == ["a (no compensation)", "b (least squares)"]
    longer = base.change("evaluation", max_tokens=32_768)
    assert heads(("a", base), ("b", longer)) == ["a (on 16,384 tokens)", "b (on 32,768 tokens)"]


def test_tables_and_chart(layout: Layout) -> None:
    found = two(layout, (0.01, 0.0))
    table = figures.shown_table(found)
    first, second = (column.heading for column in found.columns)
    assert list(table.columns) == ["measured", first, second, "winner"]
    assert table[second][1] == "★ 8.6 → 23.3 ± 2.8 (+172 %)"
    assert figures.directions(found)[second][1] == "worse" and table[second][0].endswith("%")
    numbers = figures.number_table(found)
    assert numbers["name"].tolist() == [first, second] * 2
    assert numbers["winner"].tolist() == [False] * 3 + [True]
    chart = figures.line_chart(found, found.lines[-1])
    assert [trace.name for trace in chart.figure.data] == ["dense", "pruned", "winner"]
    assert list(chart.figure.data[1].y) == [0, 1] and list(chart.figure.data[2].y) == [1]
    assert chart.figure.data[0].x[0] == pytest.approx(math.exp(LOSSES.mean() - 1))
    assert chart.takeaway.startswith("**run 1 \\(flap\\)**")
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
    assert "flap is better than nirvana" in shown and "★" in shown and "measured differently" not in shown
    assert len(csv.read_text().splitlines()) == 5
    assert cli.main(["compare", *ids, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"][-1]["winner"] == 1
    runs.append(made(layout, "random", Recipe(), [perplexity(LOSSES, window=256)]))
    assert cli.main(["compare", ids[0], runs[2].id]) == 0
    assert "≠ random was measured differently: window 256 instead of 512." in capsys.readouterr().out


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
    assert compare_runs(runs).lines[-1].reason == "No clear winner: an error is unknown."


def test_a_run_that_does_not_compare_hides_no_finding(layout: Layout) -> None:
    flap, random = (Recipe().change("saliency", criterion=name) for name in ("flap", "random"))
    runs = [
        made(layout, "a", Recipe(), [perplexity(LOSSES + 0.1)]),
        made(layout, "b", flap, [perplexity(LOSSES)]),
        made(layout, "c", random, [perplexity(LOSSES, window=256)]),
        made(layout, "d", random, [perplexity(LOSSES - 1)], weights="v"),
    ]
    (finding,) = compare_runs(runs).findings
    assert "b (flap) is better than a (nirvana)" in finding
    Store().set_recipe(runs[1].id, flap.change("allocation", sparsity=0.3))
    found = compare_runs([runs[0], Store().open(runs[1].id)])
    assert found.columns[1].heading.endswith(", stale") and not found.findings
