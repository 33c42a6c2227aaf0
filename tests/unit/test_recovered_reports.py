"""Reports with a recovered model: three models side by side, what recovery changed, and equal terms between runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nirvana.checkpoints.card import checkpoint_card
from nirvana.commands.console import print_report
from nirvana.evaluation.results import Measurement, Report, pack_parts
from nirvana.evaluation.speed_report import ModelSpeed, SpeedReport, Spread
from nirvana.evaluation.zero_shot.results import comparisons, pack_outcomes
from nirvana.layout import Layout
from nirvana.reporting.aligned import comparison_table, side_by_side
from nirvana.reporting.comparison import compare_runs
from nirvana.reporting.figures import compare, standings, zero_shot
from nirvana.reporting.figures.comparison import shown_table
from nirvana.reporting.figures.runs import history_row
from nirvana.reporting.recovery import changes, verdict
from nirvana.reporting.standings import Standing, collapses, duels
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from tests.courses import course
from tests.unit.test_comparison import LOSSES, layout, made, perplexity

__all__ = ["layout"]  # a fixture
DENSE = LOSSES - 1
if TYPE_CHECKING:
    from nirvana.models.lm import LM
TRAINS = Recipe().change("recovery", method="distill", minutes=5.0)


def kl(subject: str, values: np.ndarray) -> Measurement:
    protocol = {"corpus": "docs", "samples": 4, "length": 8, "tokens": 32}
    return Measurement("KL divergence", subject, float(values.mean()), 0.01, 4, protocol, parts=pack_parts(values))


def accuracy(subject: str, right: int, task: str = "piqa") -> Measurement:
    values = np.arange(200) < right
    protocol = {"task": task, "items": "i", "harness": "lm-eval 1"}
    return Measurement("accuracy", subject, float(values.mean()), 0.03, 200, protocol, pack_outcomes(values))


def report(*, recovered: float = 0.2, right: int = 150) -> Report:
    """Losses 0.5 above the dense ones after pruning, and `recovered` above them after recovery."""
    kls = np.array([0.4, 0.5, 0.3, 0.4])
    found = []
    for subject, shift, size, hits in (
        ("dense", 0.0, 10, 180),
        ("pruned", 0.5, 8, 140),
        ("recovered", recovered, 8, right),
    ):
        found += [perplexity(DENSE + shift, subject), Measurement("parameters", subject, size)]
        found += [] if subject == "dense" else [kl(subject, kls * shift)]
        found.append(accuracy(subject, hits))
    return Report(tuple(found))


def test_each_measurement_is_one_row_with_a_column_for_each_model() -> None:
    found = side_by_side(report())
    assert list(found.columns) == ["measured", "dense", "pruned", "recovered"]
    rows = {row[0]: row[1:] for row in found.itertuples(index=False)}
    assert list(rows) == ["Perplexity, docs", "KL divergence, docs", "Accuracy, piqa", "Parameters"]
    dense = float(np.exp(DENSE.mean()))
    ratios = [f"{dense * math.exp(shift):.3g} ({math.exp(shift):.2f} x)" for shift in (0.5, 0.2)]
    assert rows["Perplexity, docs"] == (f"{dense:.3g}", *ratios)
    assert rows["KL divergence, docs"] == ("", "0.2 nats", "0.08 nats")
    assert rows["Accuracy, piqa"] == ("90.0 %", "70.0 %", "75.0 %")


def test_what_recovery_changed_is_told_in_one_sentence() -> None:
    found = verdict(report())
    assert found is not None and found.clear and found.worse == ()
    assert found.words == (
        "Recovery took perplexity from 1.65 to 1.22 x dense on docs, KL from 0.2 to 0.08 nats, accuracy on PIQA from "
        "70.0% to 75.0%."
    )
    assert [(change.metric, change.side) for change in changes(report())] == [
        ("perplexity", 1), ("KL divergence", 1), ("accuracy", 1),
    ]  # fmt: skip
    assert verdict(Report(tuple(item for item in report().measurements if item.subject != "recovered"))) is None


def test_what_recovery_made_worse_is_said() -> None:
    found = verdict(report(recovered=0.6, right=120))
    assert found is not None and not found.clear
    before, after = (math.exp(float((DENSE + shift).mean())) for shift in (0.5, 0.6))
    assert (
        found.worse[0].startswith(f"Perplexity on docs rose from {before:.1f}") and f"to {after:.1f}" in found.worse[0]
    )
    assert found.worse[1].startswith("KL to the dense model on docs rose from 0.200")
    assert found.worse[2] == "Accuracy on PIQA fell from 70.0% to 60.0%."
    unclear = Report(
        tuple(replace(item, parts="", outcomes="") for item in report(recovered=0.49, right=141).measurements)
    )
    same = verdict(unclear)
    assert same is not None and same.words.endswith("No change is significant.") and not same.clear


def test_three_models_stand_in_every_figure() -> None:
    ratios, bits = compare.perplexity_ratios(report()), compare.bits_per_byte(report())
    assert ratios is not None and bits is None
    pruned, recovered = ratios.figure.data
    assert (pruned.name, recovered.name) == ("pruned", "recovered")
    np.testing.assert_allclose([pruned.x[0], recovered.x[0]], np.exp([0.5, 0.2]), rtol=1e-5)
    assert pruned.y[0] == -recovered.y[0] and "and after recovery?" in ratios.title
    assert ratios.takeaway.startswith("Recovery takes perplexity, over the dense one, from 1.65")
    table = comparison_table(report(), ["perplexity"])
    assert table["recovered / dense"][0] == pytest.approx(math.exp(0.2))
    found = comparisons(report())
    answers, changed = zero_shot.accuracies(found, "task"), zero_shot.differences(found, "task")
    assert answers is not None and changed is not None
    assert [trace.name for trace in answers.figure.data] == ["guessing", "dense", "pruned", "recovered"]
    names = [trace.name for trace in changed.figure.data]
    assert names == ["pruned - dense", "recovered - dense", "recovered - pruned"]
    np.testing.assert_allclose([trace.x[0] for trace in changed.figure.data], [-0.2, -0.15, 0.05], rtol=1e-5)
    assert "The recovered model is clearly better than the pruned one on PIQA." in changed.takeaway
    row = history_row(report())
    assert row["perplexity"].count("→") == 2 and row["KL"] == pytest.approx(0.08)


def test_the_console_has_a_column_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report(), "")
    shown = capsys.readouterr().out
    accuracies, differences = (line for line in shown.splitlines() if "piqa" in line)
    assert "0.7500 ± 0.0300" in accuracies and "+0.0500 [+0.0166, +0.0824] *" in differences


def test_a_model_card_has_a_column_for_each_model(tiny_lm: LM) -> None:
    card = checkpoint_card(tiny_lm, measured=report())
    assert "| metric | dense | pruned | recovered | protocol |" in card
    (line,) = (line for line in card.splitlines() if line.startswith("| KL divergence |"))
    assert line.startswith("| KL divergence |  | 0.2 ± 0.01 (n = 4) | 0.08 ± 0.01 (n = 4) |")


def test_only_the_last_model_is_called_broken() -> None:
    broken = perplexity(DENSE + 5, "pruned")
    found = Report((perplexity(DENSE, "dense"), broken, perplexity(DENSE + 0.1, "recovered")))
    assert collapses(found, None) == []
    assert "the pruned model's" in collapses(Report(found.measurements[:2]), None)[0]


def standing(name: str, pruned: float, recovered: float | None, terms: str, **more: Any) -> Standing:
    items = [perplexity(DENSE, "dense"), perplexity(DENSE + pruned)]
    items += [perplexity(DENSE + recovered, "recovered")] if recovered is not None else []
    return Standing(name, name, "random", 0.2, "", "w", Report(tuple(items)), recovery=terms, terms=terms, **more)


def test_recovered_runs_are_compared_on_equal_terms() -> None:
    mine = standing("mine", 0.5, 0.1, "5 min")
    same, other, none = (
        standing("same", 0.4, 0.2, "5 min"),
        standing("b", 0.6, 0.0, "9 min"),
        standing("c", 0.6, None, ""),
    )
    found = {duel.other.name: duel for duel in duels(mine, [same, other, none])}
    assert [duel.side for duel in found.values()] == [-1, -1, -1], "recovered, then twice pruned"
    assert found["same"].ours.subject == "recovered" and found["same"].terms == ", both after 5 min"
    assert found["b"].ours.subject == found["c"].ours.subject == "pruned"
    assert found["b"].terms == ", both before recovery, which differs"
    assert duels(none, [standing("d", 0.6, None, "")])[0].terms == ""


def test_recovered_runs_are_stars_over_sparsity() -> None:
    mine, other = standing("mine", 0.5, 0.1, "5 min"), standing("b", 0.6, None, "")
    chart = standings.perplexity_by_sparsity(mine, [other], mine.perplexities()[0])
    assert chart is not None and "Stars: after recovery" in chart.reading
    stars = [trace for trace in chart.figure.data if trace.marker.symbol == "star" and trace.x[0] is not None]
    assert len(stars) == 1 and stars[0].y[0] == pytest.approx(math.exp(float(DENSE.mean()) + 0.1), rel=1e-5)
    assert "before recovery, which differs between the runs, the lowest of 2 runs." in chart.takeaway
    alike = standings.perplexity_by_sparsity(mine, [standing("b", 0.4, 0.2, "5 min")], mine.perplexities()[0])
    assert alike is not None and "at 20.0% after 5 min, the lowest of 2 runs." in alike.takeaway


def recovered_run(layout: Layout, name: str, recipe: Recipe, shift: float) -> Run:
    run = made(layout, name, recipe, [perplexity(LOSSES), perplexity(DENSE + shift, "recovered")])
    found = course()
    found.protocol["options"] = recipe.recovery.options.to_json()
    run.put("recover", found)
    return Store().open(run.id)


def test_a_comparison_of_runs_has_a_line_for_recovered_models(layout: Layout) -> None:
    runs = [
        recovered_run(layout, "a", TRAINS, 0.2),
        recovered_run(layout, "b", TRAINS.change("saliency", criterion="flap"), 0.1),
        recovered_run(layout, "c", TRAINS.change("recovery", minutes=9.0), 0.0),
        made(layout, "d", Recipe(), [perplexity(LOSSES)]),
    ]
    found = compare_runs(runs)
    pruned, recovered = found.lines[1:]
    assert (pruned.subject, recovered.subject) == ("pruned", "recovered")
    assert recovered.winner == 1 and "Runs measured differently are excluded." in recovered.reason
    assert [None if cell is None else cell.alike for cell in recovered.cells] == [True, True, False, None]
    assert found.columns[2].differs == ("another recovery",) and found.columns[3].differs == ()
    assert "perplexity after recovery" in found.findings[0]
    table = shown_table(found)
    assert list(table["measured"]) == ["Sparsity", "Perplexity, docs", "Perplexity, docs, recovered"]
    assert "9 min of distillation" in found.columns[2].heading and "no recovery" in found.columns[3].heading


def test_the_speed_stands_below_where_it_was_measured() -> None:
    def model(factor: float) -> ModelSpeed:
        spread = Spread.of([factor * value for value in (90.0, 100.0, 110.0)])
        return ModelSpeed(spread, spread, spread, 2_000, False, 1_000, 250, 900, 900, "float32")

    speed = SpeedReport({"dense": model(1.0), "pruned": model(1.25)}, 1, 64, 16, 3, "cpu (x86_64)", 2)
    table = side_by_side(report(), speed).set_index("measured")
    row = table.loc["Speed, writing"]
    assert row.to_dict() == {"dense": "100 tokens/s", "pruned": "125 tokens/s (1.25 x)", "recovered": "as pruned"}
    assert "Speed, writing" not in set(side_by_side(report())["measured"])
