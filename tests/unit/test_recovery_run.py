"""The step "recover" of a run: its results, its weights on disk, and what an interruption keeps."""

from __future__ import annotations

from collections import Counter

import pytest

from nirvana.errors import Cancelled, RecoveryError, RunError
from nirvana.progress import Progress
from nirvana.recovery.history import RecoveryHistory
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import STEPS, Recipe
from nirvana.runs.recovery import course, interrupted
from nirvana.runs.store import Run, Store
from nirvana.runs.workspace import Workspace

pytestmark = pytest.mark.usefixtures("library_texts")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    sizes = {"minutes": 0.0, "tokens": 6 * 4 * 32, "batch": 4, "length": 32, "warmup": 2, "checks": 3}
    return small_recipe.change("recovery", method="distill", learning_rate=1e-3, autocast="never", **sizes)


def finished(run: Run) -> RecoveryHistory:
    history = run.recovery()
    assert history is not None
    return history


def weights(run: Run) -> str:
    """Hash of the recovered weights as they are stored."""
    return Workspace.of(run, models=ModelCache()).recovered().hash


def test_a_run_ends_in_the_recovered_model(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    compute_steps(run)
    assert [run.step_state(step) for step in STEPS] == ["done"] * 7 and run.status == "done"
    history, report = finished(run), run.report()
    assert [check.step for check in history.checks] == [0, 2, 4, 6] and history.checks[0].tokens == 0
    assert set(history.dense) == set(history.checks[0].perplexity) and min(history.dense.values()) > 1
    assert report is not None
    subjects = Counter(item.subject for item in report.measurements if item.metric == "KL divergence")
    assert subjects == {"pruned": 1, "recovered": 1}
    pruned, recovered = (report.find("KL divergence", subject) for subject in ("pruned", "recovered"))
    assert pruned and recovered and recovered.value < pruned.value
    info = run.info("recover")
    assert info is not None and info["weight_hash"] == weights(run), "read back from the folder, bit for bit"
    assert course(run) is None and not list(run.folder.glob("recovering*")), "nothing of the interrupted state is left"


def test_it_is_off_by_default(store: Store, recipe: Recipe) -> None:
    off = recipe.change("recovery", method="none")
    assert "recover" not in off.steps and off.up_to("evaluate")[-2:] == ("prune", "evaluate")
    changed = off.change("recovery", minutes=7.0)
    assert changed.fingerprint("evaluate") == off.fingerprint("evaluate"), "what is off determines nothing"
    assert recipe.fingerprint("evaluate") != off.fingerprint("evaluate")
    assert recipe.fingerprint("prune") == off.fingerprint("prune")


def test_an_interrupted_recovery_continues_and_ends_the_same(store: Store, recipe: Recipe) -> None:
    whole, stopped = store.create(recipe), store.create(recipe)
    compute_steps(whole, until="recover")

    def stop(progress: Progress) -> None:
        if progress.stage == "Recovering" and progress.done > progress.total / 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        compute_steps(stopped, until="recover", progress=stop)
    assert stopped.step_state("prune") == "done" and stopped.step_state("recover") == "missing"
    seen = course(stopped)
    assert seen is not None and seen.checks, "a page shows what there is"
    saved = interrupted(stopped, recipe)
    assert saved is not None and saved.steps[-1].step == 4, "where it continues"
    assert interrupted(stopped, recipe.change("recovery", batch=3)) is None
    assert interrupted(whole, recipe) is None
    compute_steps(stopped, until="recover")
    assert weights(stopped) == weights(whole)
    assert [step.loss for step in finished(stopped).steps] == [step.loss for step in finished(whole).steps]


def test_a_copy_with_another_evaluation_keeps_the_weights(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    compute_steps(run)
    copy = store.create(recipe.change("evaluation", window=32), parent=run)
    assert copy.step_state("recover") == "done" and weights(copy) == weights(run)
    store.delete(run.id)
    assert weights(copy), "the copy's weights are its own"


def test_weights_that_are_missing_or_changed_are_named(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    compute_steps(run, until="recover")
    file = next(run.folder.glob("recovered-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="changed"):
        weights(run)
    file.write_bytes(content[:100])
    with pytest.raises(RecoveryError, match="cannot be read"):
        weights(run)
    file.unlink()
    with pytest.raises(RunError, match="not stored"):
        weights(run)
    copy = store.create(recipe, parent=run)
    assert copy.step_state("prune") == "done" and copy.step_state("recover") == "missing"
    compute_steps(run)
    assert run.status == "done" and weights(run), "trained again, since the evaluation needs the weights"


def test_a_new_recovery_measures_again(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    compute_steps(run)
    first = run.info("evaluate")
    run.steps.path.joinpath("recovery.info.json").unlink()
    compute_steps(run)
    second = run.info("evaluate")
    assert first is not None and second is not None and second["finished"] > first["finished"]


def test_a_recipe_without_a_budget_is_refused(store: Store, recipe: Recipe) -> None:
    with pytest.raises(RecoveryError, match="budget"):
        compute_steps(store.create(recipe.change("recovery", tokens=0)))
