"""Home: what this is, the demo, and recent runs."""

from __future__ import annotations

from nirvana.runs.store import EXAMPLE
from nirvana.ui import state
from nirvana.ui.panels import page
from nirvana.ui.panels.home import demo, headline, recent, steps

now = state.context()
page.page_header("home")
demo(now)
page.job_panel()
headline(now.run if now.run.report() else now.store.open(EXAMPLE))
steps()
recent(now.store)
