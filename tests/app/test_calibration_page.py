"""The Calibration page: choices, the winner in words, texts, and what it says where there is nothing or no choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from nirvana.calibration.corpora.files import save_upload
from nirvana.calibration.kl import Divergence
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet, Candidate
from nirvana.dashboard import state
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import fill, keys_on, open_tab
from tests.conftest import english

Start = Callable[..., AppTest]


def open_page(start: Start, run: Run | None = None) -> AppTest:
    app = start(run)
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
    app = open_tab(open_page(start, filled), "Samples")
    app.selectbox(key="calibration.set").set_value(number - 1).run()
    app.number_input(key="calibration.sample").set_value(3).run()
    assert selection.candidates[number - 1].calibration.texts[2] in [code.value for code in app.code]


def test_the_hardest_probe_comes_first(start: Start, filled: Run) -> None:
    selection = filled.calibration()
    assert isinstance(selection, CalibrationSelection)
    hardest = int(np.argmax(selection.candidates[selection.winner].divergence.per_sample))
    app = open_tab(open_page(start, filled), "Probes")
    assert selection.probe.texts[hardest] in [code.value for code in app.code]
    assert f"At which positions of probe {hardest + 1} do predictions differ?" in words(app)


def test_one_set_has_token_statistics_instead(start: Start, store: Store) -> None:
    run = store.create(Recipe().change("calibration", candidates=1))
    ids = np.random.default_rng(0).integers(0, 300, (3, 8))
    run.put("calibration", CalibrationSet(ids, source="python-docs", source_hash="ab" * 32, seed=5))
    app = open_page(start, run)
    assert "calibration.tokens" in keys_on(app) and "How varied are the tokens?" in words(app)
    assert "Which candidate set prunes best?" not in words(app)
    assert " ".join(map(str, ids[0])) in [code.value for code in app.code]
    assert "these are token ids" in words(app)


def test_text_is_shown_letter_by_letter(start: Start, store: Store) -> None:
    run = store.create(Recipe().change("calibration", candidates=1))
    hostile = "<script>alert(1)</script> **bold** $x$"
    run.put("calibration", CalibrationSet([[1, 2]], source="<b>*evil*</b>", texts=[hostile]))
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


def test_several_texts_are_mixed_or_chosen_from(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    assert not [widget for widget in app.toggle if widget.key == "calibration.mixtures"]
    app.multiselect(key="calibration.more").set_value(["library-docs", "stdlib-code"]).run()
    assert not app.exception
    choice = draft(app).calibration
    assert choice.texts == ("python-docs + library-docs + stdlib-code",) and choice.trials == 4
    app.segmented_control(key="calibration.together").set_value("choose").run()
    app.toggle(key="calibration.mixtures").set_value(True).run()
    choice = draft(app).calibration
    assert choice.texts == ("python-docs", "library-docs", "stdlib-code") and choice.mixtures
    assert app.button(key="calibration.run").label == "Draw and try 28 sets"
    app.switch_page("pages/saliency.py").run()
    app.switch_page("pages/calibration.py").run()
    assert app.multiselect(key="calibration.more").value == ["library-docs", "stdlib-code"]
    assert draft(app).calibration == choice
    app.selectbox(key="calibration.corpus").set_value("library-docs").run()  # which is no longer one of the others
    assert draft(app).calibration.texts == ("library-docs", "stdlib-code")


def test_a_run_with_a_mixture_shows_its_parts(start: Start, store: Store) -> None:
    run = store.create(Recipe().change("calibration", corpus="stdlib-code + python-docs"))
    app = open_page(start, run)
    assert app.selectbox(key="calibration.corpus").value == "stdlib-code"
    assert app.multiselect(key="calibration.more").value == ["python-docs"]
    assert draft(app) == run.recipe


def test_a_text_of_ones_own_joins_the_others(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    app.text_area(key="calibration.paste").set_value("\n\n".join(f"Paragraph {n} of my own." * 9 for n in range(25)))
    app.button(key="calibration.add_paste").click().run()
    assert not app.exception and not app.error
    assert draft(app).calibration.corpus == "python-docs + upload:pasted.txt"


def test_many_uploads_are_mixed(start: Start, filled: Run) -> None:
    names = [
        save_upload(f"notes of the meeting about everything {number}", "\n\n".join(english(60, seed=number)))
        for number in range(6)
    ]
    app = open_page(start, filled)
    app.multiselect(key="calibration.more").set_value(names).run()
    assert not app.exception and not app.error
    corpus = draft(app).calibration.corpus
    assert corpus == " + ".join(["python-docs", *names]) and len(corpus) > 255  # more than a file's name can have


def test_trials_take_over_the_runs_own_allocation(start: Start, store: Store) -> None:
    recipe = Recipe().change("saliency", criterion="wanda-sp")
    recipe = recipe.change("allocation", sparsity=0.4, gamma=4.0, method="published", protected=(1,))
    run = store.create(recipe)
    fill(run)
    app = open_page(start, run)
    app.button(key="calibration.trial_own").click().run()
    assert not app.exception
    choice = draft(app).calibration
    assert (choice.trial_criterion, choice.trial_sparsity, choice.trial_gamma) == ("wanda-sp", 0.4, 4.0)
    assert (choice.trial_method, choice.trial_protected) == ("published", (1,))


def test_candidates_of_several_texts_are_named_by_text_and_seed(start: Start, store: Store) -> None:
    run = store.create(Recipe().change("calibration", alternatives=("stdlib-code",), candidates=2))
    run.put("calibration", of_two_texts())
    text = words(open_page(start, run))
    assert "Which text prunes best?" in text
    assert "**Set 3 wins**, drawn from stdlib-code" in text
    assert "Set 3 (stdlib-code, seed 0), with a mean KL of" in text


def of_two_texts() -> CalibrationSelection:
    draw, tried = np.random.default_rng(0), []
    for level, source, seed in ((0.5, "python-docs", 0), (0.6, "python-docs", 1), (0.2, "stdlib-code", 0),
                                (0.3, "stdlib-code", 1)):  # fmt: skip
        drawn = CalibrationSet(draw.integers(0, 300, (4, 16)), source=source, source_hash=source, seed=seed)
        tried.append(Candidate(drawn, Divergence((level + draw.random((6, 16)) / 10).astype(np.float32)), 0.2))
    return CalibrationSelection(tuple(tried), 2, tried[0].calibration, "nirvana", 0.2, 3.36)
