"""The demo's first picture: quality against sparsity, three points that take a tiny model seconds each."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.models import tiny
from nirvana.reporting.figures.sweep import by_sparsity
from nirvana.reporting.sweeps import metrics
from nirvana.runs.recipe import Recipe
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import read_rows

SHARES = (3 / 7, 5 / 7, 1.0)  # of the demo's sparsity
POLL = 1.0  # seconds


def curve_grid(recipe: Recipe) -> Grid | None:
    """The sweep of the demo's curve, whose last point is the demo's model before its recovery; None for a model that
    takes minutes a point.
    """
    if recipe.model.name not in tiny.NAMES:
        return None
    allocation = recipe.allocation
    return Grid(
        criteria=(recipe.saliency.criterion,),
        methods=(allocation.method,),
        sparsities=tuple(round(share * allocation.sparsity, 2) for share in SHARES),
        seeds=(recipe.calibration.seed,),
        compensations=(recipe.prune.compensation,),
        gammas=(allocation.gamma,),
    )


def curve(now: state.Context) -> None:
    """Quality against sparsity of the open run's sweep, point by point while it is measured; nothing without one."""
    live = now.job is not None and now.job.task == "sweep"
    if live or not now.run.is_example:
        st.fragment(_curve, run_every=POLL if live else None)(now.run.id)


def _curve(run_id: str) -> None:
    rows = read_rows(state.store().open(run_id))
    names = metrics(rows)
    chart = by_sparsity(rows, names[0]) if names else None
    if chart is not None:
        show_chart("home.curve", chart)
