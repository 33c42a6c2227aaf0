"""Calibration figures: every claim about candidates is checked against the divergences themselves."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from nirvana.calibration.kl import Divergence
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet, Candidate
from nirvana.reporting.figures import calibration, positions, tokens
from nirvana.reporting.figures.calibration_texts import by_text
from nirvana.reporting.figures.chart import Chart, plus_minus


def make_set(samples: int = 6, length: int = 16, *, seed: int = 0) -> CalibrationSet:
    ids = np.random.default_rng(seed).integers(0, 50, (samples, length))
    return CalibrationSet(ids, source="python-docs", seed=seed)


def make_selection(divergences: list[np.ndarray]) -> CalibrationSelection:
    drawn = [
        Candidate(make_set(seed=2**62 + index), Divergence(values.astype(np.float32)), 0.2)
        for index, values in enumerate(divergences)
    ]
    winner = min(range(len(drawn)), key=lambda index: drawn[index].divergence.mean)
    probe = make_set(*divergences[0].shape, seed=42)
    return CalibrationSelection(tuple(drawn), winner, probe, "nirvana", 0.2, 3.36)


def noisy(means: list[float], *, samples: int = 40, length: int = 12, noise: float = 0.02) -> CalibrationSelection:
    """Candidates that share hard and easy probes, and differ by their mean and a little noise."""
    draw = np.random.default_rng(1)
    probes = draw.lognormal(sigma=0.8, size=(samples, length))
    return make_selection([probes + mean + noise * draw.standard_normal(probes.shape) for mean in means])


def every_chart(selection: CalibrationSelection) -> list[Chart]:
    charts = [calibration.candidate_divergences(selection), positions.by_position(selection)]
    charts += [positions.one_probe(selection, 0), tokens.token_frequencies(selection.calibration)]
    charts.append(tokens.sample_variety(selection.calibration))
    if len(selection.candidates) > 1:
        charts += [calibration.margins(selection), positions.by_length(selection)]
    return charts


SELECTIONS = {
    "eight": noisy([0.5, 0.3, 0.9, 0.4, 0.6, 0.31, 0.7, 0.8]),
    "two": noisy([0.5, 0.3]),
    "one": noisy([0.5]),
    "equal": make_selection([np.full((5, 4), 0.25)] * 3),
    "zero": make_selection([np.zeros((5, 4))] * 2),
    "one probe sample": make_selection([np.full((1, 4), 0.5), np.full((1, 4), 0.25)]),
    "one position": make_selection([np.linspace(0.1, 3, 7)[:, None], np.linspace(0.2, 4, 7)[:, None]]),
    "large": noisy([0.5, 0.4], samples=3000, length=2),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_chart_asks_answers_and_tabulates(name: str) -> None:
    for chart in every_chart(SELECTIONS[name]):
        assert chart.title.endswith("?") and chart.takeaway.endswith("."), (chart.title, chart.takeaway)
        assert not re.search(r"\b(nan|inf|None)\b", chart.takeaway), chart.takeaway
        assert len(chart.table) > 0
        assert chart.title in chart.alt and chart.takeaway in chart.alt


@pytest.mark.parametrize("name", SELECTIONS)
def test_arrays_go_out_as_float32_or_int32(name: str) -> None:
    for chart in every_chart(SELECTIONS[name]):
        for trace in chart.figure.to_plotly_json()["data"]:
            for part in ("x", "y", "customdata", "q1", "median", "q3", "lowerfence", "upperfence"):
                values = trace.get(part)
                if isinstance(values, dict):
                    assert values["dtype"] in {"f4", "i4", "i2", "i1", "u1", "u2"}, (chart.title, part)
                else:
                    assert values is None, (chart.title, part)


def test_candidates_stand_in_order_of_their_means_with_the_winner_in_colour() -> None:
    selection = SELECTIONS["eight"]
    chart = calibration.candidate_divergences(selection)
    means = [candidate.divergence.per_token.mean(dtype=np.float64) for candidate in selection.candidates]
    expected = sorted(range(8), key=lambda index: means[index])
    assert list(chart.table["set"]) == [index + 1 for index in expected]
    np.testing.assert_allclose(chart.table["mean KL"], sorted(means), rtol=1e-6)
    assert list(chart.table["winner"]) == [True, *[False] * 7]
    assert list(chart.table["seed"]) == [2**62 + index for index in expected]
    best = selection.candidates[expected[0]].divergence.per_token.mean(axis=1)
    assert chart.table["standard error"][0] == pytest.approx(best.std(ddof=1) / math.sqrt(40), rel=1e-5)
    assert f"Set {expected[0] + 1}," in chart.takeaway
    assert f"{means[expected[-1]] / means[expected[0]] - 1:.0%} more" in chart.takeaway
    boxes = [trace for trace in chart.figure.data if trace.type == "box"]
    assert boxes[0].line.color == calibration.WINNER and list(boxes[0].x) == [0]
    assert boxes[0].median[0] == pytest.approx(np.median(best), rel=1e-6)
    assert chart.figure.layout.xaxis.ticktext[0] == f"<b>{expected[0] + 1}</b>"


def test_every_point_is_a_probe_of_its_set() -> None:
    selection = SELECTIONS["eight"]
    seen = 0
    for trace in calibration.candidate_divergences(selection).figure.data:
        if trace.type == "box" or np.shape(trace.customdata)[1] != 2:  # means carry more
            continue
        for (number, probe), value in zip(trace.customdata, trace.y, strict=True):
            values = selection.candidates[number - 1].divergence.per_token[probe - 1]
            assert value == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)
            seen += 1
    assert seen == 8 * 40


def test_many_probes_are_thinned_and_it_is_said() -> None:
    chart = calibration.candidate_divergences(SELECTIONS["large"])
    drawn = sum(len(trace.y) for trace in chart.figure.data if trace.type == "scatter" and len(trace.y) > 2)
    assert drawn == calibration.POINTS
    assert "(1,024 of 3,000 drawn)" in chart.reading


def test_a_log_axis_is_used_and_named_where_values_are_far_apart() -> None:
    wide = make_selection([np.geomspace(0.01, 10, 20).reshape(20, 1) * factor for factor in (1, 2)])
    chart = calibration.candidate_divergences(wide)
    assert chart.figure.layout.yaxis.type == "log" and "Log axis" in chart.reading
    near = calibration.candidate_divergences(SELECTIONS["equal"])
    assert near.figure.layout.yaxis.type != "log" and "Linear axis" in near.reading


def test_differences_are_taken_probe_by_probe() -> None:
    """Probes differ much more than candidates do: only a paired comparison sees the small differences."""
    selection = noisy([0.30, 0.33, 0.30001], noise=0.01)
    chart = calibration.margins(selection)
    winner = selection.candidates[selection.winner].divergence.per_token.mean(axis=1, dtype=np.float64)
    for row in chart.table.to_dict("records"):
        other = selection.candidates[row["set"] - 1].divergence.per_token.mean(axis=1, dtype=np.float64)
        difference = other - winner
        assert row["difference"] == pytest.approx(difference.mean(), abs=1e-9)
        error = difference.std(ddof=1) / math.sqrt(len(difference))
        assert row["standard error"] == pytest.approx(error, rel=1e-6)
        assert row["significant"] == (difference.mean() > 2.0227 * error)  # Student's t, 39 degrees of freedom
    by_set = chart.table.set_index("set")["significant"]
    assert by_set[2] and not by_set[3 if selection.winner == 0 else 1]
    assert chart.takeaway.startswith("Not clearly: ") and "1 of the 2 other sets" in chart.takeaway


def test_a_clear_winner_is_called_one() -> None:
    chart = calibration.margins(SELECTIONS["two"])
    assert chart.takeaway.startswith("Yes: the runner-up, set 1, is 0.")
    found = calibration.verdict(SELECTIONS["two"])
    assert found is not None and found.clear and found.runner_up == 0


def test_equal_candidates_do_not_beat_each_other() -> None:
    found = calibration.verdict(SELECTIONS["equal"])
    assert found is not None and found.margin == 0 and found.clear is False
    assert "same mean KL, 0.25 nats" in calibration.candidate_divergences(SELECTIONS["equal"]).takeaway
    assert not calibration.margins(SELECTIONS["equal"]).table["significant"].any()


def test_one_probe_sample_cannot_tell() -> None:
    found = calibration.verdict(SELECTIONS["one probe sample"])
    assert found is not None and found.clear is None and math.isnan(found.error)
    assert "no standard error" in calibration.margins(SELECTIONS["one probe sample"]).takeaway


def test_one_candidate_has_no_runner_up() -> None:
    assert calibration.verdict(SELECTIONS["one"]) is None
    assert calibration.candidate_divergences(SELECTIONS["one"]).takeaway.startswith("There is one candidate")


def test_positions_average_over_samples() -> None:
    selection = SELECTIONS["eight"]
    chart = positions.by_position(selection)
    for index, candidate in enumerate(selection.candidates):
        np.testing.assert_allclose(chart.table[f"set {index + 1}"], candidate.divergence.per_token.mean(0), rtol=1e-5)
    assert list(chart.table["position"]) == list(range(1, 13))
    top = chart.figure.data[-1]
    winner = selection.candidates[selection.winner].divergence.per_token.mean(axis=0)
    np.testing.assert_allclose(top.y, winner, rtol=1e-5)
    assert f"highest at position {np.argmax(winner) + 1} (" in chart.takeaway
    assert f"last 3 positions it averages {winner[-3:].mean():.3g}" in chart.takeaway


def test_shorter_probes_choose_by_their_positions() -> None:
    early, late = np.full((4, 32), 0.3), np.full((4, 32), 0.3)
    early[:, 8:], late[:, 8:] = 0.6, 0.5
    early[:, :8] = 0.2  # the lowest over 8 positions only
    selection = make_selection([early, late])
    chart = positions.by_length(selection)
    assert selection.winner == 1
    assert list(chart.table["positions"]) == [8, 16, 32]
    for size, *means in chart.table.itertuples(index=False):
        expected = [each.divergence.per_token[:, :size].mean() for each in selection.candidates]
        np.testing.assert_allclose(means, expected, rtol=1e-6)
    cost = early.mean() / late.mean() - 1
    assert chart.takeaway == (
        f"Yes: the first 8 positions choose set 1, whose KL over all 32 positions is {cost:.1%} higher."
    )
    assert positions.by_length(SELECTIONS["equal"]).takeaway.startswith("No: the first 4 positions")


def test_a_probe_is_ranked_and_its_half_counted() -> None:
    values = np.full((3, 8), 0.1)
    values[1] = [0, 0, 5, 0, 4, 0, 0, 0.5]
    selection = make_selection([values, values + 1])
    assert positions.probes_by_divergence(selection) == [1, 0, 2]
    assert (
        "number 1 of 3 from the hardest; 1 of 8 positions makes up half" in positions.one_probe(selection, 1).takeaway
    )
    assert "4 of 8 positions make up half" in positions.one_probe(selection, 2).takeaway


def test_tokens_are_counted_without_padding() -> None:
    ids = np.array([[7, 7, 7, 9], [7, 8, 1, 1]])
    padded = CalibrationSet(ids, np.array([[1, 1, 1, 1], [1, 1, 0, 0]]))
    chart = tokens.token_frequencies(padded)
    assert list(chart.table["token id"]) == [7, 8, 9] and list(chart.table["count"]) == [4, 1, 1]
    assert chart.takeaway.startswith(
        "6 tokens, 3 of them different; 2 occur once, and the most frequent makes up 66.7%"
    )
    variety = tokens.sample_variety(padded)
    assert list(variety.table["different tokens"]) == [2, 2] and list(variety.table["tokens"]) == [4, 2]
    assert variety.takeaway == "Each of 2 samples holds 2."


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (12.7432, 0.3123, "12.74 ± 0.31"),
        (0.41234, 0.0211, "0.412 ± 0.021"),
        (123456.7, 2345.6, "123,457 ± 2,346"),
        (2.5e9, 3e7, "2.5e+09 ± 3e+07"),
        (12.7432, None, "12.74"),
        (12.7432, math.nan, "12.74"),
        (0.25, 0.0, "0.25 ± 0"),
        (math.inf, math.nan, "infinite"),
        (math.nan, None, "not a number"),
    ],
)
def test_standard_errors_have_two_digits(value: float, error: float | None, text: str) -> None:
    assert plus_minus(value, error) == text


def test_texts_stand_in_order_of_their_averages() -> None:
    levels = {"one": (0.5, 0.6), "two": (0.2, 0.3), "one + two": (0.4, 0.25)}
    draw, tried = np.random.default_rng(0), []
    for source, means in levels.items():
        for seed, mean in enumerate(means):
            drawn = CalibrationSet(draw.integers(0, 50, (4, 8)), source=source, source_hash=source, seed=seed)
            values = mean + 0.01 * draw.standard_normal((30, 4))
            tried.append(Candidate(drawn, Divergence(values.astype(np.float32)), 0.2))
    selection = CalibrationSelection(tuple(tried), 2, tried[0].calibration, "nirvana", 0.2, 3.36)
    chart = by_text(selection)
    assert list(chart.table["text"]) == ["two", "one + two", "one"]
    assert list(chart.table["sets"]) == ["3, 4", "6, 5", "1, 2"]
    expected = np.mean([selection.candidates[index].divergence.mean for index in (2, 3)])
    assert chart.table["mean KL"][0] == pytest.approx(expected)
    assert chart.takeaway.startswith("two, averaged over 2 sets: one + two, the next, is 0.0")
    assert chart.takeaway.endswith("more than noise.")
    assert calibration.set_name(selection, 5) == "set 6 (one + two, seed 1)"
    assert [trace.showlegend for trace in chart.figure.data] == [True, True, False]
    assert calibration.candidate_table(selection)["text"][0] == "two"
