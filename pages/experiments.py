"""Experiments: five questions for a class, each with an observation that is checked, and exercises."""

from __future__ import annotations

from functools import partial

from nirvana.dashboard import state
from nirvana.dashboard.panels import exercises, page
from nirvana.dashboard.panels.experiments import (
    PANEL,
    as_sweep,
    choose,
    choose_source,
    explanation,
    found_run,
    look_for,
    numbers,
    present,
    protocol_of,
    recorded,
    start,
)

now = state.context()
page.page_header("experiments")
controls, stage = page.stage()
with controls:
    experiment, model = choose()
    look_for(experiment)
    own = found_run(experiment, model)
    record = recorded(experiment, model)
    source = choose_source(own, record)
    start(now, experiment, model, own)
rows = own.rows if source == "own" and own else record.rows if record else []
protocol = protocol_of(experiment, model, source, record)
with stage:
    page.job_panel(now)
    PANEL.watch(now)
    present(experiment, rows, protocol)
page.tabs(
    "experiments.tabs",
    {
        "Why": partial(explanation, experiment),
        "Exercises": partial(exercises.show, now),
        "All points": partial(numbers, experiment, rows),
        "As a sweep": partial(as_sweep, experiment, model, own),
    },
)
