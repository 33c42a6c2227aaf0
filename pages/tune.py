"""Tune: search for the recipe with the lowest KL."""

from __future__ import annotations

from functools import partial

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.tune import (
    PANEL,
    all_trials,
    best,
    by_choice,
    controls,
    correlation,
    explain,
    nothing_yet,
    over_time,
    start,
)
from nirvana.reporting.search import command_line, python_code
from nirvana.studies.search_trials import read_trials

now = state.context()
page.page_header("tune")
settings, trials = read_trials(now.run.folder)
left, picture = page.stage()
with left:
    request = controls(now, settings)
    start(now, request, settings, [] if now.run.is_example else trials)
with picture:
    page.job_panel()
    PANEL.watch(now)
    if settings is None or not trials:
        nothing_yet(now)
    else:
        over_time(settings, trials)
        best(now, settings, trials)
page.tabs(
    "tune.tabs",
    {
        "Choices": partial(by_choice, settings, trials),
        "KL and perplexity": partial(correlation, settings, trials),
        "All trials": partial(all_trials, settings, trials),
        "What is searched": explain,
    },
)
PANEL.code(python_code(now.recipe, request), command_line(now.recipe, request))
