"""Runs from model to report on a tiny random model: what is computed, what is not computed again, what survives."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirvana.calibration.generation import generate_corpus
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.errors import (
    Cancelled,
    CheckpointError,
    CorpusError,
    ModelError,
    NirvanaError,
    PlanError,
    RunError,
    TaskError,
)
from nirvana.evaluation.zero_shot.results import comparisons
from nirvana.files import cache_folder
from nirvana.jobs.execute import check_task, execute
from nirvana.progress import Progress
from nirvana.runs import inputs, measurements, planning, step_cache
from nirvana.runs.model_cache import ModelCache, cache_fields
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.conftest import write_tiny_model
from tests.counting import count_calls
from tests.reporter import Reporter

STEPS = Recipe().steps


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    return small_recipe.change("calibration", candidates=2)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each expensive call is made by the pipeline."""
    measured = ("perplexity", "divergence", "continue_with")
    return count_calls(
        monkeypatch, {planning: ("score", "select_calibration", "sample_calibration"), measurements: measured}
    )


def states(run: Run) -> list[str]:
    return [run.step_state(step) for step in STEPS]


def test_a_whole_run(store: Store, recipe: Recipe, calls: Counter[str]) -> None:
    run = store.create(recipe)
    steps: list[tuple[str, int, int]] = []
    seen: list[Progress] = []
    compute_steps(run, progress=seen.append, on_step=lambda step, number, count: steps.append((step, number, count)))
    assert steps == [(step, number, 6) for number, step in enumerate(STEPS, start=1)]
    assert seen and all(0 <= item.fraction <= 1 for item in seen)
    assert states(run) == ["done"] * 6 and run.status == "done"
    card, plan, summary, selection, saliency = (
        run.model(), run.plan(), run.pruned(), run.calibration(), run.saliency()
    )  # fmt: skip
    assert card is not None and plan is not None and summary is not None and saliency is not None
    assert isinstance(selection, CalibrationSelection) and len(selection.candidates) == 2
    assert saliency.calibration_hash == selection.hash
    assert card.layout.parameters == summary.parameters["dense"] and card.has_chat_template
    assert plan.pruned_layout.parameters == summary.parameters["pruned"]
    assert abs(plan.sparsity - 0.3) < 4 * 96 / plan.layout.prunable
    assert calls["score"] == 0, "the winner was scored when it was chosen"
    for step in STEPS:
        info = run.info(step)
        assert info is not None and info["seconds"] >= 0 and info["finished"] > 0
        assert info["device"] == "cpu" and info["dtype"] == "float32" and info["versions"]["torch"]
    info = run.info("calibration")
    assert info is not None and info["weight_hash"] == card.hash and len(info["corpus_hash"]) == 64


def test_the_report_has_every_measurement_with_its_protocol(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    compute_steps(run)
    report = run.report()
    assert report is not None
    found = Counter((item.metric, item.subject) for item in report.measurements)
    both = ("perplexity", "bits per byte", "parameters", "bytes")
    assert found == Counter(
        [(metric, side) for metric in both for side in ("dense", "pruned")] + [("KL divergence", "pruned")]
    )
    for side in ("dense", "pruned"):
        perplexity, bits = report.find("perplexity", side), report.find("bits per byte", side)
        assert perplexity is not None and bits is not None and perplexity.standard_error and bits.standard_error
        protocol, windows = perplexity.protocol, perplexity.n
        assert windows and protocol["window"] == 64 and protocol["tokens"] == windows * 63
        assert protocol["split"] == "evaluation" and protocol["corpus"]
        assert len(protocol["corpus_hash"]) == 64 and protocol["dtype"] == "float32" and protocol["device"] == "cpu"
        nats = np.log(perplexity.value)
        assert perplexity.standard_error / perplexity.value / nats == pytest.approx(bits.standard_error / bits.value)
    kl = report.find("KL divergence", "pruned")
    assert kl is not None and kl.value > 0 and kl.n == 6 and kl.protocol["tokens"] == 96
    assert [(item.prompt, item.chat) for item in run.continuations()] == [(measurements.PROMPT, False)]


def test_until_stops_and_the_rest_follows(store: Store, recipe: Recipe, calls: Counter[str]) -> None:
    run = store.create(recipe)
    compute_steps(run, until="saliency")
    assert states(run) == ["done"] * 3 + ["missing"] * 3
    files = {step: run.info(step) for step in STEPS[:3]}
    compute_steps(run)
    assert states(run) == ["done"] * 6
    assert {step: run.info(step) for step in STEPS[:3]} == files, "what is current is left alone"
    before = calls.copy()
    compute_steps(run)
    assert calls == before


def test_replanning_scores_nothing_and_measures_the_dense_model_once(
    store: Store, recipe: Recipe, calls: Counter[str]
) -> None:
    run = store.create(recipe)
    models = ModelCache()
    compute_steps(run, models=models)
    assert (calls["perplexity"], calls["divergence"], calls["select_calibration"]) == (2, 1, 1)
    other = recipe.change("allocation", sparsity=0.4)
    copy = store.create(other, parent=run)
    compute_steps(copy, models=models)
    assert (calls["score"], calls["select_calibration"]) == (0, 1)
    assert (calls["perplexity"], calls["divergence"]) == (3, 2)
    first, second = run.plan(), copy.plan()
    assert first is not None and second is not None and first.removed < second.removed


def test_a_new_run_with_the_same_inputs_computes_nothing(store: Store, recipe: Recipe, calls: Counter[str]) -> None:
    first = store.create(recipe)
    compute_steps(first)
    before = calls.copy()
    second = store.create(recipe)
    compute_steps(second)
    changed = calls - before
    assert set(changed) <= {"continue_with"}
    saliency, again = first.saliency(), second.saliency()
    assert saliency is not None and again is not None and saliency.hash == again.hash
    assert first.report() == second.report()
    info = second.info("saliency")
    assert info is not None and info["cached"] is True and info["seconds"] is not None


def test_the_cache_goes_by_weights_not_names(
    store: Store, recipe: Recipe, calls: Counter[str], tiny_folder: Path, tmp_path: Path
) -> None:
    compute_steps(store.create(recipe), until="saliency")
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_folder, moved)
    compute_steps(store.create(recipe.change("model", name=str(moved))), until="saliency")
    assert calls["select_calibration"] == 1
    other = write_tiny_model(tmp_path / "other", seed=5)
    compute_steps(store.create(recipe.change("model", name=str(other))), until="saliency")
    assert calls["select_calibration"] == 2


def test_weights_that_changed_on_disk_start_the_run_anew(store: Store, recipe: Recipe, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    run = store.create(recipe.change("model", name=str(folder)))
    models = ModelCache()
    compute_steps(run, until="saliency", models=models)
    before, card = run.saliency(), run.model()
    write_tiny_model(folder, seed=9)
    compute_steps(run, until="prune", models=models)
    after, new = run.saliency(), run.model()
    assert card is not None and new is not None and card.hash != new.hash
    assert before is not None and after is not None and before.hash != after.hash


def test_another_candidate_or_a_single_one(store: Store, recipe: Recipe, calls: Counter[str]) -> None:
    run = store.create(recipe.change("calibration", candidates=1))
    compute_steps(run)
    assert isinstance(run.calibration(), CalibrationSet)
    assert calls["select_calibration"] == 0 and calls["sample_calibration"] == 1 and calls["score"] == 1
    report = run.report()
    assert report is not None and report.find("KL divergence", "pruned") is not None
    again = store.create(recipe.change("calibration", candidates=1))
    compute_steps(again, until="saliency")
    assert calls["score"] == 1


def test_criteria_differ_and_random_depends_on_no_text(store: Store, recipe: Recipe) -> None:
    base = recipe.change("calibration", candidates=1)
    hashes = set()
    for criterion in ("nirvana", "magnitude", "random"):
        run = store.create(base.change("saliency", criterion=criterion))
        compute_steps(run, until="allocation")
        saliency = run.saliency()
        assert saliency is not None and saliency.criterion == criterion
        hashes.add(saliency.hash)
    assert len(hashes) == 3


def test_self_generated_text(store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "generate_corpus", lambda lm, **named: generate_corpus(lm, tokens=4000, **named))
    own = recipe.change("calibration", corpus="self-generated", candidates=1)
    run = store.create(own.change("evaluation", corpora=("self-generated",), window=32))
    compute_steps(run)
    chosen, report = run.calibration(), run.report()
    assert isinstance(chosen, CalibrationSet) and chosen.source == "self-generated"
    assert report is not None and report.find("perplexity", "dense", corpus="self-generated") is not None


@pytest.mark.parametrize(
    ("section", "values", "error"),
    [
        ("allocation", {"sparsity": 0.99}, PlanError),
        ("allocation", {"protected": (99,)}, PlanError),
        ("evaluation", {"window": 1024}, RunError),
        ("evaluation", {"corpora": ("no such corpus",)}, CorpusError),
        ("calibration", {"length": 600}, RunError),
        ("model", {"name": "/no/such/folder"}, ModelError),
        ("model", {"device": "abacus"}, ModelError),
    ],
)
def test_what_must_fail_fails_before_anything_expensive(
    store: Store, recipe: Recipe, calls: Counter[str], section: str, values: dict[str, Any], error: type[NirvanaError]
) -> None:
    run = store.create(recipe.change(section, **values))
    with pytest.raises(error) as caught:
        compute_steps(run)
    assert caught.value.hint and calls.total() == 0


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [("calibration", "corpus", "probe text .* too few"), ("evaluation", "corpora", "less than one window of 64")],
)
def test_text_that_is_too_short_for_a_later_step_is_refused_at_the_first(
    store: Store, recipe: Recipe, calls: Counter[str], tmp_path: Path, section: str, name: str, message: str
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("\n\n".join(f"Some {word} words." for word in ("first", "more", "last")))
    value = (str(short),) if name == "corpora" else str(short)
    run = store.create(recipe.change(section, **{name: value}))
    with pytest.raises(CorpusError, match=message):
        compute_steps(run)
    assert calls.total() == 0


def test_an_unknown_step_is_refused(store: Store, recipe: Recipe) -> None:
    with pytest.raises(RunError, match="no step"):
        compute_steps(store.create(recipe), until="tune")


@pytest.mark.parametrize("stop_at", ["calibration", "saliency", "evaluate"])
def test_cancelling_keeps_the_steps_before_and_writes_nothing_of_this_one(
    store: Store, recipe: Recipe, stop_at: str
) -> None:
    run = store.create(recipe.change("saliency", criterion="magnitude"))
    at: list[str] = []

    def stop(progress: Progress) -> None:
        if at[-1] == stop_at:
            raise Cancelled

    with pytest.raises(Cancelled):
        compute_steps(run, progress=stop, on_step=lambda step, number, steps: at.append(step))
    done = STEPS.index(stop_at)
    assert states(run) == ["done"] * done + ["missing"] * (6 - done)
    assert not list(run.folder.glob(".*"))
    compute_steps(run)
    assert run.status == "done"


def test_a_damaged_cache_is_computed_again(store: Store, recipe: Recipe, calls: Counter[str]) -> None:
    compute_steps(store.create(recipe))
    for file in (cache_folder() / "steps").iterdir():
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    before = calls.copy()
    run = store.create(recipe)
    compute_steps(run)
    assert run.status == "done" and calls["select_calibration"] == 2 and calls["perplexity"] == 2 * before["perplexity"]


def test_a_cache_that_cannot_be_written_is_no_failure(
    store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise NirvanaError("Could not write.", "Free some space.")

    monkeypatch.setattr(step_cache, "write_bytes", full)
    run = store.create(recipe)
    compute_steps(run)
    assert run.status == "done"


def test_the_cache_forgets_what_was_not_used_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(step_cache, "LIMIT", 2500)
    for index in range(3):
        step_cache.write_cached(f"saliency-{index}", bytes(1000))
        os.utime(cache_folder() / "steps" / f"saliency-{index}", (index, index))
    assert step_cache.read_cached("saliency-1") is not None  # used now
    step_cache.write_cached("saliency-3", bytes(1000))
    found = [index for index in range(4) if step_cache.read_cached(f"saliency-{index}") is not None]
    assert found == [1, 3]


def test_a_damaged_result_is_made_again_by_the_next_run(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    compute_steps(run)
    for file in run.folder.glob("saliency-*"):
        file.write_bytes(b"")
    assert run.saliency() is None and states(run)[2] == "missing"
    compute_steps(run)
    assert run.status == "done" and run.saliency() is not None


@pytest.mark.parametrize("format", ["checkpoint", "uniform"])
def test_export_writes_an_archive_that_loads_again(store: Store, recipe: Recipe, tmp_path: Path, format: str) -> None:
    import torch

    from nirvana.models.loading import load_model

    run = store.create(recipe)
    models = ModelCache()
    compute_steps(run, until="prune", models=models)
    reporter = Reporter()
    result = execute(run, "export", {"format": format}, reporter, models)
    path = Path(result["path"])
    assert result["format"] == format and result["checks"]
    assert path.parent == run.folder and path.stat().st_size == result["bytes"]
    assert not list(run.folder.glob(".*"))
    fractions = [item.fraction for item in reporter.seen]
    assert fractions[-1] == 1 and min(fractions) >= 0
    shutil.unpack_archive(path, tmp_path / "unpacked")
    (folder,) = (tmp_path / "unpacked").iterdir()
    again = load_model(str(folder), device="cpu")
    assert again.is_pruned is (format == "checkpoint")
    assert str(tmp_path) not in (folder / "README.md").read_text(encoding="utf-8"), "paths of this machine"
    plan = run.plan()
    assert plan is not None
    small = models.pruned(models.dense(recipe.model), plan)
    tokens = torch.arange(20)[None] % 200
    with torch.no_grad():
        found, expected = again.weights()(tokens).logits, small.weights()(tokens).logits
    assert torch.equal(found, expected) if format == "checkpoint" else torch.allclose(found, expected, atol=1e-5)


def test_a_format_that_the_model_cannot_be_written_in_is_not_queued(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    compute_steps(run, until="prune")
    summary = run.pruned()
    assert summary is not None and list(summary.refused) == ["gguf"]
    with pytest.raises(CheckpointError, match="reads single bytes, without merged pairs"):
        check_task(run, "export", {"format": "gguf"})
    with pytest.raises(CheckpointError, match="checkpoint, uniform, gguf"):
        check_task(run, "export", {"format": "onnx"})
    assert check_task(run, "export", {}).to_json() == {"format": "checkpoint", "subject": "final", "dtype": "auto"}


def test_a_cancelled_export_leaves_nothing(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    models = ModelCache()
    compute_steps(run, until="prune", models=models)
    before = sorted(run.folder.rglob("*"))

    class Stop(Reporter):
        def progress(self, progress: Progress) -> None:
            if "Packing" in progress.stage:
                raise Cancelled

    with pytest.raises(Cancelled):
        execute(run, "export", {}, Stop(), models)
    assert sorted(run.folder.rglob("*")) == before


def test_continuations_by_both_models(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    models = ModelCache()
    compute_steps(run, until="prune", models=models)
    asked = {"prompt": "The river", "max_new_tokens": 5}
    plain, chat = (execute(run, "continue", asked | {"chat": chat}, Reporter(), models) for chat in (False, True))
    assert [item.to_json() for item in run.continuations()] == [plain, chat]
    assert plain["chat"] is False and list(plain["texts"]) == ["dense", "pruned"]


def test_models_stay_in_memory_and_go_when_asked(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    run = store.create(recipe)
    models = ModelCache()
    compute_steps(run, until="prune", models=models)
    dense, plan = models.dense(recipe.model), run.plan()
    assert plan is not None
    assert models.dense(recipe.model) is dense
    small = models.pruned(dense, plan)
    assert models.pruned(dense, plan) is small
    assert [item["bytes"] for item in models.resident()] == [dense.weight_bytes, small.weight_bytes]
    models.clear()
    assert models.resident() == [] and dense.model is None and small.model is None
    assert cache_fields(models.dense(recipe.model))["weights"] == dense.hash


def test_results_on_disk_hold_no_code_and_no_paths_of_others(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    compute_steps(run)
    for file in run.folder.iterdir():
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                assert all(arrays[name].dtype != object for name in arrays.files)
        else:
            json.loads(file.read_text(encoding="utf-8"))


def test_zero_shot_tasks_are_measured_once_per_model(
    store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirvana.evaluation.zero_shot import harness

    asked: list[tuple[bool, str]] = []
    original = harness.zero_shot

    def counted(lm: Any, name: str, **named: Any) -> Any:
        asked.append((lm.is_pruned, name))
        return original(lm, name, **named)

    monkeypatch.setattr(harness, "zero_shot", counted)
    recipe = recipe.change("evaluation", corpora=(), zero_shot=("minimal-pairs",), zero_shot_items=4)
    seen: list[Progress] = []
    run = store.create(recipe)
    compute_steps(run, progress=seen.append)
    assert any(item.stage == "minimal-pairs, pruned: Zero-shot" for item in seen)
    report = run.report()
    assert report is not None
    found = {item.task: item for item in comparisons(report)}
    assert len(found) == 13 and found["minimal-pairs"].difference() is not None
    measured = report.find("accuracy", "dense", task="minimal-pairs")
    assert measured is not None and measured.n == 48 and measured.standard_error
    assert measured.protocol["harness"].startswith("lm-eval") and measured.protocol["device"] == "cpu"
    compute_steps(store.create(recipe.change("allocation", sparsity=0.2)))
    compute_steps(store.create(recipe.change("allocation", sparsity=0.2).change("calibration", probe_samples=5)))
    assert asked == [(False, "minimal-pairs"), (True, "minimal-pairs"), (True, "minimal-pairs")]


def test_zero_shot_tasks_that_cannot_be_asked_are_refused_before_the_work(store: Store, recipe: Recipe) -> None:
    for changes, error, message in (
        ({"zero_shot": ("mnli",)}, TaskError, "mnli"),
        ({"zero_shot": ("minimal-pairs",), "zero_shot_items": -1}, RunError, "zero_shot_items"),
    ):
        with pytest.raises(error, match=message):
            compute_steps(store.create(recipe.change("evaluation", **changes)))
