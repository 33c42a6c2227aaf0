"""Figures of the Method page: units, KV groups, gamma, ablation, kernel study, and criteria compared."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nirvana.allocation.allocate import allocate
from nirvana.allocation.shared import gammas_alike
from nirvana.evaluation.ablation_results import Ablations
from nirvana.layout import KV_GROUP, NEURON
from nirvana.models.families.llama import LlamaFamily
from nirvana.models.families.t5 import T5Family
from nirvana.models.inspection import ModelPreview
from nirvana.reporting.figures.ablation import PAIRS, missed_by_layer, predicted_against_true
from nirvana.reporting.figures.drawings import heads_drawn, unit_in_matrices, unit_parts
from nirvana.reporting.figures.gamma import rates_in_jumps
from nirvana.reporting.figures.kernel import change_against_saliency, change_by_sparsity
from nirvana.reporting.figures.quality import criteria_compared
from nirvana.reporting.quality import Column, Quality
from nirvana.saliency.scores import Saliency
from nirvana.studies.kernel_rows import KernelStudy
from tests.ablations import ablations, study_of_kernel

CONFIG = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 300,
}
T5 = {"num_layers": 3, "num_heads": 4, "d_model": 32, "d_kv": 8, "d_ff": 96, "vocab_size": 300}


def preview(config: dict[str, int] = CONFIG) -> ModelPreview:
    family = T5Family() if "d_kv" in config else LlamaFamily()
    return ModelPreview("m", "", "", family.name, family.layout(config), family.geometry(config), "float32")


@pytest.mark.parametrize(
    "config", [CONFIG, CONFIG | {"num_key_value_heads": 1}, T5, T5 | {"feed_forward_proj": "gated-gelu"}]
)
def test_parts_of_a_unit_hold_the_weights_of_the_layout(config: dict[str, int]) -> None:
    card = preview(config)
    for kind in (KV_GROUP, NEURON):
        place = card.layout[card.layout.pool(kind)[0]]
        for unit in (0, place.units - 1):
            parts = unit_parts(card, kind, unit)
            assert sum(part.weights for part in parts) == place.cost
            assert all(
                0 <= part.first < part.last <= (part.columns if part.of_columns else part.rows) for part in parts
            )
            chart = unit_in_matrices(card, kind, unit)
            assert f"{place.cost:,}" in chart.title and chart.table["weights"].sum() == place.cost


def test_matrices_have_the_names_of_the_family() -> None:
    assert [part.name for part in unit_parts(preview(), KV_GROUP, 1)] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert [part.name for part in unit_parts(preview(T5), NEURON, 1)] == ["wi", "wo"]
    query, key, *_ = unit_parts(preview(), KV_GROUP, 1)
    assert (query.first, query.last, key.first, key.last) == (16, 32, 8, 16)  # 2 query heads of 8


@pytest.mark.parametrize(
    ("heads", "kv", "own"), [(8, 8, "MHA"), (8, 4, "GQA"), (8, 1, "MQA"), (9, 3, "GQA"), (7, 7, "MHA")]
)
def test_heads_are_drawn_as_the_model_has_them(heads: int, kv: int, own: str) -> None:
    geometry = {**preview().geometry, "heads": heads, "kv_heads": kv}
    chart = heads_drawn(geometry, "m")
    assert f"{kv} KV group" in chart.title
    table = chart.table.set_index("attention")
    mine = table.loc[f"{own}, this model"]
    assert mine["KV heads"] == kv and mine["weights in a group"] == 2 * 8 * (heads // kv + 1) * 64
    assert [each.partition(",")[0] for each in table.index] == ["MHA", "GQA", "MQA"]
    squares = [trace for trace in chart.figure.data if trace.marker.symbol == "square" and trace.x[0] is not None]
    assert sorted(len(trace.x) for trace in squares) == sorted(table["KV heads"])
    assert (table["KV heads"] * table["query heads in a group"] == heads).all()


def test_many_heads_are_drawn_in_part() -> None:
    for heads, kv in ((64, 8), (40, 40), (24, 3), (96, 1)):
        chart = heads_drawn({**preview().geometry, "heads": heads, "kv_heads": kv}, "m")
        rows = [trace for trace in chart.figure.data if trace.marker.symbol == "circle" and trace.x[0] is not None]
        assert all(len(trace.x) <= 32 for trace in rows) or heads // kv > 32
        assert chart.table["query heads"].tolist() == [heads] * 3


def test_rates_in_jumps_are_those_of_plans_with_whole_groups() -> None:
    layout = preview().layout
    draw = np.random.default_rng(0)
    scores = Saliency(
        {site: draw.random(place.units).astype(np.float32) for site, place in layout.items()}, layout, "x"
    )
    for gamma in (0.5, 1.0, 2.0, 3.36, math.inf):
        chart = rates_in_jumps(layout, 0.2, gamma)
        plan = allocate(scores, sparsity=0.2, gamma=gamma, multiple_of=1)
        marks = [trace for trace in chart.figure.data if trace.mode == "markers"]
        assert marks[0].y[0] == pytest.approx(plan.rate(KV_GROUP))
        assert marks[1].y[0] == pytest.approx(plan.rate(NEURON), abs=1 / (4 * 96))
        alike = gammas_alike(layout, sparsity=0.2, gamma=gamma)
        near = chart.table[(chart.table["gamma"] > 1.001 * alike.lowest) & (chart.table["gamma"] < alike.highest)]
        assert near["attention removed"].nunique() == 1
        assert near["attention removed"].iloc[0] == pytest.approx(alike.groups / 16)


def test_a_gamma_that_cannot_be_is_said() -> None:
    chart = rates_in_jumps(preview().layout, 0.9, 0.0)
    assert "more than there is" in chart.title
    assert chart.table["MLP removed"].isna().any() and chart.table["MLP removed"].notna().any()


def test_predictions_are_drawn_with_their_correlations() -> None:
    found = ablations()
    chart = predicted_against_true(found, "first")
    assert "closely for neurons, roughly for KV groups" in chart.title
    assert f"{found.first_order_and_change(KV_GROUP).spearman:.2f}" in chart.takeaway
    crosses = next(trace for trace in chart.figure.data if trace.name == "KV groups, wrong sign")
    assert len(crosses.x) == round(found.wrong_signs(KV_GROUP) * 36) > 0
    drawn = sum(len(trace.x) for trace in chart.figure.data if trace.mode == "markers")
    assert drawn == len(found.items) == len(chart.table)
    assert "closely" in predicted_against_true(ablations(rough=False), "first").title
    for name in PAIRS:
        assert predicted_against_true(found, name).figure.data


def test_a_unit_without_effect_is_left_out_of_the_log_axes() -> None:
    found = ablations()
    none = found.items[0]._replace(change=0.0)
    chart = predicted_against_true(Ablations((none, *found.items[1:]), found.protocol), "first")
    drawn = sum(len(trace.x) for trace in chart.figure.data if trace.mode == "markers")
    assert drawn == len(found.items) - 1 and len(chart.table) == len(found.items)


def test_what_first_order_misses_is_drawn_by_layer() -> None:
    found = ablations()
    chart = missed_by_layer(found)
    assert chart is not None
    errors = found.errors()
    worst = max(errors, key=lambda site: errors[site])
    assert f"KV groups of layer {worst.layer}" in chart.title
    assert chart.table.set_index("module")["missed"].to_dict() == pytest.approx(
        {site.key: value for site, value in errors.items()}
    )
    nothing = Ablations(tuple(item._replace(change=0.0) for item in found.items), found.protocol)
    assert missed_by_layer(nothing) is None


def test_the_theorem_holds_for_what_is_proportional() -> None:
    lost = change_against_saliency(study_of_kernel(1.8), "lost")
    assert "is proportional" in lost.title and "Exponent 1.00" in lost.takeaway
    remaining = change_against_saliency(study_of_kernel(1.8), "remaining")
    assert "does not follow" in remaining.title and "Exponent 1.80" in remaining.takeaway
    assert len(remaining.table) == 18
    marks = [trace for trace in remaining.figure.data if trace.mode == "markers"]
    assert [len(trace.x) for trace in marks] == [9, 9]


def test_the_criteria_are_ranked_at_the_middle_sparsity() -> None:
    chart = change_by_sparsity(study_of_kernel(1.8), "lost")
    assert chart.title.startswith("Lost mass of the removed weights at 20 %: least with NIRVANA (2%), most with Random")
    values = chart.table.set_index(["criterion", "sparsity"])["change over dense kernel"]
    assert values["nirvana", 0.2] == pytest.approx(7 * 0.2 * np.mean([100, 150, 220]) / 1e4)
    assert "No point" in change_by_sparsity(KernelStudy(()), "lost").title


def test_criteria_are_drawn_best_first() -> None:
    column = Column(0.2, "shared", "none")
    cells = {("random", column): (30.0, 8.0), ("nirvana", column): (20.0, 12.0), ("taylor", column): (15.0, 5.0)}
    chart = criteria_compared(Quality((10.0, 4.0), cells | {("flap", column): ()}), column, ("a", "b"))
    assert chart.title == "NIRVANA is number 2 of 3; Taylor (LLM-Pruner) is best"
    assert chart.table["a"].tolist() == [1.5, 2.0, 3.0] and chart.table["b"].tolist() == [1.25, 3.0, 2.0]
    alone = Quality((10.0, 4.0), {("nirvana", column): (20.0, 12.0)})
    assert criteria_compared(alone, column, ("a", "b")).title == "NIRVANA is the best of 1"
