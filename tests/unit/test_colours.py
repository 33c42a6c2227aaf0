"""One colour has one meaning on all pages."""

from __future__ import annotations

from nirvana.allocation.allocate import allocate
from nirvana.layout import Layout
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.model import parameters_by_part as of_model
from nirvana.reporting.figures.shares import parameters_by_part as of_plan
from tests.unit.test_allocation import model, scores


def test_a_part_has_the_same_colour_before_and_after_the_allocation() -> None:
    layout = Layout(dict(model()), {"embeddings": 9600, "language-model head": 9600, "norms": 64})
    plan = allocate(scores(layout), sparsity=0.3, gamma=2)
    before = {bar.name: theme.translucent(bar.marker.color, 1) for bar in of_model(layout).figure.data}
    after = {
        bar.name.partition(",")[0]: bar.marker.color for bar in of_plan(plan).figure.data if "removed" not in bar.name
    }
    assert {"embeddings", "language-model head", "norms", "attention", "MLP"} <= set(before)
    assert before == after and len(set(before.values())) == len(before)


def test_meanings_have_colours_of_their_own() -> None:
    meanings = [theme.ATTENTION, theme.CROSS_ATTENTION, theme.MLP, theme.REMOVED, theme.PRUNED, theme.CHOSEN]
    meanings += [theme.NEUTRAL, theme.UNPRUNED[0], *theme.UNPRUNED[2:]]
    assert len(set(meanings)) == len(meanings)
