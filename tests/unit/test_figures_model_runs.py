"""Figures of the Model and Runs pages, and the words that pages use: pure functions with exact numbers."""

from __future__ import annotations

import pytest

from nirvana.evaluation.results import Measurement, Report
from nirvana.layout import Layout
from nirvana.models.families.llama import LlamaFamily
from nirvana.models.families.t5 import T5Family
from nirvana.reporting.figures import model, runs
from nirvana.reporting.figures.theme import translucent
from nirvana.reporting.text import duration, megabytes, millions, plain

CONFIG = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
    "attention_bias": True,
}


@pytest.fixture
def layout() -> Layout:
    return LlamaFamily().layout(CONFIG)


def report(dense: float, pruned: float) -> Report:
    protocol = {"corpus": "text", "window": 512, "tokens": 1022}
    return Report(
        (
            Measurement("perplexity", "dense", dense, dense / 10, 2, protocol),
            Measurement("perplexity", "pruned", pruned, pruned / 10, 2, protocol),
            Measurement("bytes", "pruned", 2e9),
        )
    )


def test_parts_sum_to_the_whole_model(layout: Layout) -> None:
    chart = model.parameters_by_part(layout)
    assert chart.table["parameters"].sum() == layout.parameters
    assert chart.table["share"].sum() == pytest.approx(1)
    assert sum(trace.x[0] for trace in chart.figure.data) == layout.parameters
    assert f"{layout.prunable / layout.parameters:.0%}" in chart.takeaway


def test_units_are_counted_with_what_one_costs(layout: Layout) -> None:
    table = model.unit_table(layout).set_index("unit")
    assert table.loc["KV group", "in all"] == 3 * 2
    assert table.loc["neuron", "in all"] == 3 * 48
    assert table.loc["neuron", "weights in one"] == str(3 * 32)
    assert table["parameters"].sum() == layout.prunable
    assert model.prunable_sentence(layout) == "6 KV groups and 144 neurons are prunable."


def test_every_size_of_the_architecture_is_explained() -> None:
    table = model.geometry_table(LlamaFamily().geometry(CONFIG))
    assert (table["meaning"] != "").all()
    assert "48" in table["value"].to_list()


def test_an_encoder_decoder_is_described_by_stack() -> None:
    config = {"num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "d_model": 32, "d_kv": 6, "d_ff": 48}
    config |= {"vocab_size": 100}
    layout, geometry = T5Family().layout(config), T5Family().geometry(config)
    table = model.unit_table(layout).set_index("unit")
    assert table["in all"].to_dict() == {
        "encoder self-attention KV group": 3 * 4,
        "encoder neuron": 3 * 48,
        "decoder self-attention KV group": 2 * 4,
        "cross-attention KV group": 2 * 4,
        "decoder neuron": 2 * 48,
    }
    assert table["parameters"].sum() == layout.prunable
    assert model.part_table(layout)["parameters"].sum() == layout.parameters
    sizes = model.geometry_table(geometry).set_index("size")
    assert (sizes["meaning"] != "").all()
    assert sizes.loc["Encoder layers", "value"] == "3" and sizes.loc["Decoder layers", "value"] == "2"


def test_history_shows_dense_to_pruned() -> None:
    assert runs.history_row(report(10, 20)) == {"perplexity": "10 → 20", "KL": None}
    assert runs.history_row(None) == {"perplexity": "", "KL": None}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (4800, "1 h 20 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_numbers_and_names_in_words() -> None:
    assert millions(134_515_008) == "134.5 M"
    assert millions(8_030_261_248) == "8.03 B"
    assert megabytes(538_060_032) == "538 MB"
    assert translucent("#2B83BA", 0.35) == "rgba(43, 131, 186, 0.35)"


def test_markup_in_a_name_is_escaped() -> None:
    assert plain("![a](b) <i> $x$ :red[y]\nz") == r"\!\[a\]\(b\) \<i\> \$x\$ \:red\[y\] z"
