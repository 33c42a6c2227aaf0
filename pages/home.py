"""Home: introduction, demo, and recent runs."""

from __future__ import annotations

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.demo_curve import curve
from nirvana.dashboard.panels.home import demo, headline, recent, steps
from nirvana.runs.store import EXAMPLE

now = state.context()
page.page_header("home")
demo(now)
page.job_panel()
curve(now)
headline(now.run if now.run.report() else now.store.open(EXAMPLE))
steps()
recent()
