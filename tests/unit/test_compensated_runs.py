"""Compensation in runs: statistics are collected once, tasks make the same model again, and say what was done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nirvana.checkpoints.card import checkpoint_card
from nirvana.cli import main
from nirvana.compensation.statistics import collect_statistics
from nirvana.errors import CompensationError, CorpusError, NirvanaError, RunError
from nirvana.files import cache_folder
from nirvana.jobs.execute import execute
from nirvana.models.loading import load_model
from nirvana.progress import Progress
from nirvana.runs import compensation
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import PruneSummary
from nirvana.runs.store import Store
from nirvana.runs.workspace import Workspace
from tests.conftest import english
from tests.families import test_t5 as makers
from tests.reporter import Reporter

ASKED = {"prompt": "The river", "max_new_tokens": 3}


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.txt"
    path.write_text("\n\n".join(english(60)), encoding="utf-8")
    return path


@pytest.fixture
def recipe(small_recipe: Recipe, text: Path) -> Recipe:
    own = small_recipe.change("calibration", corpus=str(text)).change("evaluation", corpora=(str(text),))
    return own.change("prune", compensation="least_squares", samples=8, length=48)


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether second moments were asked for, of each collection that was made."""
    calls: list[bool] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(named["second_moments"])
        return collect_statistics(*arguments, **named)

    monkeypatch.setattr(compensation, "collect_statistics", counted)
    return calls


def summary_of(run: Any) -> PruneSummary:
    summary: PruneSummary | None = run.pruned()
    assert summary is not None
    return summary


def test_a_run_says_what_it_was_compensated_with(store: Store, recipe: Recipe, collected: list[bool]) -> None:
    run, seen = store.create(recipe), list[Progress]()
    compute_steps(run, progress=seen.append)
    summary = summary_of(run)
    record = summary.compensation
    assert (record["method"], record["tokens"], record["cached"]) == ("least_squares", {"decoder": 8 * 48}, False)
    assert record["regularisation"] > 0 and record["seconds"] > 0
    assert [(each["source"], each["seed"], each["samples"]) for each in record["sets"]] == [("calibration.txt", 1, 8)]
    assert PruneSummary.from_json(summary.to_json()) == summary
    assert any("Collecting statistics" in item.stage for item in seen)
    assert any("Compensating" in item.stage for item in seen)
    assert collected == [True], "the comparison takes the model that pruning made"


def test_statistics_are_kept_for_other_plans_and_runs(store: Store, recipe: Recipe, collected: list[bool]) -> None:
    compute_steps(store.create(recipe), until="prune")
    other = store.create(recipe.change("allocation", sparsity=0.4))
    compute_steps(other, until="prune")
    assert collected == [True] and summary_of(other).compensation["cached"] is True
    (kept,) = (cache_folder() / "statistics").iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    compute_steps(store.create(recipe), until="prune")
    assert collected == [True, True], "damaged ones are collected again"
    compute_steps(store.create(recipe.change("prune", seed=2)), until="prune")
    assert len(collected) == 3
    compute_steps(store.create(recipe.change("prune", compensation="bias")), until="prune")
    assert collected[3:] == [False], "a bias needs means only"


def test_statistics_that_are_too_large_for_a_file_are_collected_again(
    store: Store, recipe: Recipe, collected: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensation, "FILE_BYTES", 1000)
    for _ in range(2):
        compute_steps(store.create(recipe), until="prune")
    assert collected == [True, True]


def test_the_compensation_makes_the_run_another(store: Store, recipe: Recipe) -> None:
    values = {}
    for method in ("none", "bias", "least_squares"):
        run = store.create(recipe.change("prune", compensation=method))
        compute_steps(run)
        report = run.report()
        assert report is not None
        kl = report.find("KL divergence", "pruned")
        assert kl is not None
        values[method] = kl.value
        assert summary_of(run).compensation.get("method", "none") == method
    assert len(set(values.values())) == 3


def test_a_task_makes_the_same_model_again(store: Store, recipe: Recipe, collected: list[bool], tmp_path: Path) -> None:
    run, models = store.create(recipe), ModelCache()
    compute_steps(run, until="prune", models=models)
    small = Workspace.of(run, models=models).pruned()
    result = execute(run, "export", {}, Reporter())
    shutil.unpack_archive(result["path"], tmp_path / "unpacked")
    (folder,) = (tmp_path / "unpacked").iterdir()
    again, tokens = load_model(folder, device="cpu"), torch.arange(20)[None] % 200
    with torch.no_grad():
        assert torch.equal(again.weights()(tokens).logits, small.weights()(tokens).logits)
    assert [record["method"] for record in again.compensations] == ["least_squares"]
    assert "fitted by least squares" in (folder / "README.md").read_text(encoding="utf-8")
    execute(run, "continue", ASKED, Reporter())
    assert collected == [True]


def test_text_that_changed_since_is_noticed(store: Store, recipe: Recipe, text: Path) -> None:
    run = store.create(recipe)
    compute_steps(run, until="prune")
    text.write_text("\n\n".join(english(60, seed=1)), encoding="utf-8")
    with pytest.raises(RunError, match="calibration text of the compensation has changed"):
        execute(run, "continue", ASKED, Reporter())


def test_a_run_whose_recipe_went_on_exports_nothing_else(store: Store, recipe: Recipe) -> None:
    run = store.create(recipe)
    compute_steps(run, until="prune")
    changed = store.set_recipe(run.id, recipe.change("prune", compensation="none"))
    with pytest.raises(RunError, match="compensated in another way"):
        execute(changed, "export", {}, Reporter())


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            {"compensation": "hope"},
            CompensationError,
            "one of none, bias, least_squares, not 'hope'",
        ),
        ({"samples": 0}, RunError, r"prune\.samples"),
        ({"length": 1}, RunError, r"prune\.length"),
        ({"length": 600}, RunError, r"prune\.length is 600, and .* has 512 positions"),
        ({"seed": -1}, RunError, r"prune\.seed"),
        ({"samples": 60_000, "length": 256}, CorpusError, "too few for 60000"),
    ],
)
def test_what_must_fail_fails_before_units_are_scored(
    store: Store, recipe: Recipe, values: dict[str, Any], error: type[NirvanaError], message: str
) -> None:
    with pytest.raises(error, match=message):
        compute_steps(store.create(recipe.change("prune", **values)))
    assert all(run.step_state("saliency") == "missing" for run in store.runs())


def test_memory_is_checked_at_the_first_step(store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from nirvana.compensation import statistics

    monkeypatch.setattr(statistics, "available_memory", lambda device: 1000)
    with pytest.raises(CompensationError, match="39,936 bytes"):
        compute_steps(store.create(recipe))
    compute_steps(store.create(recipe.change("prune", compensation="bias")), until="prune")


def test_the_command_line_compensates(
    recipe: Recipe, text: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_folder), "--device", "cpu"]
    saliency, plan, output = (str(tmp_path / name) for name in ("saliency.npz", "plan.json", "pruned"))
    assert main(["score", *model, "--criterion", "magnitude", "--output", saliency]) == 0
    assert main(["allocate", "--saliency", saliency, "--sparsity", "0.3", "--output", plan]) == 0
    drawn = ["--statistics-samples", "5", "--statistics-length", "40", "--corpus", str(text)]
    assert main(["prune", *model, "--plan", plan, "--compensation", "bias", *drawn, "--output", output]) == 0
    lm = load_model(output, device="cpu")
    assert lm.compensations[0]["tokens"] == {"decoder": 200}
    assert main(["prune", *model, "--plan", plan, "--compensation", "luck", "--output", output]) == 2
    assert "not 'luck'" in capsys.readouterr().err


def test_an_encoder_decoder_counts_both_sides(tmp_path: Path, recipe: Recipe, store: Store) -> None:
    makers.T5Tests.write(tmp_path / "t5")
    run = store.create(recipe.change("model", name=str(tmp_path / "t5")))
    compute_steps(run, until="prune")
    record = summary_of(run).compensation
    assert record["sets"][0]["task"] == "span corruption"
    assert set(record["tokens"]) == {"encoder", "decoder"}
    assert 0 < record["tokens"]["decoder"] < record["tokens"]["encoder"]


def test_a_card_names_every_compensation(tiny_folder: Path, recipe: Recipe, store: Store) -> None:
    run, models = store.create(recipe.change("prune", compensation="bias")), ModelCache()
    compute_steps(run, until="prune", models=models)
    card = checkpoint_card(Workspace.of(run, models=models).pruned())
    assert "became a bias of each output projection (384 tokens, calibration.txt)" in card
