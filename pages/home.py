"""Home: the demo, a result, the steps, and recent runs."""

from __future__ import annotations

from nirvana.dashboard import state
from nirvana.dashboard.panels import page, tour
from nirvana.dashboard.panels.demo_curve import curve
from nirvana.dashboard.panels.home import demo, headline, picture, recent, result_run, steps

now = state.context()
run = result_run(now)
page.page_header("home")
controls, stage = page.stage()
with controls:
    demo(now)
    tour.offer("home.tour", "Take the guided tour of the example")
with stage:
    page.job_panel()
    curve(now)
    picture(run)
headline(run)
steps()
recent()
