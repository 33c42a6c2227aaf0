"""The dashboard in-process, with runs whose results are made up, in the shape of a small Llama."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from nirvana.allocation.allocate import allocate
from nirvana.calibration.kl import Divergence
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet, Candidate
from nirvana.calibration.tasks import SPANS
from nirvana.evaluation.results import Measurement, Report
from nirvana.jobs.records import record_job
from nirvana.layout import Layout
from nirvana.models.families.base import Family
from nirvana.models.families.llama import LlamaFamily
from nirvana.plan import PruningPlan
from nirvana.recovery.history import RecoveryHistory
from nirvana.runs.index import LIVE
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import Continuation, ModelCard, PruneSummary
from nirvana.runs.store import Run, Store
from nirvana.saliency.scores import Saliency
from tests.app.worker_thread import WorkerThread
from tests.courses import course

ROOT = Path(__file__).parents[2]
SMALL = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 300,
    "tie_word_embeddings": True,
}
SMALL_T5 = {"num_layers": 3, "num_heads": 4, "d_model": 32, "d_kv": 8, "d_ff": 96, "vocab_size": 300}
TABS = re.compile(r"[a-z]+\.tabs")
PLACE = {"device": "cpu", "dtype": "float32", "seconds": 1.5}


@pytest.fixture(scope="session", autouse=True)
def components() -> Iterator[None]:
    """Installed packages are searched for Streamlit components once, not once for each `AppTest`: 0.3 s each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(autouse=True)
def fresh_server(own_home: Path) -> Iterator[None]:
    """Drop all that a server keeps between sessions, and end its workers."""
    st.cache_resource.clear()
    st.cache_data.clear()
    yield
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.fixture
def worker_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of the test are performed in its process. Jobs of a real worker: test_journey.py and tests/browser."""
    monkeypatch.setattr("nirvana.jobs.lane.WorkerProcess", WorkerThread)


@pytest.fixture
def start() -> Callable[..., AppTest]:
    """`start()` opens the app, `start(run)` with a run in the URL; not run yet."""

    def start_app(run: Run | None = None) -> AppTest:
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
        if run is not None:
            app.query_params["run"] = run.id
        return app

    return start_app


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def filled(store: Store) -> Run:
    """A run with a result of every step."""
    return fill(store.create(Recipe(), name="Filled"))


def fill(run: Run, config: dict[str, Any] = SMALL, *, family: Family | None = None, seed: int = 0) -> Run:
    """Give a run made-up results of every step, as its recipe asks for."""
    draw = np.random.default_rng(seed)
    family = family or LlamaFamily()
    layout = family.layout(config)
    run.put(
        "model",
        ModelCard(
            name=run.recipe.model.name,
            origin="made up",
            note="4-bit origin",
            family=family.name,
            layout=layout,
            geometry=family.geometry(config),
            hash="ab" * 32,
            device="cpu",
            dtype="float32",
            weight_bytes=layout.parameters * 4,
            has_chat_template=True,
            task=SPANS if family.encoder_decoder else "",
        ),
        **PLACE,
    )
    selection = candidates(draw)
    run.put("calibration", selection, **PLACE)
    scores = Saliency(
        {site: draw.lognormal(sigma=1.5, size=place.units).astype(np.float32) for site, place in layout.items()},
        layout,
        "nirvana",
        selection.hash,
        {"strategy": "micro-batches", "micro_batch": 4, "seconds": 2.5},
    )
    run.put("saliency", scores, **PLACE)
    choice = run.recipe.allocation
    plan = allocate(scores, sparsity=choice.sparsity, gamma=choice.gamma, multiple_of=choice.multiple_of)
    run.put("allocation", plan, **PLACE)
    small = plan.pruned_layout
    sizes = {"dense": layout.parameters, "pruned": small.parameters}
    run.put("prune", PruneSummary(sizes, {name: 4 * size for name, size in sizes.items()}, 0.2, "cpu"), **PLACE)
    trains = "recover" in run.recipe.steps
    if trains:
        recover(run)
    run.put("evaluate", report(layout, plan, draw, recovered=trains), **PLACE)
    texts = {"dense": " Paris.", "pruned": " the city."} | ({"recovered": " Paris, the"} if trains else {})
    run.add_continuation(Continuation("The capital of France is", False, 16, texts))
    return run


def candidates(draw: np.random.Generator, count: int = 3) -> CalibrationSelection:
    """Candidate sets of 4 x 16 tokens, each with the divergence of its trial pruning on 6 probes."""

    def tokens(seed: int, samples: int) -> CalibrationSet:
        texts = [f"Sample {index} of set {seed}, long enough to read." for index in range(samples)]
        ids = draw.integers(0, 300, (samples, 16))
        return CalibrationSet(ids, source="python-docs", source_hash="cd" * 32, seed=seed, texts=texts)

    drawn = tuple(
        Candidate(tokens(seed, 4), Divergence(draw.lognormal(mean=seed / 10, size=(6, 16)).astype(np.float32)), 0.1998)
        for seed in range(count)
    )
    return CalibrationSelection(drawn, 0, tokens(42, 6), "nirvana", 0.2, 3.36)


def recover(run: Run, found: RecoveryHistory | None = None) -> None:
    """Give a run a made-up recovery, and a file in place of its weights."""
    (run.folder / "recovered-ab.safetensors").write_bytes(b"weights")
    run.put("recover", found or course(), weights="recovered-ab.safetensors", weight_hash="ab" * 32, **PLACE)


def report(layout: Layout, plan: PruningPlan, draw: np.random.Generator, *, recovered: bool = False) -> Report:
    protocol = {"window": 512, "tokens": 16_352, "device": "cpu", "dtype": "float32", "note": "4-bit origin"}
    measurements = []
    small = plan.pruned_layout.parameters
    subjects = [("dense", 1.0, layout.parameters), ("pruned", 1.9, small), ("recovered", 1.4, small)]
    for subject, factor, parameters in subjects if recovered else subjects[:2]:
        for corpus in ("python-docs", "library-docs"):
            where = {**protocol, "corpus": corpus, "corpus_hash": "ef" * 32}
            value = float(factor * draw.uniform(15, 20))
            measurements.append(Measurement("perplexity", subject, value, value / 50, 32, where))
            measurements.append(Measurement("bits per byte", subject, factor, factor / 50, 32, where))
        measurements.append(Measurement("parameters", subject, parameters))
        measurements.append(Measurement("bytes", subject, 4 * parameters))
    probe = {**protocol, "corpus": "python-docs", "corpus_hash": "ef" * 32, "samples": 6, "length": 16}
    measurements.append(Measurement("KL divergence", "pruned", 0.9, 0.02, 6, probe))
    if recovered:
        measurements.append(Measurement("KL divergence", "recovered", 0.4, 0.02, 6, probe))
    return Report(tuple(measurements))


def keys_on(app: AppTest) -> set[str]:
    """Keys of all widgets and charts on the page."""
    nodes: Iterator[Any] = (node for block in (app.main, app.sidebar) for node in block)
    return {str(node.key) for node in nodes if getattr(node, "key", None)}


def page_tabs(app: AppTest) -> tuple[str, list[str]]:
    """Key and labels of the page's tabs; without any an empty key."""
    for node in app.main:
        key = str(getattr(node, "key", None) or "")
        if TABS.fullmatch(key):
            tabs: Iterator[Any] = iter(node.children.values())
            return key, [tab.label for tab in tabs]
    return "", []


def open_tab(app: AppTest, label: str) -> AppTest:
    """Open a tab of the page; only the open one is computed."""
    key, labels = page_tabs(app)
    assert label in labels
    app.session_state[key] = label
    return app.run()


def keys_of_all_tabs(app: AppTest) -> set[str]:
    """`keys_on` with each tab of the page open."""
    found = keys_on(app)
    for label in page_tabs(app)[1][1:]:
        found |= keys_on(open_tab(app, label))
        assert not app.exception, label
    return found


def tables(app: AppTest, column: str) -> list[pd.DataFrame]:
    """The tables on the page that have a column of that name; AppTest keeps no keys of tables without selections."""
    return [table.value for table in app.dataframe if column in table.value.columns]


def add_job(run: Run, status: str, *, step: str = "", message: str = "", hint: str = "") -> str:
    """A job of `run` in the index, owned by this process; no worker knows of it."""
    assert run.index is not None
    job_id = record_job(run, "run", {"until": "evaluate"}, running=status != "queued")
    if status not in LIVE:
        run.index.finish(job_id, status, error={"step": step, "message": message, "hint": hint})
    return job_id
