"""The store: whole or absent, shared by processes, and not to be escaped from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirvana.allocation.allocate import allocate
from nirvana.calibration.kl import Divergence
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet, Candidate
from nirvana.errors import NirvanaError, RunError
from nirvana.evaluation.results import Measurement, Report
from nirvana.evaluation.speed_report import ModelSpeed, SpeedReport, Spread
from nirvana.files import read_json, write_bytes
from nirvana.layout import KV_GROUP, NEURON, Layout, Site, SiteLayout
from nirvana.recovery.history import RecoveryHistory
from nirvana.runs import folder as folder_module
from nirvana.runs import store as store_module
from nirvana.runs.identity import ID, new_id
from nirvana.runs.recipe import Recipe
from nirvana.runs.record import NAME_LENGTH
from nirvana.runs.results import Continuation, ModelCard, PruneSummary, ScoredText
from nirvana.runs.store import Run, Store, write_example
from nirvana.saliency.scores import Saliency
from tests.processes import call_in_process

SIZES = Report((Measurement("bytes", "dense int8", 120.0, protocol={"note": "int8"}),))
ONCE = Spread.of([1.0, 2.0])
SPEED = SpeedReport({"dense": ModelSpeed(ONCE, ONCE, ONCE, 9, False, 8, 7, 6, 5, "float32")}, 1, 8, 2, 2, "cpu", 1)

STEPS = Recipe().steps


def make_results(seed: int = 0) -> dict[str, Any]:
    """One result a step, of a model with two layers."""
    draw = np.random.default_rng(seed)
    sites: dict[Site, SiteLayout] = {}
    for layer in range(2):
        sites[Site("decoder", layer, "attention")] = SiteLayout(4, 64, KV_GROUP)
        sites[Site("decoder", layer, "mlp")] = SiteLayout(50, 24, NEURON)
    layout = Layout(sites, {"embeddings": 100}, "LlamaForCausalLM")
    scores = {site: draw.random(place.units, dtype=np.float32) for site, place in layout.items()}
    saliency = Saliency(scores, layout, "nirvana", "c" * 64, {"strategy": "micro-batches", "seconds": 1.5})
    plan = allocate(saliency, sparsity=0.3, multiple_of=1)
    sets = [CalibrationSet(draw.integers(0, 99, (2, 5)), source="text", seed=index) for index in range(2)]
    kl = [Divergence(draw.random((3, 4), dtype=np.float32)) for _ in sets]
    candidates = tuple(Candidate(one, two, 0.3) for one, two in zip(sets, kl, strict=True))
    probe = CalibrationSet(draw.integers(0, 99, (3, 4)))
    return {
        "model": ModelCard("tiny", "folder", "", "Llama", layout, {"layers": 2}, "a" * 64, "cpu", "float32", 1000),
        "calibration": CalibrationSelection(candidates, 1, probe, "nirvana", 0.3, float("inf")),
        "saliency": saliency,
        "allocation": plan,
        "prune": PruneSummary({"dense": 10, "pruned": 7}, {"dense": 40, "pruned": 28}, 0.1, "cpu", ["a note"]),
        "evaluate": Report((Measurement("perplexity", "dense", float("inf"), None, 3, {"corpus": "text"}),)),
    }


def fill(run: Run, *, until: str = STEPS[-1], seed: int = 0) -> None:
    results = make_results(seed)
    for step in STEPS[: STEPS.index(until) + 1]:
        run.put(step, results[step], seconds=0.5, device="cpu", dtype="float32")


def result_file(run: Run, step: str) -> Path:
    info = run.info(step)
    assert info is not None
    return run.folder / str(info["file"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def test_an_empty_home_has_no_runs_and_stays_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    assert store.runs() == [] and store.open("example").is_example
    assert not (tmp_path / "data").exists()


def test_results_come_back_as_they_were(store: Store) -> None:
    run = store.create(Recipe())
    assert run.status == "empty" and run.model() is None and run.report() is None and run.continuations() == []
    fill(run)
    run = Store(store.root).open(run.id)
    expected = make_results()
    assert run.model() == expected["model"] and run.pruned() == expected["prune"]
    assert run.report() == expected["evaluate"]
    calibration, saliency, plan = run.calibration(), run.saliency(), run.plan()
    assert isinstance(calibration, CalibrationSelection) and saliency is not None and plan is not None
    assert calibration.hash == expected["calibration"].hash and calibration.gamma == float("inf")
    assert saliency.hash == expected["saliency"].hash and saliency.layout == expected["saliency"].layout
    assert plan.to_json() == expected["allocation"].to_json()
    assert run.status == "done" and run.failure() is None
    info = run.info("saliency")
    assert info is not None and info["seconds"] == 0.5 and info["device"] == "cpu" and info["finished"] > 0
    assert info["versions"]["numpy"] == np.__version__ and info["cached"] is False


def test_a_single_calibration_set_comes_back_as_one(store: Store) -> None:
    run = store.create(Recipe())
    drawn = CalibrationSet([[1, 2], [3, 4]], source="text", seed=5, texts=["a", "b"])
    run.put("calibration", drawn)
    found = run.calibration()
    assert isinstance(found, CalibrationSet) and found.hash == drawn.hash and found.texts == ("a", "b")


def test_a_stored_plan_is_much_smaller_than_its_json(store: Store) -> None:
    run = store.create(Recipe())
    site = Site("decoder", 0, "mlp")
    layout = Layout({site: SiteLayout(20_000, 3, NEURON)})
    saliency = Saliency({site: np.arange(20_000, dtype=np.float32)}, layout, "random")
    plan = allocate(saliency, sparsity=0.5, gamma=float("inf"))
    run.put("allocation", plan)
    found = run.plan()
    assert found is not None and found.to_json() == plan.to_json()
    assert result_file(run, "allocation").stat().st_size < len(json.dumps(plan.to_json())) / 10


def test_states_follow_the_recipe(store: Store) -> None:
    recipe = Recipe()
    run = store.create(recipe)
    fill(run, until="allocation")
    assert [run.step_state(step) for step in STEPS] == ["done"] * 4 + ["missing"] * 2
    assert run.status == "partial"
    other = recipe.change("allocation", gamma=1.0)
    assert run.step_state("saliency", other) == "done" and run.step_state("allocation", other) == "stale"
    run = store.set_recipe(run.id, other)
    assert run.recipe == other and run.step_state("allocation") == "stale" and run.plan() is not None
    fill(run, until="allocation")
    assert run.step_state("allocation") == "done"


def test_a_copy_takes_what_still_holds(store: Store) -> None:
    parent = store.create(Recipe())
    fill(parent)
    parent.add_continuation(Continuation("Hello", False, 8, {"dense": "world", "pruned": "word"}))
    parent.attach("sizes", SIZES)
    changed = store.create(Recipe().change("allocation", sparsity=0.3), parent=parent)
    assert [changed.step_state(step) for step in STEPS] == ["done"] * 3 + ["missing"] * 3
    assert changed.continuations() == []
    assert changed.sizes() is None
    same = store.create(Recipe(), parent=parent)
    assert same.status == "done" and [item.texts["dense"] for item in same.continuations()] == ["world"]
    assert same.sizes() == parent.sizes() == SIZES
    before = result_file(parent, "saliency").read_bytes()
    fill(same, seed=1)
    assert result_file(parent, "saliency").read_bytes() == before, "the parent keeps everything"


def test_a_continuation_belongs_to_its_pruned_model(store: Store) -> None:
    run = store.create(Recipe())
    with pytest.raises(RunError, match="no pruned model"):
        run.add_continuation(Continuation("Hello", False, 8, {"dense": "a", "pruned": "b"}))
    fill(run)
    for text in ("first", "second"):
        run.add_continuation(Continuation("Hello", False, 8, {"dense": text, "pruned": text}))
    run.add_continuation(Continuation("Hello", True, 8, {"dense": "chat", "pruned": "chat"}))
    assert [item.texts["dense"] for item in run.continuations()] == ["second", "chat"]
    run = store.set_recipe(run.id, Recipe().change("allocation", sparsity=0.4))
    fill(run)
    assert run.continuations() == []


def test_what_the_recovered_model_wrote_and_weighs_belongs_to_its_recovery(store: Store) -> None:
    recipe = Recipe().change("recovery", method="lora", minutes=1.0)
    run = store.create(recipe)
    fill(run)
    written = Continuation("Hello", False, 8, {"dense": "a", "pruned": "b", "recovered": "c"})
    sizes = Report((*SIZES.measurements, Measurement("bytes", "recovered int8", 5)))
    with pytest.raises(RunError, match="no recover result"):
        run.add_continuation(written)
    run.add_continuation(Continuation("Hello", False, 8, {"dense": "a", "pruned": "b"}))
    run.put("recover", RecoveryHistory())
    run.add_continuation(written)
    run.attach("sizes", sizes)
    assert run.continuations() == [written], "it replaces the one without"
    assert store.create(recipe, parent=run).sizes() == sizes
    longer = store.create(recipe.change("recovery", minutes=2.0), parent=run)
    assert longer.step_state("prune") == "done" and longer.continuations() == [] and longer.sizes() is None


def test_speed_and_sizes_belong_to_their_pruned_model(store: Store) -> None:
    run = store.create(Recipe())
    assert run.speed() is None and run.sizes() is None
    with pytest.raises(RunError, match="no pruned model"):
        run.attach("sizes", SIZES)
    fill(run)
    run.attach("sizes", SIZES)
    run.attach("speed", SPEED)
    assert run.sizes() == SIZES and run.speed() == SPEED
    (run.folder / "speed.json").write_text('{"fingerprint": 3}', encoding="utf-8")
    assert run.speed() is None
    run = store.set_recipe(run.id, Recipe().change("allocation", sparsity=0.4))
    fill(run)
    assert run.sizes() is None


def test_continuations_keep_their_probabilities_and_older_ones_have_none(store: Store) -> None:
    run = store.create(Recipe())
    fill(run)
    scored = {
        name: ScoredText((" wo", "rld"), {"dense": (0.5, 0.123456), "pruned": (1.0, 1.23456e-7)})
        for name in ("dense", "pruned")
    }
    run.add_continuation(Continuation("Hello", False, 8, {"dense": " world", "pruned": " world"}, scored))
    kept = run.continuations()[0].scored["dense"]
    assert kept == ScoredText((" wo", "rld"), {"dense": (0.5, 0.123), "pruned": (1.0, 1.23e-07)})
    path = run.folder / "continuations.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    del records[0]["scored"]
    path.write_text(json.dumps(records), encoding="utf-8")
    assert [item.scored for item in run.continuations()] == [{}]


def test_a_new_pruned_model_drops_the_archive_of_the_last(store: Store) -> None:
    run = store.create(Recipe())
    fill(run)
    (run.folder / "model.zip").write_bytes(b"old")
    fill(run, until="allocation")
    assert (run.folder / "model.zip").exists()
    fill(run, until="prune")
    assert not (run.folder / "model.zip").exists()


def test_list_rename_pin_delete(store: Store) -> None:
    runs = [store.create(Recipe(), name=name) for name in ("one", "two", "three")]
    assert [run.name for run in store.runs()] == ["three", "two", "one"]
    assert [run.id for run in runs] == sorted(run.id for run in runs), "ids sort by age"
    store.pin(runs[0].id, True)
    store.rename(runs[1].id, "  Zwei\n\x07 2 ")
    assert [(run.name, run.pinned) for run in store.runs()] == [("one", True), ("three", False), ("Zwei 2", False)]
    fill(runs[2])
    size = sum(file.stat().st_size for file in runs[2].folder.iterdir())
    assert store.disk_use(runs[2].id) == size > 0
    store.delete(runs[2].id)
    assert not runs[2].folder.exists() and [run.name for run in store.runs()] == ["one", "Zwei 2"]
    assert {path.name for path in (store.root / "runs").iterdir()} == {run.id for run in runs[:2]}
    for name in ("", " \n", "x" * (NAME_LENGTH + 1)):
        with pytest.raises(RunError, match="name"):
            store.rename(runs[0].id, name)


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../../etc",
        "/etc",
        "%2e%2e",
        "example/",
        "x" * 12 + "\n",
        "x" * 12,
        "' OR 1 --",
        "１" * 12,
    ],
)
def test_ids_are_checked_before_they_name_a_folder(store: Store, run_id: str) -> None:
    kept = store.create(Recipe())
    outside = store.root / "precious"
    outside.mkdir()
    for call in (
        store.open,
        store.delete,
        store.disk_use,
        lambda run_id: store.rename(run_id, "name"),
        lambda run_id: store.pin(run_id, True),
        lambda run_id: store.set_recipe(run_id, Recipe()),
    ):
        with pytest.raises(RunError, match="no such run"):
            call(run_id)
    assert outside.is_dir() and [run.id for run in store.runs()] == [kept.id]


def test_new_ids_differ_and_sort() -> None:
    ids = [new_id() for _ in range(300)]
    assert len(set(ids)) == 300 and all(ID.fullmatch(one) for one in ids)
    assert ids == sorted(ids)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
@pytest.mark.parametrize("step", STEPS)
def test_a_damaged_result_counts_as_missing(store: Store, step: str, damage: bytes | None) -> None:
    run = store.create(Recipe())
    fill(run)
    path = result_file(run, step)
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert run.steps.read(step) is None
    assert run.step_state(step) == "missing" and run.status == "partial"
    assert store.runs()[0].id == run.id
    fill(run)
    assert run.status == "done"


def test_a_damaged_record_counts_as_missing(store: Store) -> None:
    run = store.create(Recipe())
    fill(run)
    (run.folder / "saliency.info.json").write_bytes(b"{")
    (run.folder / "plan.info.json").write_bytes(b"[]")
    (run.folder / "continuations.json").write_bytes(b"\xff")
    assert run.info("saliency") is None and run.saliency() is None and run.plan() is None
    assert run.continuations() == [] and run.status == "partial"


def test_a_vanished_folder_or_unreadable_recipe_leaves_the_list_alone(store: Store) -> None:
    runs = [store.create(Recipe(), name=name) for name in ("one", "two", "three")]
    fill(runs[0])
    for file in runs[0].folder.iterdir():
        file.unlink()
    runs[0].folder.rmdir()
    store.index.update("runs", runs[1].id, recipe='{"model": {"colour": "blue"}}')
    assert store.open(runs[1].id).recipe == Recipe(), "the folder has it too"
    (runs[1].folder / "run.json").unlink()
    assert [run.name for run in store.runs()] == ["three", "one"]
    assert store.runs()[1].status == "empty" and store.disk_use(runs[0].id) == 0
    with pytest.raises(RunError, match="recipe"):
        store.open(runs[1].id)
    for run in runs[:2]:
        store.delete(run.id)
    assert [run.name for run in store.runs()] == ["three"]


def test_the_hint_of_a_full_disk_names_a_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(NirvanaError, match="No space left") as caught:
        write_bytes(tmp_path / "new" / "deeper" / "result.json", b"{}")
    assert caught.value.hint.endswith(f"permissions of {tmp_path}.")


def test_a_full_disk_keeps_the_result_that_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = store.create(Recipe())
    fill(run)
    before = run.saliency()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(NirvanaError, match="No space left") as caught:
            fill(run, seed=1)
        assert "space" in caught.value.hint
    after = run.saliency()
    assert before is not None and after is not None and after.hash == before.hash
    assert run.status == "done" and not list(run.folder.glob(".*"))


def test_a_crash_between_result_and_record_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = store.create(Recipe())
    fill(run)
    before = run.saliency()
    with monkeypatch.context() as patched:
        patched.setattr("nirvana.runs.folder.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.put("saliency", make_results(1)["saliency"])
    after = run.saliency()
    assert before is not None and after is not None and after.hash == before.hash
    run.put("saliency", make_results(1)["saliency"])
    assert len(list(run.folder.glob("saliency-*"))) == 1, "earlier files are cleared away"


def test_a_failed_creation_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = store.create(Recipe())
    fill(parent)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NirvanaError, match="No space left"):
        store.create(Recipe(), parent=parent)
    assert [run.id for run in store.runs()] == [parent.id] == [path.name for path in (store.root / "runs").iterdir()]


def test_a_deleted_run_takes_no_results(store: Store) -> None:
    run = store.create(Recipe())
    store.delete(run.id)
    with pytest.raises(RunError, match="deleted"):
        fill(run)
    assert not run.folder.exists()


def test_the_example_is_read_only_and_can_be_a_parent(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store.create(Recipe(), name="Demo")
    fill(made)
    made.add_continuation(Continuation("Hello", False, 8, {"dense": "world", "pruned": "word"}))
    made.attach("speed", SPEED)
    folder = tmp_path / "packaged"
    write_example(made, folder)
    monkeypatch.setattr(store_module, "EXAMPLE_FOLDER", folder)
    example = store.open("example")
    assert example.name == "Demo" and example.status == "done" and example.failure() is None
    assert [item.texts["pruned"] for item in example.continuations()] == ["word"]
    assert example.speed() == SPEED and example.sizes() is None
    assert "example" not in {run.id for run in store.runs()}
    for change in (
        lambda: store.delete("example"),
        lambda: store.rename("example", "mine"),
        lambda: store.pin("example", True),
        lambda: store.set_recipe("example", Recipe()),
        lambda: fill(example),
    ):
        with pytest.raises(RunError, match="example"):
            change()
    assert store.create(example.recipe, parent=example).status == "done"


def test_a_missing_example_is_empty(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "EXAMPLE_FOLDER", tmp_path / "nowhere")
    example = store.open("example")
    assert example.is_example and example.status == "empty" and example.model() is None


@pytest.mark.parametrize("use", ["info", "saliency", "copy"])
def test_a_result_replaced_between_record_and_file_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    run, other = store.create(Recipe()), store.create(Recipe())
    run.put("saliency", make_results(0)["saliency"])
    newer = make_results(1)["saliency"]

    def read_and_replace(path: Path) -> Any:
        record = read_json(path)
        monkeypatch.setattr(folder_module, "read_json", read_json)
        run.put("saliency", newer)  # as another process may at this moment
        return record

    monkeypatch.setattr(folder_module, "read_json", read_and_replace)
    if use == "info":
        assert run.info("saliency") is not None
    elif use == "saliency":
        found = run.saliency()
        assert found is not None and found.hash == newer.hash
    else:
        other.steps.copy("saliency", run.steps)
        found = other.saliency()
        assert found is not None and found.hash == newer.hash


def write_often(root: str, run_id: str, worker: int) -> None:
    """One of several processes that write runs and results at once."""
    store = Store(Path(root))
    run = store.open(run_id)
    for turn in range(8):
        run.put("saliency", make_results(worker * 100 + turn)["saliency"])
        store.rename(run_id, f"{worker} {turn}")
        store.create(Recipe(), name=f"from {worker}")


def test_processes_share_a_store(store: Store) -> None:
    run = store.create(Recipe())
    run.put("saliency", make_results(0)["saliency"])
    writers = [call_in_process(write_often, str(store.root), run.id, index) for index in range(3)]
    seen = 0
    while any(writer.poll() is None for writer in writers) or not seen:
        saliency = run.saliency()
        assert saliency is not None, "a reader finds the earlier result or the new one, always whole"
        store.runs()
        seen += 1
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert len(store.runs()) == 1 + 3 * 8
    assert len(list(run.folder.glob("saliency-*"))) == 1


def test_the_record_names_the_run_in_strict_json(store: Store) -> None:
    run = store.create(Recipe().change("allocation", gamma=float("inf")))
    fill(run)
    assert store.open(run.id).recipe.allocation.gamma == float("inf")
    assert read_json(run.folder / "report.info.json")["fingerprint"] == run.recipe.fingerprint("evaluate")
