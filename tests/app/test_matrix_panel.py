"""Calibration text against evaluation text on the Calibration page, and a mixture, computed by the real worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.calibration.sets import CalibrationSelection
from nirvana.runs.recipe import CalibrationChoice, EvaluationChoice, Recipe
from nirvana.runs.store import Run, Store
from nirvana.studies.matrix_rows import CalibrationMatrix, read_matrix
from tests.app.conftest import open_tab, tables
from tests.app.test_calibration_page import draft, open_page, words
from tests.app.test_journey import wait
from tests.conftest import english
from tests.journals import write_matrix

Start = Callable[..., AppTest]
RUN, TEXTS = "calibration.matrix.run", "calibration.matrix.texts"


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    found = []
    for name, seed in (("first", 1), ("second", 2)):
        path = tmp_path / f"{name}.txt"
        path.write_text("\n\n".join(english(60, seed=seed)), encoding="utf-8")
        found.append(str(path))
    return found


@pytest.fixture
def small(tiny_folder: Path, paths: list[str]) -> Recipe:
    """A recipe that takes a tiny model seconds, and names two texts."""
    return Recipe(
        calibration=CalibrationChoice(
            corpus=paths[0], candidates=1, samples=4, length=24, probe_samples=4, probe_length=16
        ),
        evaluation=EvaluationChoice(corpora=(paths[1],), window=32, max_tokens=256),
    ).change("model", name=str(tiny_folder), device="cpu")


def test_a_run_without_a_matrix_says_what_will_be_there(start: Start, filled: Run) -> None:
    app = open_tab(open_page(start, filled), "Transfer")
    assert "Does the choice transfer to other text?" in words(app)
    assert "No measurements yet" in words(app) and "Prunes 3 models with" in words(app)
    assert not app.button(key=RUN).disabled
    app.multiselect(key=TEXTS).set_value(["python-docs"]).run()
    assert "2 to 12 texts" in words(app) and app.button(key=RUN).disabled
    app.multiselect(key=TEXTS).set_value([]).run()
    assert not app.error and app.button(key=RUN).disabled


@pytest.mark.usefixtures("worker_here")
def test_from_a_mixture_to_the_matrix(start: Start, store: Store, small: Recipe, paths: list[str]) -> None:
    app = open_page(start, store.create(small))
    app.text_input(key="calibration.path").set_value(paths[1])
    app.button(key="calibration.add_path").click().run()
    assert draft(app).calibration.texts == (" + ".join(paths),)
    app.button(key="calibration.run").click().run()
    assert wait(app).status == "done", app.error
    chosen = store.open(app.query_params["run"]).calibration()
    assert chosen is not None and not isinstance(chosen, CalibrationSelection)
    assert chosen.source == "first.txt + second.txt"

    open_tab(app, "Transfer")
    assert app.multiselect(key=TEXTS).value == paths
    app.button(key=RUN).click().run()
    assert wait(app).status == "done", app.error
    found = read_matrix(store.open(app.query_params["run"]).folder)
    assert found is not None and found.calibrations == [*paths, "first.txt + second.txt"]
    text = words(app)
    assert "How many times the dense perplexity on each text?" in text
    assert "Calibrated on another text, the pruned model's perplexity is" in text and "first.txt (file)" in text
    assert app.button(key=RUN).disabled and app.button(key=RUN).label == "The matrix is current"

    app.number_input(key="calibration.matrix.seeds").set_value(2).run()
    assert app.button(key=RUN).label == "Continue" and "Prunes 3 models more" in words(app)
    app.number_input(key="calibration.samples").set_value(5).run()
    assert "What follows belongs to earlier choices" in words(app)
    assert app.button(key=RUN).label == "Measure"


def test_a_matrix_that_was_stopped_shows_what_there_is(
    start: Start, store: Store, small: Recipe, paths: list[str]
) -> None:
    import nirvana as nv

    run = store.create(small)
    lm = nv.load_model(small.model.name, device="cpu")
    nv.calibration_matrix(lm, paths, base=small, folder=run.folder)
    whole = read_matrix(run.folder)
    assert whole is not None
    (run.folder / "matrix.jsonl").unlink()
    write_matrix(run.folder, CalibrationMatrix(whole.texts, whole.dense, whole.rows[:1], whole.protocol))
    app = open_page(start, run)
    assert "This needs the rows of two texts." in words(app)
    assert app.button(key=RUN).label == "Continue" and "Prunes 2 models more" in words(app)
    assert not tables(app, "calibrated on")
    (run.folder / "matrix.jsonl").write_text("{", encoding="utf-8")
    app.run()
    assert not app.exception and "No measurements yet" in words(app)


def test_a_public_demo_measures_installed_texts_only(
    start: Start, filled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIRVANA_PUBLIC_DEMO", "1")
    app = open_tab(open_page(start, filled), "Transfer")
    assert len(app.multiselect(key=TEXTS).options) == 4
