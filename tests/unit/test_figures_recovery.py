"""Figures and words of a recovery: the numbers that they show, also before there are any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nirvana.recovery.history import RecoveryHistory, Step
from nirvana.reporting.figures import recovery as figures
from nirvana.reporting.recovery import protocol_words, recent_loss, seconds_spent, tokens_a_second
from tests.courses import course


def test_perplexity_is_drawn_over_the_dense_one_with_the_kept_check_ringed() -> None:
    chart = figures.perplexity_by_step(course(((1.5, 1.6), (1.2, 1.3), (1.25, 1.4))))
    assert chart is not None
    before, line, ring = chart.figure.data[:3]
    assert list(before.x) == [0, 20] and list(before.y) == pytest.approx([1.5, 1.5])
    assert list(line.x) == [0, 10, 20] and list(line.y) == pytest.approx([1.5, 1.2, 1.25])
    assert list(ring.x) == [10] and list(ring.y) == pytest.approx([1.2])
    assert chart.figure.layout.shapes[0].y0 == 1, "the dense model"
    assert chart.takeaway == (
        "Step 10 is kept: **1.2** times dense on python-docs (1.5 before), **1.3** on library-docs (1.6)."
    )
    assert list(chart.table["weights"]) == ["", "kept", ""]
    assert list(chart.table["perplexity, library-docs"]) == pytest.approx([48, 39, 42])


def test_without_a_teacher_it_is_over_that_before_training() -> None:
    found = course(((1.5, 1.6), (1.2, 1.2)))
    found.dense, found.checks = {}, [replace(check, kl={}) for check in found.checks]
    found.protocol["best_by"] = "perplexity"
    chart = figures.perplexity_by_step(found)
    assert chart is not None and figures.kl_by_step(found) is None
    assert list(chart.figure.data[1].y) == pytest.approx([1, 0.8])
    assert "**0.8** times that before training on python-docs (1 before)" in chart.takeaway
    assert not chart.figure.layout.shapes


def test_kl_is_in_nats() -> None:
    chart = figures.kl_by_step(course(((1.5, 1.6),)))
    assert chart is not None and list(chart.figure.data[0].y) == pytest.approx([0.5])
    assert chart.takeaway == "Before training: **0.5** nats on python-docs, **0.6** on library-docs."


def test_there_is_no_chart_before_a_check_or_a_step() -> None:
    empty = RecoveryHistory()
    found = (figures.perplexity_by_step(empty), figures.kl_by_step(empty), figures.loss_by_step(empty))
    assert found == (None, None, None) and seconds_spent(empty) == 0


def test_many_steps_are_drawn_as_means_over_neighbours() -> None:
    steps = [Step(n, n, float(n), float(n % 2), 1e-4, 1.0) for n in range(1, 1001)]
    chart = figures.loss_by_step(RecoveryHistory({"options": {"method": "full"}}, steps))
    assert chart is not None
    thin, bold = chart.figure.data
    assert len(thin.x) == 250 and thin.x[-1] == 1000 and list(thin.y) == [0.5] * 250
    assert np.allclose(bold.y, 0.5) and "means over 4 steps" in chart.reading
    assert "negative log-likelihood" in chart.reading.lower() and len(chart.table) == 1000
    assert chart.takeaway == (
        "From **0.5** nats in the first 100 steps to **0.5** in the last, 0.0% above that of the 100 before."
    )


def test_numbers_and_protocol() -> None:
    found = course()
    assert recent_loss(found) == pytest.approx(sum(1 / n for n in range(1, 21)) / 20)
    assert tokens_a_second(found) == pytest.approx(128) and tokens_a_second(replace(found, steps=[])) is None
    assert seconds_spent(found) == 41
    assert protocol_words(found, "On cpu in float32") == (
        "Distillation, all weights, 5,120 tokens of python-docs in 40 s, peak learning rate 0.0003. Held out: 8 "
        "windows of 256 tokens of the probe split of each of python-docs, library-docs; the kept weights have the "
        "lowest mean KL. On cpu in float32."
    )
