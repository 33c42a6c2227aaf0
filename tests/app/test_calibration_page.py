"""The Calibration page: choices, the winner in words, texts, and what it says where there is nothing or no choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from nirvana.ui import state

Start = Callable[..., AppTest]


def open_page(start: Start, run: Run | None = None) -> AppTest:
    app = start(run).run()
    app.switch_page("pages/calibration.py").run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Everything that the page says in running text."""
    return "\n".join(str(part.value) for part in [*app.markdown, *app.caption, *app.warning, *app.error, *app.info])


def draft(app: AppTest) -> Recipe:
    recipe = app.session_state[state.DRAFT]
    assert isinstance(recipe, Recipe)
    return recipe


def test_the_winner_is_named_with_its_numbers(start: Start, filled: Run) -> None:
    selection = filled.calibration()
    assert isinstance(selection, CalibrationSelection)
    text = words(open_page(start, filled))
    values = selection.calibration, selection.candidates[selection.winner].divergence
    assert f"**Set {selection.winner + 1} wins**" in text
    assert f"{values[1].mean:.2f} ± {values[1].standard_error:.2f} nats over 6 probe samples" in text
    assert "Which candidate set prunes best?" in text and "Is the winner better than chance?" in text
    assert "smollm2-135m (4-bit origin)" in text and values[0].source_hash[:8] in text


def test_a_run_without_results_says_what_will_be_here(start: Start, store: Store) -> None:
    app = open_page(start, store.create(Recipe()))
    assert "Nothing to show yet" in words(app)
    button = app.button(key="calibration.run")
    assert not button.disabled and button.label == "Draw and try 4 sets"


def test_a_choice_goes_to_the_draft_and_marks_the_result_stale(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    assert app.button(key="calibration.run").disabled
    app.number_input(key="calibration.candidates").set_value(6).run()
    app.selectbox(key="calibration.corpus").set_value("library-docs").run()
    app.slider(key="calibration.trial_sparsity").set_value(0.35).run()
    assert not app.exception
    choice = draft(app).calibration
    assert (choice.candidates, choice.corpus, choice.trial_sparsity) == (6, "library-docs", 0.35)
    assert "belongs to earlier choices" in words(app)
    assert app.button(key="calibration.run").label == "Draw and try 6 sets"
    app.number_input(key="calibration.candidates").set_value(1).run()
    assert app.button(key="calibration.run").label == "Draw the set"


def test_choices_survive_a_visit_to_another_page(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    app.number_input(key="calibration.samples").set_value(16).run()
    app.switch_page("pages/saliency.py").run()
    app.switch_page("pages/calibration.py").run()
    assert app.number_input(key="calibration.samples").value == 16
    assert draft(app).calibration.samples == 16


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_sample_of_any_set_can_be_read(start: Start, filled: Run, number: int) -> None:
    selection = filled.calibration()
    assert isinstance(selection, CalibrationSelection)
    app = open_page(start, filled)
    app.selectbox(key="calibration.set").set_value(number - 1).run()
    app.number_input(key="calibration.sample").set_value(3).run()
    assert selection.candidates[number - 1].calibration.texts[2] in [code.value for code in app.code]


def test_the_hardest_probe_comes_first(start: Start, filled: Run) -> None:
    selection = filled.calibration()
    assert isinstance(selection, CalibrationSelection)
    hardest = int(np.argmax(selection.candidates[selection.winner].divergence.per_sample))
    app = open_page(start, filled)
    assert selection.probe.texts[hardest] in [code.value for code in app.code]
    assert f"Where do predictions part on probe {hardest + 1}?" in words(app)


def test_one_set_has_token_statistics_instead(start: Start, store: Store) -> None:
    run = store.create(Recipe().change("calibration", candidates=1))
    ids = np.random.default_rng(0).integers(0, 300, (3, 8))
    run.put_calibration(CalibrationSet(ids, source="python-docs", source_hash="ab" * 32, seed=5))
    app = open_page(start, run)
    assert "nothing was compared" in words(app) and "How varied are the tokens?" in words(app)
    assert "Which candidate set prunes best?" not in words(app)
    assert " ".join(map(str, ids[0])) in [code.value for code in app.code]
    assert "these are token ids" in words(app)


def test_text_is_shown_letter_by_letter(start: Start, store: Store) -> None:
    run = store.create(Recipe().change("calibration", candidates=1))
    hostile = "<script>alert(1)</script> **bold** $x$"
    run.put_calibration(CalibrationSet([[1, 2]], source="<b>*evil*</b>", texts=[hostile]))
    app = open_page(start, run)
    assert hostile in [code.value for code in app.code]
    assert not any("<b>*evil*" in str(part.value) for part in [*app.markdown, *app.caption])


def test_pasted_text_becomes_a_corpus(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    app.text_area(key="calibration.paste").set_value("\n\n".join(f"Paragraph {n} of my own." * 9 for n in range(25)))
    app.text_input(key="calibration.paste_name").set_value("../my notes")
    app.button(key="calibration.use_paste").click().run()
    assert not app.exception and not app.error
    assert draft(app).calibration.corpus == "upload:my notes.txt"


@pytest.mark.parametrize(
    ("path", "problem"),
    [("", "Type one first"), ("no/such/file.txt", "cannot be read"), ("a b c", "neither a text file nor a data set")],
)
def test_a_wrong_source_is_refused_and_the_choice_stays(start: Start, filled: Run, path: str, problem: str) -> None:
    app = open_page(start, filled)
    app.text_input(key="calibration.path").set_value(path)
    app.button(key="calibration.use_path").click().run()
    assert problem in words(app) and len(app.error) == 1
    assert draft(app).calibration.corpus == "python-docs"
    app.run()
    assert not app.error


def test_a_data_set_of_the_hub_can_be_named(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    app.text_input(key="calibration.path").set_value(" owner/name:config ")
    app.button(key="calibration.use_path").click().run()
    assert draft(app).calibration.corpus == "owner/name:config"


def test_a_public_demo_offers_installed_texts_only(start: Start, filled: Run, monkeypatch: Any) -> None:
    monkeypatch.setenv("NIRVANA_PUBLIC_DEMO", "1")
    app = open_page(start, filled)
    assert not [widget for widget in [*app.text_input, *app.text_area] if widget.key.startswith("calibration.")]
    assert len(app.selectbox(key="calibration.corpus").options) == 4
