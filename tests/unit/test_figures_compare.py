"""Compare figures: ratios, errors and verdicts are checked against the measurements they come from."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from nirvana.evaluation.results import Measurement, Report
from nirvana.reporting.aligned import align, comparison_table, report_table
from nirvana.reporting.figures import compare, standings
from nirvana.reporting.figures.chart import Chart
from nirvana.reporting.standings import Standing, collapses, duels

TEXT = {"corpus": "python-docs", "corpus_hash": "ab" * 32, "split": "evaluation", "window": 512, "tokens": 16_352}
PLACE = {"device": "cpu", "dtype": "float32", "note": "4-bit origin"}


def measure(subject: str, value: float, error: float | None, metric: str = "perplexity", **where: Any) -> Measurement:
    return Measurement(metric, subject, value, error, 32, {**TEXT, **PLACE, **where})


def make_report(ratios: dict[str, float], *, error: float | None = 0.3) -> Report:
    found = []
    for corpus, ratio in ratios.items():
        for subject, value in (("dense", 15.0), ("pruned", 15.0 * ratio)):
            found.append(measure(subject, value, error, corpus=corpus))
            bits = math.log2(value) / 4 if math.isfinite(value) else math.inf
            found.append(measure(subject, bits, None, "bits per byte", corpus=corpus))
    found.append(Measurement("parameters", "dense", 1000))
    found.append(Measurement("parameters", "pruned", 800))
    return Report(tuple(found))


def make_standing(
    run_id: str, perplexity: float, *, criterion: str = "nirvana", sparsity: float = 0.2, **where: Any
) -> Standing:
    found = (measure("dense", 15.0, 0.3, **where), measure("pruned", perplexity, perplexity / 50, **where))
    return Standing(run_id, f"Run {run_id}", criterion, sparsity, "gamma 3.36", "cd" * 32, Report(found))


REPORTS = {
    "two": make_report({"python-docs": 1.4, "library-docs": 1.9}),
    "one": make_report({"python-docs": 1.4}),
    "without errors": make_report({"python-docs": 1.4, "library-docs": 1.9}, error=None),
    "collapsed": make_report({"python-docs": 2.0, "library-docs": 5e4}),
    "infinite": make_report({"python-docs": 2.0, "library-docs": math.inf}),
    "equal": make_report({"python-docs": 1.0, "library-docs": 1.0}),
    "better": make_report({"python-docs": 0.9}),
}


def every_chart(report: Report) -> list[Chart]:
    charts = [compare.perplexity_ratios(report), compare.bits_per_byte(report)]
    mine = make_standing("a", 20.0)
    others = [make_standing("b", 2e5, criterion="magnitude"), make_standing("c", math.inf, criterion="random")]
    charts.append(standings.perplexity_by_sparsity(mine, others, mine.perplexities()[0]))
    return [chart for chart in charts if chart is not None]


@pytest.mark.parametrize("name", REPORTS)
def test_every_chart_asks_answers_and_tabulates(name: str) -> None:
    charts = every_chart(REPORTS[name])
    assert len(charts) == 3
    for chart in charts:
        assert chart.title.endswith("?") and chart.takeaway.endswith("."), (chart.title, chart.takeaway)
        assert not re.search(r"\b(nan|inf|None)\b", chart.takeaway), chart.takeaway
        assert len(chart.table) > 0
        assert chart.title in chart.alt and chart.takeaway in chart.alt


@pytest.mark.parametrize("name", REPORTS)
def test_arrays_go_out_as_float32_or_int32(name: str) -> None:
    for chart in every_chart(REPORTS[name]):
        for trace in chart.figure.to_plotly_json()["data"]:
            for part in ("x", "y", "customdata"):
                values = trace.get(part)
                if isinstance(values, dict):
                    assert values["dtype"] in {"f4", "i4", "i2", "i1", "u1", "u2"}, (chart.title, part)
                else:
                    assert values is None, (chart.title, part)


def test_the_ratio_has_the_error_of_both() -> None:
    chart = compare.perplexity_ratios(REPORTS["two"])
    assert chart is not None
    np.testing.assert_allclose(chart.figure.data[0].x, [1.4, 1.9], rtol=1e-6)
    relative = math.sqrt((0.3 / 15) ** 2 + (0.3 / 21) ** 2)
    up = np.asarray(chart.figure.data[0].error_x.array)[0]
    down = np.asarray(chart.figure.data[0].error_x.arrayminus)[0]
    assert up == pytest.approx(1.4 * math.exp(2 * relative) - 1.4, rel=1e-4)
    assert down == pytest.approx(1.4 - 1.4 * math.exp(-2 * relative), rel=1e-4)
    assert (
        chart.takeaway
        == "From 1.400 ± 0.034 times the dense perplexity on python-docs to 1.900 ± 0.043 times on library-docs."
    )
    assert list(chart.table["pruned / dense"]) == pytest.approx([1.4, 1.9])


def test_without_a_standard_error_no_bar_is_drawn() -> None:
    chart = compare.perplexity_ratios(REPORTS["without errors"])
    assert chart is not None and "±" not in chart.takeaway
    assert not np.asarray(chart.figure.data[0].error_x.array).any()
    assert chart.table["pruned standard error"].isna().all()


def test_an_infinite_perplexity_is_named_and_stays_in_the_table() -> None:
    chart = compare.perplexity_ratios(REPORTS["infinite"])
    assert chart is not None
    assert "on library-docs the pruned model's is infinite" in chart.takeaway
    assert len(chart.figure.data[0].x) == 1
    assert math.isinf(chart.table.set_index("corpus")["pruned"]["library-docs"])
    assert compare.perplexity_ratios(make_report({"python-docs": math.inf})) is None


def test_a_collapse_is_drawn_on_a_log_axis() -> None:
    chart = compare.perplexity_ratios(REPORTS["collapsed"])
    assert chart is not None and chart.figure.layout.xaxis.type == "log" and "Log axis" in chart.reading
    near = compare.perplexity_ratios(REPORTS["two"])
    assert near is not None and near.figure.layout.xaxis.type != "log" and "Linear axis" in near.reading


@pytest.mark.parametrize("change", [{"corpus_hash": "ff" * 32}, {"window": 128}, {"tokens": 8192}, {"split": "probe"}])
def test_numbers_from_other_tokens_are_not_paired(change: dict[str, Any]) -> None:
    report = Report((measure("dense", 15.0, 0.3), measure("pruned", 20.0, 0.3, **change)))
    assert compare.perplexity_ratios(report) is None
    assert [list(line.of) for line in align(report, "perplexity")] == [["dense"], ["pruned"]]


def test_one_corpus_can_be_measured_in_two_windows() -> None:
    report = Report(
        tuple(
            measure(subject, value * factor, 0.3, window=window)
            for window, factor in ((512, 1.0), (128, 2.0))
            for subject, value in (("dense", 10.0), ("pruned", 15.0))
        )
    )
    lines = align(report, "perplexity")
    assert [[item.value for item in line.of.values()] for line in lines] == [[10, 15], [20, 30]]


def test_bits_per_byte_are_added_up() -> None:
    chart = compare.bits_per_byte(REPORTS["two"])
    assert chart is not None
    added = [math.log2(1.4) / 4, math.log2(1.9) / 4]
    assert (
        chart.takeaway
        == f"Pruning adds {added[1]:.3g} bits per byte on library-docs and {added[0]:.3g} on python-docs."
    )


def test_the_tables_carry_the_whole_protocol() -> None:
    report = REPORTS["two"]
    table = report_table(report)
    assert len(table) == len(report.measurements)
    first = table.iloc[0]
    assert first["corpus hash"] == TEXT["corpus_hash"] and first["note"] == "4-bit origin" and first["n"] == 32
    rows = comparison_table(report)
    assert list(rows["metric"]) == ["perplexity"] * 2 + ["bits per byte"] * 2 + ["parameters"]
    assert rows["measured"][0] == "python-docs abababab, 16,352 tokens in windows of 512, cpu float32, 4-bit origin"
    assert rows["pruned / dense"].iloc[-1] == pytest.approx(0.8)


def test_corpus_names_cannot_bring_markup_along() -> None:
    chart = compare.perplexity_ratios(make_report({"<a href='x'>y</a>": 1.5}))
    assert chart is not None and "<" not in chart.figure.layout.yaxis.ticktext[0]


def test_only_fair_duels_are_fought() -> None:
    mine = make_standing("a", 20.0)
    unfair = [
        make_standing("b", 10.0, sparsity=0.1),
        make_standing("c", 10.0, window=128),
        Standing("d", "other model", "random", 0.2, "gamma 1", "ee" * 32, make_standing("d", 10.0).report),
    ]
    fair = make_standing("e", 19.9, criterion="random", sparsity=0.205)
    found = duels(mine, [*unfair, fair])
    assert [duel.other.run_id for duel in found] == ["e"]
    assert found[0].side == 0  # 0.5 % lower, with standard errors of 2 %
    (clear,) = duels(mine, [make_standing("f", 15.0)])
    assert clear.side == 1


@pytest.mark.parametrize(("ours", "theirs", "side"), [(math.inf, 20, 1), (20, math.inf, -1), (math.inf, math.inf, 0)])
def test_a_duel_with_an_infinite_perplexity_is_decided(ours: float, theirs: float, side: int) -> None:
    (duel,) = duels(make_standing("a", ours), [make_standing("b", theirs)])
    assert duel.side == side


def test_runs_are_drawn_at_their_sparsity_and_the_best_is_named() -> None:
    mine = make_standing("a", 25.0)
    others = [make_standing("b", 21.0, criterion="random", sparsity=0.1), make_standing("c", 12.0, window=128)]
    chart = standings.perplexity_by_sparsity(mine, others, mine.perplexities()[0])
    assert chart is not None
    assert (
        chart.takeaway == "This run reaches 25.00 ± 0.50 at 20.0%; the lowest of 2 is 21.00 ± 0.42, by random at 10.0%."
    )
    assert list(chart.table["run"]) == ["Run b", "Run a"] and list(chart.table["this run"]) == [False, True]
    assert standings.perplexity_by_sparsity(mine, [others[1]], mine.perplexities()[0]) is None


def test_only_what_pruning_broke_is_called_broken() -> None:
    assert collapses(make_report({"python-docs": 9.9, "library-docs": 0.9}), 49_152) == []
    (tenfold,) = collapses(make_report({"python-docs": 12.0, "library-docs": 2.0}), 49_152)
    assert "python-docs" in tenfold and "12 times the dense one's" in tenfold
    (blind,) = collapses(make_report({"python-docs": 21.0}), 300)
    assert "more than the 300 of guessing blindly" in blind
    (infinite,) = collapses(make_report({"python-docs": math.inf}), None)
    assert "perplexity is infinite: it no longer" in infinite
    assert collapses(make_report({"python-docs": 1.1}), 12) == []  # the dense model guesses blindly itself
