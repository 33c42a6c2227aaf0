"""Agreement of two criteria, by numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nirvana.allocation.allocate import allocate
from nirvana.layout import Site
from nirvana.reporting.figures.agreement import same_order, same_units
from nirvana.saliency.agreement import kept_overlap, rank_correlation
from nirvana.saliency.scores import Saliency
from tests.unit.test_figures import make_saliency

NAMES = ("One", "Other")


def values(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_rank_correlation_is_spearmans() -> None:
    assert rank_correlation(values(1, 2, 3), values(10, 200, 3000)) == pytest.approx(1)
    assert rank_correlation(values(1, 2, 3), values(-1, -2, -3)) == pytest.approx(-1)
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * 4 / (5 * 24)
    assert rank_correlation(values(1, 2, 3, 4, 5), values(0.2, 0.1, 0.4, 0.3, 9)) == pytest.approx(0.8)
    # Ranks 1 2 3 and 1.5 1.5 3: deviations -1 0 1 and -.5 -.5 1, so 1.5 / sqrt(2 * 1.5)
    assert rank_correlation(values(1, 2, 3), values(7, 7, 8)) == pytest.approx(1.5 / math.sqrt(3))
    assert math.isnan(rank_correlation(values(1, 2, 3), values(4, 4, 4)))
    assert math.isnan(rank_correlation(values(1), values(4)))


def test_overlap_is_the_shared_part_of_what_either_keeps() -> None:
    overlap = kept_overlap(np.array([0, 1, 2]), np.array([2, 3, 4]), units=6)
    assert overlap.share == pytest.approx(1 / 5)
    assert overlap.chance == pytest.approx(1.5 / 4.5)  # 3 * 3 / 6 in common on average
    assert kept_overlap(np.arange(4), np.arange(4), units=4) == (1, 1)
    assert math.isnan(kept_overlap(np.arange(0), np.arange(0), units=4).share)


def test_charts_tell_what_the_scores_say() -> None:
    one = make_saliency()
    flipped = {site: -scores if site.layer == 1 else scores.copy() for site, scores in one.scores.items()}
    flipped[Site("decoder", 2, "mlp")][:] = 1  # no order
    other = Saliency(flipped, one.layout, "flap")
    chart = same_order(one, other, "decoder", NAMES)
    found = chart.table.set_index(["module", "layer"])["rank correlation"]
    assert found["mlp"].iloc[[0, 1, 3]].tolist() == pytest.approx([1, -1, 1])
    assert math.isnan(found["mlp", 2])
    assert found["attention"].tolist() == pytest.approx([1, -1, 1, 1])
    assert chart.takeaway == "The mean correlation is 0.50 for attention and 0.33 for MLP."
    assert "that of attention jumps" in chart.reading

    plans = [allocate(scores, sparsity=0.3, gamma=2.0) for scores in (one, other)]
    kept = same_units(plans[0], plans[1], one, "decoder", NAMES)
    row = kept.table[(kept.table["module"] == "mlp") & (kept.table["layer"] == 1)].iloc[0]
    mine, theirs = (set(plan[Site("decoder", 1, "mlp")].tolist()) for plan in plans)
    assert row["shared"] == pytest.approx(len(mine & theirs) / len(mine | theirs))
    assert (row["kept by One"], row["kept by Other"]) == (len(mine), len(theirs))
    for each in (chart, kept):
        assert each.title.endswith("?") and each.takeaway.endswith(".") and "nan" not in each.takeaway


def test_scores_without_any_order_are_said_to_have_none() -> None:
    one = make_saliency()
    equal = {site: np.ones_like(scores) for site, scores in one.scores.items()}
    chart = same_order(one, Saliency(equal, one.layout, "block-influence"), "decoder", NAMES)
    assert chart.takeaway.startswith("There is nothing to compare")
