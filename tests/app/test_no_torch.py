"""Looking at results needs no torch: that is what makes the first paint fast."""

from __future__ import annotations

import subprocess
import sys

from tests.app.conftest import ROOT

TOUR = """
import sys
from streamlit.testing.v1 import AppTest
from nirvana.dashboard.guide import PAGES

app = AppTest.from_file("app.py", default_timeout=60).run()
for page in PAGES:
    app.switch_page(page.path).run()
    assert not app.exception, (page.key, app.exception[0].message)
    if page.key == "allocation" and app.slider:
        for sparsity in (0.0, 0.1, 0.5, 1.0):
            app.slider(key="allocation.sparsity").set_value(sparsity).run()
            assert not app.exception, app.exception[0].message
        app.select_slider(key="allocation.gamma").set_value(float("inf")).run()
        assert not app.exception, app.exception[0].message
    if page.key == "saliency" and app.select_slider:
        app.select_slider(key="saliency.layer").set_value(2).run()
        assert not app.exception, app.exception[0].message
print("heavy:", sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""


def test_visiting_every_page_of_the_example_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOUR], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "heavy: []" in done.stdout
