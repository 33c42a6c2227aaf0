"""Figures draw what the scores and the plan say; every number in a takeaway or table is checked against them."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import pytest

from nirvana.allocation.allocate import allocate, reachable_sparsity
from nirvana.layout import KV_GROUP, NEURON, Layout, Site, SiteLayout
from nirvana.reporting.figures import allocation, distributions, names, prune, saliency, shares
from nirvana.reporting.figures.chart import Chart, log_ticks
from nirvana.reporting.figures.gamma import rates_by_gamma
from nirvana.saliency.scores import Saliency


def make_saliency(
    *,
    layers: int = 4,
    groups: int = 3,
    neurons: int = 96,
    stacks: tuple[str, ...] = ("decoder",),
    biases: int = 0,
) -> Saliency:
    sites = {}
    for stack in stacks:
        for layer in range(layers):
            sites[Site(stack, layer, "attention")] = SiteLayout(groups, 512, KV_GROUP, biases)
            if stack == "decoder" and len(stacks) > 1:
                sites[Site(stack, layer, "cross_attention")] = SiteLayout(groups, 512, KV_GROUP, biases)
            sites[Site(stack, layer, "mlp")] = SiteLayout(neurons, 24, NEURON)
    layout = Layout(sites, {"embeddings": 4096, "norms": 64}, "LlamaForCausalLM")
    generator = np.random.default_rng(0)
    scores = {site: generator.lognormal(0, 1, place.units).astype(np.float32) for site, place in sites.items()}
    return Saliency(scores, layout, "nirvana", "0" * 64)


def every_chart(scores: Saliency, stack: str = "decoder") -> list[Chart]:
    plan = allocate(scores, sparsity=0.3, gamma=2.0)
    charts = []
    for module in saliency.modules(scores, stack):
        charts += [saliency.unit_heatmap(scores, stack, module, colour=colour) for colour in saliency.COLOURS]
        charts.append(saliency.unit_heatmap(scores, stack, module, ordered=True, plan=plan, selected=2))
        charts.append(distributions.layer_distributions(scores, stack, module))
        charts.append(distributions.score_curve(scores, Site(stack, 1, module), plan))
        charts.append(prune.sizes_by_layer(plan, stack, module))
    charts += [allocation.score_histogram(scores, plan, kind) for kind in (KV_GROUP, NEURON)]
    charts += [allocation.kept_shares(plan, stack), shares.parameters_by_part(plan), shares.kept_by_part(plan)]
    limit = reachable_sparsity(scores.layout, gamma=2.0)
    charts.append(rates_by_gamma(scores.layout, 0.3, 2.0, limit))
    return charts


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_every_chart_asks_answers_and_tabulates(stack: str) -> None:
    for chart in every_chart(make_saliency(stacks=("encoder", "decoder")), stack):
        assert chart.title.endswith("?"), chart.title
        assert chart.takeaway.endswith("."), chart.takeaway
        assert "nan" not in chart.takeaway and "inf" not in chart.takeaway, chart.takeaway
        assert len(chart.table) > 0
        assert chart.title in chart.alt and chart.takeaway in chart.alt


def test_arrays_go_out_as_float32_or_int32() -> None:
    """Lists of Python floats are several times larger than typed arrays on the wire."""
    for chart in every_chart(make_saliency(neurons=2000)):
        for trace in chart.figure.to_plotly_json()["data"]:
            for name in ("x", "y", "z", "customdata"):
                values = trace.get(name)
                if isinstance(values, dict):
                    assert values["dtype"] in {"f4", "i4", "i2", "i1", "u1", "u2", "u4"}, (chart.title, name)
                else:
                    assert values is None or len(values) < 16, (chart.title, name)


def test_a_wide_model_is_binned_to_512_columns() -> None:
    scores = make_saliency(layers=2, neurons=18944)
    chart = saliency.unit_heatmap(scores, "decoder", "mlp", colour="linear")
    z = chart.figure.data[0].z
    assert z.shape == (2, 512) and z.dtype == np.float32
    values = scores[Site("decoder", 1, "mlp")]
    np.testing.assert_allclose(z[1, 3], values[3 * 37 : 4 * 37].mean(), rtol=1e-5)
    assert "mean over 37 neighbouring neurons" in chart.reading
    assert len(chart.figure.to_json()) < 500_000


def test_bins_of_ragged_layers_end_where_the_layer_ends() -> None:
    layout = Layout(
        {
            Site("decoder", 0, "mlp"): SiteLayout(10, 3, NEURON),
            Site("decoder", 1, "mlp"): SiteLayout(4, 3, NEURON),
        }
    )
    values = {site: np.arange(1, place.units + 1, dtype=np.float32) for site, place in layout.items()}
    bins = saliency.bin_units(Saliency(values, layout, "nirvana"), list(layout), columns=4)
    np.testing.assert_array_equal(bins.filled, [[3, 3, 3, 1], [3, 1, 0, 0]])
    np.testing.assert_array_equal(bins.score, np.array([[2, 5, 8, 10], [2, 4, np.nan, np.nan]], np.float32))


def test_sorted_bins_descend_and_the_line_is_the_kept_width() -> None:
    scores = make_saliency()
    plan = allocate(scores, sparsity=0.3, gamma=2.0)
    chart = saliency.unit_heatmap(scores, "decoder", "mlp", ordered=True, colour="linear", plan=plan)
    assert (np.diff(chart.figure.data[0].z, axis=1) <= 0).all()
    widths = [len(plan[Site("decoder", layer, "mlp")]) for layer in range(4)]
    np.testing.assert_array_equal(chart.figure.data[1].x[::2] + 0.5, widths)


def test_a_click_target_covers_every_unit_of_every_layer() -> None:
    scores = make_saliency(layers=5, neurons=1000)
    targets = saliency.unit_heatmap(scores, "decoder", "mlp").figure.data[-1]
    assert isinstance(targets, go.Scatter) and targets.marker.opacity == 0 and targets.marker.symbol == "square"
    assert targets.hoverinfo is None  # "skip" would take the clicks away too
    first, last = np.asarray(targets.customdata)[:, 0], np.asarray(targets.customdata)[:, 1]
    for layer in range(5):
        mine = np.asarray(targets.y) == layer
        covered = np.concatenate([np.arange(a, b + 1) for a, b in zip(first[mine], last[mine], strict=True)])
        np.testing.assert_array_equal(covered, np.arange(1000))


def test_layer_0_is_at_the_top() -> None:
    axis = saliency.unit_heatmap(make_saliency(), "decoder", "attention").figure.layout.yaxis
    assert axis.range[0] > axis.range[1]


@pytest.mark.parametrize("fill", [0.0, 1.0, -1.0])
def test_constant_scores_still_draw(fill: float) -> None:
    scores = make_saliency()
    flat = {site: np.full_like(values, fill) for site, values in scores.items()}
    for chart in every_chart(Saliency(flat, scores.layout, "random")):
        assert "nan" not in chart.takeaway, chart.takeaway


def test_the_curve_splits_at_the_cut_and_names_what_goes() -> None:
    scores = make_saliency(neurons=200)
    plan = allocate(scores, sparsity=0.3, gamma=2.0)
    site = min((site for site in plan if site.module == "mlp"), key=lambda site: len(plan[site]))
    kept = len(plan[site])
    chart = distributions.score_curve(scores, site, plan)
    stays, goes = chart.figure.data
    assert max(stays.x) == kept and min(goes.x) == kept + 1
    assert set(np.asarray(goes.customdata)[:, 0]) == set(range(200)) - set(plan[site])
    assert chart.takeaway.startswith(f"{200 - kept} of 200 neurons are removed")


def test_the_unit_table_lists_global_ranks_best_first() -> None:
    scores = make_saliency()
    plan = allocate(scores, sparsity=0.3, gamma=2.0)
    site = Site("decoder", 2, "mlp")
    table = distributions.unit_table(scores, site, plan)
    assert table["score"].is_monotonic_decreasing and table["rank in the pool"].is_monotonic_decreasing
    pool = np.sort(scores.flat(NEURON))
    first = table.iloc[0]
    assert pool[int(first["rank in the pool"]) - 1] == np.float32(first["score"])
    assert sorted(table.loc[table["kept"], "unit"]) == list(plan[site])


@pytest.mark.parametrize("kind", [KV_GROUP, NEURON])
@pytest.mark.parametrize("protected", [(), (0, 3)])
def test_the_histogram_counts_every_unit_once(kind: str, protected: tuple[int, ...]) -> None:
    scores = make_saliency(layers=6)
    plan = allocate(scores, sparsity=0.25, gamma=2.0, protected=protected)
    table = allocation.score_histogram(scores, plan, kind).table
    sites = scores.layout.pool(kind)
    kept = sum(len(plan[site]) for site in sites)
    assert table["kept"].sum() == kept
    assert table["removed"].sum() == sum(scores.layout[site].units for site in sites) - kept
    assert (table["kept"] >= 0).all()
    gone = [np.delete(scores[site], plan[site]) for site in sites]
    edges = np.append(table["score from"], table["score to"].iloc[-1])
    edges[0], edges[-1] = -np.inf, np.inf
    expected = np.histogram(np.concatenate(gone), edges)[0]
    assert np.abs(table["removed"] - expected).sum() <= 2  # a score may lie on an edge after rounding to float32


def test_titles_tell_the_parts_of_two_stacks_apart() -> None:
    both, one = make_saliency(stacks=("encoder", "decoder")).layout, make_saliency().layout
    found = [(names.part_name(both, *part), names.unit_name(both, *part)) for part in names.parts(both)]
    assert found == [
        ("encoder self-attention", "encoder self-attention KV group"),
        ("encoder MLP", "encoder neuron"),
        ("decoder self-attention", "decoder self-attention KV group"),
        ("cross-attention", "cross-attention KV group"),
        ("decoder MLP", "decoder neuron"),
    ]
    assert [names.unit_name(one, *part) for part in names.parts(one)] == ["KV group", "neuron"]
    titles = [chart.title for chart in every_chart(make_saliency(stacks=("encoder", "decoder")))]
    assert "Which cross-attention KV groups score high?" in titles
    assert "How much of each decoder layer is kept?" in titles


def test_kept_shares_of_stacks_are_those_of_the_plan() -> None:
    scores = make_saliency(stacks=("encoder", "decoder"))
    plan = allocate(scores, sparsity=0.3, gamma=2.0)
    chart = shares.kept_by_part(plan)
    assert chart.table["parameters before"].sum() - chart.table["parameters after"].sum() == plan.removed
    for stack in ("encoder", "decoder"):
        before, after = (
            sum(place.parameters for site, place in layout.items() if site.stack == stack)
            for layout in (plan.layout, plan.pruned_layout)
        )
        assert f"the {stack} keeps {after / before:.1%}" in chart.takeaway.lower()
    least = chart.table.nsmallest(1, "kept share").iloc[0]
    assert names.part_name(plan.layout, least["stack"], least["module"]) in chart.takeaway


@pytest.mark.parametrize("stacks", [("decoder",), ("encoder", "decoder")])
@pytest.mark.parametrize("biases", [0, 7])
def test_the_parts_sum_to_the_model_and_the_removed_to_the_target(biases: int, stacks: tuple[str, ...]) -> None:
    scores = make_saliency(biases=biases, stacks=stacks)
    plan = allocate(scores, sparsity=0.3, gamma=2.0)
    parts = shares.part_table(plan)
    assert parts["parameters"].sum() == scores.layout.parameters
    weights = parts[(parts["fate"] == "removed") & ~parts["part"].str.startswith("biases")]
    assert weights["parameters"].sum() == plan.removed
    assert 0 <= 0.3 * scores.layout.prunable - plan.removed < 8 * 24
    assert parts["share"].sum() == pytest.approx(1)


def test_the_rates_follow_the_formula_from_nothing_to_infinity() -> None:
    scores = make_saliency()
    attention, mlp = (scores.layout.pool_parameters(kind) for kind in (KV_GROUP, NEURON))
    table = rates_by_gamma(scores.layout, 0.2, 3.36, 0.8).table
    first, last = table.iloc[0], table.iloc[-1]
    assert first["gamma"] == 0 and first["MLP removed"] == 0
    assert first["attention removed"] == pytest.approx(0.2 * (attention + mlp) / attention)
    assert math.isinf(last["gamma"]) and last["attention removed"] == 0
    assert last["MLP removed"] == pytest.approx(0.2 * (attention + mlp) / mlp)
    assert table["attention removed"].is_monotonic_decreasing and table["MLP removed"].is_monotonic_increasing


@pytest.mark.parametrize("kind", [KV_GROUP, NEURON])
def test_a_model_with_one_pool_draws_the_rates_it_has(kind: str) -> None:
    layout = Layout({Site("decoder", 0, "x"): SiteLayout(64, 4, kind)})
    chart = rates_by_gamma(layout, 0.2, 1.0, 0.8)
    assert len(chart.table) == 201


def test_the_diff_names_each_module_that_changes() -> None:
    scores = make_saliency()
    plan = allocate(scores, sparsity=0.3, gamma=2.0, protected=[0])
    lines = prune.module_diff(plan).splitlines()
    changed = [site for site in plan if len(plan[site]) < scores.layout[site].units]
    assert [line.split()[0] for line in lines] == [site.key for site in changed]
    assert lines[-1].split()[1:] == [str(scores.layout[changed[-1]].units), "=>", str(len(plan[changed[-1]]))]
    assert not any(line.startswith("decoder.0.") for line in lines)


def test_sizes_report_before_and_after() -> None:
    scores = make_saliency()
    plan = allocate(scores, sparsity=0.3, gamma=2.0)
    chart = prune.sizes_by_layer(plan, "decoder", "mlp")
    before, after = chart.figure.data
    assert list(before.y) == [96] * 4
    assert list(after.y) == [len(plan[Site("decoder", layer, "mlp")]) for layer in range(4)]
    assert chart.takeaway.startswith(f"384 neurons become {sum(after.y)};")


@pytest.mark.parametrize(("low", "high"), [(-4.0, 1.0), (-1.02, -0.99), (0.1, 0.6), (-30.0, 30.0)])
def test_log_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks, labels = log_ticks(low, high)
    assert 2 <= len(ticks) <= 7 and len(labels) == len(ticks)
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_scores_below_zero_are_drawn_on_linear_axes() -> None:
    positive = make_saliency()
    scores = {site: values - values.mean() for site, values in positive.scores.items()}
    centred = Saliency(scores, positive.layout, "flap")
    site = Site("decoder", 1, "mlp")
    heatmap = saliency.unit_heatmap(centred, "decoder", "mlp", colour="log")
    assert "linear scale" in heatmap.reading
    assert float(np.nanmin(heatmap.figure.data[0].z)) == pytest.approx(
        min(float(centred[each].min()) for each in saliency.module_sites(centred, "decoder", "mlp"))
    )
    spread = distributions.layer_distributions(centred, "decoder", "mlp")
    assert "linear axis" in spread.reading
    curve = distributions.score_curve(centred, site, allocate(centred, sparsity=0.3, gamma=2.0))
    assert "Linear axis" in curve.reading and "saliency" not in curve.takeaway
