"""What each part may import: the engine no streamlit, what a page imports no torch."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import nirvana
from tests.structure import typed_names
from tests.unit.test_environment import PLAIN, ROOT

TORCH_FREE = [
    "nirvana",
    "nirvana.allocation.allocate",
    "nirvana.calibration.corpora.registry",
    "nirvana.calibration.sets",
    "nirvana.models.pruning_record",
    "nirvana.evaluation.results",
    "nirvana.layout",
    "nirvana.models.devices",
    "nirvana.models.families.registry",
    "nirvana.models.inspection",
    "nirvana.models.lm",
    "nirvana.plan",
    "nirvana.runs.recipe",
    "nirvana.runs.store",
    "nirvana.saliency.criteria",
    "nirvana.saliency.random",
    "nirvana.saliency.scores",
    "nirvana.estimation.recipe",
    "nirvana.reporting",
    "nirvana.dashboard",
]


def loaded_after(modules: list[str], watched: str) -> list[str]:
    """Which of `modules` bring `watched` into a fresh process, tried in turn."""
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    if {watched!r} in sys.modules:\n"
        "        print(name)\n"
        "        break\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_modules_that_pages_need_import_no_torch() -> None:
    assert loaded_after(TORCH_FREE, "torch") == []


def test_the_engine_imports_no_streamlit_and_changes_no_environment_variable() -> None:
    found = pkgutil.walk_packages(nirvana.__path__, "nirvana.")
    engine = [module.name for module in found if not module.name.startswith(("nirvana.dashboard", "nirvana.__main__"))]
    assert len(engine) > 20
    program = """
import importlib, json, os, sys
before = dict(os.environ)
import nirvana
for name in nirvana.__all__:
    getattr(nirvana, name)
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert "streamlit" not in sys.modules, name
print(json.dumps([dict(os.environ) == before, "torch" in sys.modules]))
"""
    command = [sys.executable, "-c", program, *engine]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=PLAIN)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [True, True]


def test_every_public_name_is_there() -> None:
    for name in nirvana.__all__:
        assert getattr(nirvana, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prone'"):
        _ = nirvana.prone


def test_type_checkers_see_every_public_name() -> None:
    seen = typed_names()
    assert set(seen) == set(nirvana.__all__) - {"__version__"}
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(nirvana, name)
