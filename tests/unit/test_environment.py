"""The programs set the spin policy before torch is loaded, the library changes no environment variable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nirvana.environment import POLICY, RELATED, set_thread_policy, thread_policy, unchanged_environment
from nirvana.jobs.lane import WorkerProcess

ROOT = Path(__file__).parents[2]
SET_BY_IMPORTS = {"TORCHINDUCTOR_CACHE_DIR"}  # in this process, by libraries that other tests use
PLAIN = {name: value for name, value in os.environ.items() if name not in {*RELATED, *SET_BY_IMPORTS}}


def test_the_policy_is_for_every_runtime_that_torch_is_built_with() -> None:
    assert thread_policy({"OMP_NUM_THREADS": "2"}) == {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"])
def test_whoever_sets_a_related_variable_has_chosen(name: str) -> None:
    assert thread_policy({name: "anything"}) == {}


@pytest.mark.parametrize(("given", "expected"), [({}, POLICY), ({"OMP_WAIT_POLICY": "ACTIVE"}, {})])
def test_the_worker_and_the_command_line_compute_with_the_policy(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show = "print(json.dumps({name: os.environ[name] for name in sys.argv[1:] if name in os.environ}), flush=True)"
    names = list(POLICY)
    program = f"import json, os, sys, nirvana.cli; nirvana.cli.main(['runs', 'list', '--json']); {show}"
    command = [sys.executable, "-c", program, *names]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=PLAIN | given).stdout
    assert json.loads(shown.splitlines()[-1]) == expected
    for name in RELATED:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    worker = WorkerProcess([sys.executable, "-c", f"import json, os, sys; {show}", *names], print)
    assert worker.events.get(timeout=60) == expected
    assert worker.wait(60) == 0


def test_the_policy_comes_before_torch_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: F401

    for name in RELATED:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    set_thread_policy()
    assert dict(os.environ) == before


def test_changes_of_another_library_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIRVANA_TEST_KEPT", "1")
    with unchanged_environment():
        os.environ["NIRVANA_TEST_NEW"] = "2"
        del os.environ["NIRVANA_TEST_KEPT"]
    assert os.environ["NIRVANA_TEST_KEPT"] == "1" and "NIRVANA_TEST_NEW" not in os.environ
