"""Figures of sweeps: what is drawn, what is on the front, and what they make of odd numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nirvana.evaluation.results import Measurement, Report
from nirvana.reporting.figures import pareto
from nirvana.reporting.figures import sweep as figures
from nirvana.reporting.figures.chart import Chart
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row, Value
from tests.sweeps import DENSE, KL, PAIRS, PERPLEXITY, grid_of, make_row, make_rows

ROWS = {
    "default": make_rows(),
    "one point": make_rows(grid_of(("nirvana",), ("shared",), (0.2,), (0,))),
    "many ways": make_rows(Grid(gammas=(2.0, math.inf), compensations=("none", "bias"), speed=True)),
    "collapsed": make_rows(grid_of(("nirvana", "magnitude"))),
    "failures": [*make_rows()[2:], *(Row(point, failure="Out of reach.") for point in Grid().points()[:2])],
}


def every_chart(rows: list[Row]) -> list[Chart]:
    charts = [figures.by_sparsity(rows, metric) for metric in (PERPLEXITY, KL, PAIRS)]
    charts += [pareto.pareto(rows, PERPLEXITY, against) for against in ("parameters", "bytes")]
    return [chart for chart in charts if chart is not None]


@pytest.mark.parametrize("name", ROWS)
def test_every_chart_asks_answers_and_tabulates(name: str) -> None:
    charts = every_chart(ROWS[name])
    assert len(charts) == 5
    for chart in charts:
        assert chart.title.endswith("?") and chart.takeaway.endswith("."), (chart.title, chart.takeaway)
        assert not re.search(r"\b(nan|inf|None)\b", chart.takeaway), chart.takeaway
        assert len(chart.table) > 0 and chart.reading
        for trace in chart.figure.data:
            if trace.x is not None and trace.x[0] is not None:
                assert trace.x.dtype == trace.y.dtype == np.float32
            assert "run" not in str(trace.hovertemplate), "no raw ids"


def traces(chart: Chart | None, mode: str) -> list[Any]:
    assert chart is not None
    return [trace for trace in chart.figure.data if trace.mode == mode and trace.x[0] is not None]


def test_seeds_are_marks_and_means_lines_at_achieved_sparsity() -> None:
    rows = ROWS["default"]
    chart = figures.by_sparsity(rows, PERPLEXITY)
    lines, marks = traces(chart, "lines+markers"), traces(chart, "markers")
    assert len(lines) == 3 * 2 and sum(len(trace.x) for trace in marks) == 3 * 2 * 2 * 3
    assert all(list(trace.x) == pytest.approx([0.199, 0.399]) for trace in lines)
    taylor = next(trace for trace in lines if trace.hovertemplate.startswith("taylor, same allocation"))
    values = [row.values[PERPLEXITY].value for row in rows if row.point[1:4] == ("taylor", "shared", 0.2)]
    assert taylor.y[0] == pytest.approx(np.mean(values)) and taylor.error_y.array[0] == pytest.approx(
        np.std(values, ddof=1)
    )
    assert {row.run_id for row in rows} == {run for trace in marks for run in trace.customdata}
    assert chart is not None and [shape.y0 for shape in chart.figure.layout.shapes] == [DENSE]
    assert "26" in chart.takeaway and "Dense: 20" in chart.takeaway


def test_colours_are_criteria_and_dashes_allocations() -> None:
    chart = figures.by_sparsity(ROWS["many ways"], KL)
    lines = traces(chart, "lines+markers")
    colours = {trace.hovertemplate.split(",")[0]: trace.line.color for trace in lines}
    assert len(set(colours.values())) == 3 and len({trace.line.dash for trace in lines}) == 5
    assert chart is not None and chart.figure.layout.shapes == (), "KL has no dense model to draw"
    legend = [trace.name for trace in chart.figure.data if trace.showlegend is not False]
    assert legend[:3] == ["nirvana", "taylor", "random"] and legend[-1] == "as published" and len(legend) == 8


def test_accuracy_is_in_per_cent_and_perplexity_on_a_log_axis() -> None:
    accuracy, perplexity = (figures.by_sparsity(ROWS["collapsed"], metric) for metric in (PAIRS, PERPLEXITY))
    assert accuracy is not None and perplexity is not None
    assert accuracy.figure.layout.yaxis.type is None and accuracy.takeaway.startswith("Highest means: ")
    assert perplexity.figure.layout.yaxis.type == "log" and "Log axis" in perplexity.reading
    assert "%" in accuracy.takeaway and accuracy.title == "How does accuracy on minimal-pairs depend on sparsity?"


def test_infinite_values_are_not_drawn_but_tabled() -> None:
    def collapse(row: Row) -> Row:
        return replace(row, values={PERPLEXITY: Value(math.inf, None, DENSE, 0.3)})

    rows = [collapse(row) if row.point.criterion == "random" else row for row in ROWS["default"]]
    chart = figures.by_sparsity(rows, PERPLEXITY)
    assert len(traces(chart, "lines+markers")) == 4
    table = figures.comparison_table(rows, PERPLEXITY)
    assert set(table[table["criterion"] == "random"]["same allocation"]) == {"infinite"}
    assert figures.by_sparsity([collapse(row) for row in rows], PERPLEXITY) is None
    assert pareto.pareto([collapse(row) for row in rows], PERPLEXITY, "bytes") is None


def test_the_front_is_what_nothing_beats() -> None:
    rows = make_rows(Grid(seeds=(0, 1)))
    chart = pareto.pareto(rows, PERPLEXITY, "parameters")
    assert chart is not None
    front = set(chart.table[chart.table["on the front"]]["model"])
    assert front == {
        "dense",
        "taylor, same allocation, gamma 3.36, 20 %",
        "taylor, same allocation, gamma 3.36, 40 %",
    }
    drawn = {trace.hovertemplate.split("<br>")[0]: trace.opacity for trace in chart.figure.data if trace.opacity}
    assert {name for name, opacity in drawn.items() if opacity == 1} == front and len(drawn) == 11
    assert "2 of 10 pruned models are on the front" in chart.takeaway


def test_more_is_better_for_accuracy_and_speed() -> None:
    rows = [make_row(point, speed=True) for point in grid_of(("nirvana", "taylor"), ("shared",)).points()]
    chart = pareto.pareto(rows, PAIRS, "speed")
    assert chart is not None
    front = set(chart.table[chart.table["on the front"]]["model"])
    assert front == {"dense", *(f"taylor, same allocation, gamma 3.36, {share} %" for share in (20, 40))}
    assert list(chart.table["decoding speed over the dense model's"]) == pytest.approx(
        [1, 1.25, 1.25, 1 / 0.6, 1 / 0.6]
    )
    assert pareto.pareto(ROWS["default"], PAIRS, "speed") is None, "speed was not measured"


def sizes(whole: float = DENSE, **perplexities: float) -> Report:
    where = {"corpus": "/somewhere/novels", "window": 64, "tokens": 630, "dtype": "float32"}
    found = [Measurement("perplexity", "dense", whole, 0.1, 10, where), Measurement("bytes", "dense", 4000.0)]
    for scheme, value in perplexities.items():
        found.append(Measurement("perplexity", f"dense {scheme}".strip(), value, 0.1, 10, where))
        found.append(Measurement("bytes", f"dense {scheme}".strip(), {"int8": 1100.0, "int4": 600.0}[scheme]))
    return Report(tuple(found))


def test_quantised_copies_compete_for_bytes() -> None:
    chart = pareto.pareto(ROWS["default"], PERPLEXITY, "bytes", sizes(int8=20.5, int4=22.0))
    assert chart is not None and "dense int4" in set(chart.table["model"])
    assert chart.takeaway == "No pruned model is on the front: dense, dense int8, dense int4 beat all 10 of them."
    weak = pareto.pareto(ROWS["default"], PERPLEXITY, "bytes", sizes(int4=90.0))
    assert weak is not None and weak.takeaway.endswith("So is dense int4.")
    for metric, against in ((KL, "bytes"), (PERPLEXITY, "parameters")):
        other = pareto.pareto(ROWS["default"], metric, against, sizes(int8=20.5))
        assert other is not None and "dense int8" not in set(other.table["model"])
    fewer = pareto.pareto(ROWS["default"], PERPLEXITY, "bytes", sizes(whole=DENSE * 1.03, int8=20.5))
    assert fewer is not None and "dense int8" not in set(fewer.table["model"]), "measured on other tokens"


def test_the_table_has_dense_first_and_both_columns() -> None:
    table = figures.comparison_table(ROWS["default"], PERPLEXITY)
    assert list(table) == ["criterion", "sparsity", "as published", "same allocation"]
    assert list(table.iloc[0]) == ["dense", "0 %", "20.00 ± 0.30", "20.00 ± 0.30"] and len(table) == 7
    assert re.fullmatch(r"[\d.]+ ± [\d.]+", table.iloc[1]["same allocation"])
    odd = make_rows(make=lambda point: make_row(point, miss=0.03 if point.method == "published" else 0))
    shown = figures.comparison_table(odd, PAIRS)
    assert shown.iloc[2]["as published"].endswith(", at 17.0%") and shown.iloc[2]["same allocation"].endswith(" %")
    partial = figures.comparison_table(make_rows(grid_of(("taylor",), ("shared",))), KL)
    assert list(partial) == ["criterion", "sparsity", "same allocation"] and partial.iloc[0]["criterion"] == "taylor"
