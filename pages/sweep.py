"""Sweep: comparison of criteria, allocations, sparsities and seeds."""

from __future__ import annotations

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
from nirvana.dashboard.panels.sweep_results import results
from nirvana.reporting.code import sweep_code, sweep_command
from nirvana.studies.sweep_rows import read_rows

now = state.context()
page.page_header("sweep")
if belongs_elsewhere(now):
    st.stop()
rows = read_rows(now.run)
base = st.container()
grid = grid_controls(now)
recipe = base_recipe(now, grid)
base.caption(describe_base(recipe))
start(now, grid, rows)
page.job_panel()
PANEL.watch(now)
if rows:
    if recipe != now.run.recipe:
        st.warning("What follows belongs to earlier choices. A sweep with the present ones starts in a new run.")
    results(now.run, rows)
else:
    nothing_yet(now)
with st.expander("How are the points compared?", icon=":material/help:", key="sweep.about"):
    explain()
PANEL.code(sweep_code(recipe, grid), sweep_command(recipe, grid))
