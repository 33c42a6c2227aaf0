"""Sweep: comparison of criteria, allocations, sparsities and seeds."""

from __future__ import annotations

from functools import partial

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.sweep import (
    PANEL,
    base_recipe,
    belongs_elsewhere,
    describe_base,
    explain,
    grid_controls,
    nothing_yet,
    start,
)
from nirvana.dashboard.panels.sweep_results import answer, choose_metric, contests, frontier, points, trained
from nirvana.reporting.code import sweep_code, sweep_command
from nirvana.studies.sweep_rows import read_rows

now = state.context()
page.page_header("sweep")
if belongs_elsewhere(now):
    st.stop()
rows = read_rows(now.run)
controls, picture = page.stage()
with controls:
    top = st.container()
    grid = grid_controls(now)
    with top:
        metric = choose_metric(rows)
    recipe = base_recipe(now, grid)
    start(now, grid, [] if now.run.is_example else rows)
    st.caption(describe_base(recipe))
with picture:
    page.job_panel()
    PANEL.watch(now)
    if rows and recipe != now.run.recipe:
        st.warning("What follows belongs to earlier choices. A sweep with the present ones starts in a new run.")
    if not rows:
        nothing_yet(now)
    answer(rows, metric)
page.tabs(
    "sweep.tabs",
    {
        "Criteria": partial(contests, rows, metric),
        "Size and speed": partial(frontier, now.run, rows, metric),
        "Recovery": partial(trained, rows, metric),
        "All points": partial(points, rows),
        "How it is compared": explain,
    },
)
PANEL.code(sweep_code(recipe, grid), sweep_command(recipe, grid))
