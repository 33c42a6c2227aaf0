"""Figures of speed and bytes, and shaded text: the numbers they show, and what they make of odd ones."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from nirvana.evaluation.results import Measurement, Report
from nirvana.evaluation.speed_report import ModelSpeed, SpeedReport, Spread
from nirvana.reporting import shading
from nirvana.reporting.figures import speed as figures
from nirvana.runs.results import ScoredText


def model(prefill: list[float], decode: list[float], flops: int, size: int = 4_000_000) -> ModelSpeed:
    first = [128 / value for value in prefill]
    spreads = (Spread.of(prefill), Spread.of(decode), Spread.of(first))
    return ModelSpeed(*spreads, size + 5, False, size, size // 4, flops, flops // 2, "float32")


@pytest.fixture
def report() -> SpeedReport:
    dense = model([100.0, 110.0, 90.0], [10.0, 10.0, 9.0], 1200)
    pruned = model([150.0, 154.0, 144.0], [10.0, 9.5, 9.5], 1000, 3_000_000)
    return SpeedReport({"dense": dense, "pruned": pruned}, 1, 128, 32, 3, "cpu (x86_64)", 2)


def test_bars_are_medians_and_lines_what_operations_promise(report: SpeedReport) -> None:
    chart = figures.speeds(report)
    prefill, promised, decode, _ = chart.figure.data
    assert list(prefill.y) == [100.0, 150.0] and list(decode.y) == [10.0, 9.5]
    assert list(prefill.error_y.array) == [5.0, 2.0] and list(prefill.error_y.arrayminus) == [5.0, 3.0]
    assert list(promised.x) == ["pruned"] and list(promised.y) == [np.float32(120.0)]
    assert "reads 1.50 times as fast as dense (ideal 1.20)" in chart.takeaway
    assert "generates 1.00 times as fast as dense" in chart.takeaway and "quartiles include 1" in chart.takeaway
    assert "3 turns" in chart.reading and "2 threads" in chart.reading
    row = chart.table.iloc[1]
    assert row["prefill, times the first"] == 1.5 and row["prefill quartiles"] == "147 to 152"
    assert row["file bytes"] == 3_000_000 and row["memory"].startswith("estimate")


def test_one_model_alone_is_compared_with_nothing(report: SpeedReport) -> None:
    alone = replace(report, models={"dense": report.models["dense"]})
    assert figures.speeds(alone).takeaway == "It reads 100 and generates 10 tokens a second."


def sizes(perplexities: dict[str, float], size: dict[str, float]) -> Report:
    where = {"corpus": "novels", "window": 64, "tokens": 630, "dtype": "float32", "device": "cpu", "note": ""}
    found = []
    for subject, value in perplexities.items():
        found.append(Measurement("perplexity", subject, value, value / 100, 10, where))
        found.append(Measurement("bytes", subject, size[subject]))
    return Report(tuple(found))


def test_quality_against_bytes_names_the_rival_of_that_size() -> None:
    size = {"dense": 100e6, "pruned": 80e6, "dense int8": 40e6, "pruned int8": 30e6}
    chart = figures.quality_against_bytes(
        sizes({"dense": 20.0, "pruned": 30.0, "dense int8": 21.0, "pruned int8": 32.0}, size)
    )
    assert chart is not None and chart.title.endswith("on novels?")
    dense, pruned = chart.figure.data
    assert list(dense.x) == [40.0, 100.0] and list(dense.y) == [21.0, 20.0] and list(dense.text) == ["int8", "float32"]
    assert pruned.name == "pruned" and list(pruned.error_y.array) == pytest.approx([0.64, 0.6])
    assert chart.takeaway.startswith("Pruned, 80 MB and perplexity 30.00 ± 0.30; dense as int8, 40 MB")
    assert chart.takeaway.endswith("better for fewer bytes.")
    worse = figures.quality_against_bytes(sizes({"dense": 20.0, "pruned": 30.0, "dense int8": 41.0}, size))
    assert worse is not None and worse.takeaway.endswith("smaller, and worse.")
    none = figures.quality_against_bytes(sizes({"dense": 20.0, "pruned": 300.0}, size))
    assert none is not None and "no quantised dense model" in none.takeaway
    assert none.figure.layout.yaxis.type == "log"


def test_nothing_to_draw_is_said_by_none() -> None:
    assert figures.quality_against_bytes(Report(())) is None
    assert figures.quality_against_bytes(sizes({"dense": math.inf}, {"dense": 4.0})) is None


class Reader(HTMLParser):
    """Text and attributes of each span."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[dict[str, str | None]] = []
        self.text = ""
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "span":
            self.spans.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


SCORED = ScoredText(("<b>", " x\n", "", '"&'), {"dense": (1.0, 0.5, 0.3, 0.05), "pruned": (0.25, 0.00001, 0.3, 0.2)})


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def test_tokens_are_shaded_by_probability_and_escaped() -> None:
    found = read(shading.shaded(SCORED, "dense"))
    assert found.tags == {"div", "span"} and found.text == '<b> x↵\n"&'
    styles = [str(span["style"]) for span in found.spans]
    assert "0.5)" in styles[0] and "0.25)" in styles[1] and "0.025)" in styles[2]
    assert ["border-bottom" in style for style in styles] == [False, False, True]
    assert found.spans[1]["title"] == "dense 50 %, pruned under 0.01 %"
    other = read(shading.shaded(SCORED, "pruned"))
    assert ["border-bottom" in str(span["style"]) for span in other.spans] == [False, True, False]
    assert other.text == found.text


def test_an_empty_text_and_the_legend() -> None:
    assert "(ends at once)" in read(shading.shaded(ScoredText((), {"dense": (), "pruned": ()}), "dense")).text
    assert "25%" in read(shading.legend()).text and "under 10%" in read(shading.legend()).text


def test_the_table_has_every_token_of_both_texts() -> None:
    table = shading.token_table({"dense": SCORED, "pruned": ScoredText(("a",), {"dense": (0.1,), "pruned": (0.9,)})})
    assert list(table["token"]) == [1, 2, 3, 4, 1] and list(table["pruned"][3:]) == [0.2, 0.9]
    assert shading.token_table({}).empty


def test_perplexity_of_a_text() -> None:
    assert shading.text_perplexity((0.5, 0.125)) == pytest.approx(4.0)
    assert math.isinf(shading.text_perplexity((0.5, 0.0))) and math.isnan(shading.text_perplexity(()))
