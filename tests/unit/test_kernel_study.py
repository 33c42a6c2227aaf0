"""The kernel study: its rows are those of single calls, it resumes, and its statistics are checked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

import nirvana as nv
from nirvana import cli
from nirvana.errors import Cancelled, RunError, SaliencyError
from nirvana.evaluation import tangent_kernel
from nirvana.evaluation.kernel_results import KernelShift
from nirvana.jobs.execute import check_task, execute
from nirvana.progress import Progress
from nirvana.reporting.kernel import bound_words, preservation_words
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from nirvana.studies.kernel_rows import KernelRow, KernelStudy, read_kernel
from nirvana.studies.sweep_grid import Point
from tests.reporter import Reporter

REQUEST = {"criteria": ["nirvana", "random"], "sparsities": [0.2, 0.4], "samples": 3, "length": 16}


@pytest.fixture
def run(small_recipe: Recipe) -> Run:
    return Store().create(small_recipe.change("allocation", gamma=1.0))


def test_rows_are_those_of_single_calls(run: Run) -> None:
    models = ModelCache()
    assert execute(run, "kernel", REQUEST, Reporter(), models) == {"points": 4, "failed": 0}
    found = read_kernel(run.folder)
    assert found is not None and found.criteria == ["nirvana", "random"] and found.sparsities == [0.2, 0.4]
    lm, text = models.dense(run.recipe.model), nv.load_corpus(run.recipe.calibration.corpus)
    calibration = nv.sample_calibration(lm, text, samples=4, length=32, seed=0)
    x = nv.sample_probe(lm, text, samples=3, length=16, seed=42)
    for row in found.rows:
        scores = nv.score(lm, calibration, criterion=row.point.criterion, seed=0)
        plan = nv.allocate(scores, sparsity=row.point.sparsity, gamma=1.0, multiple_of=4)
        assert row.shift is not None and row.shift.to_json() == nv.kernel_shift(lm, plan, x).to_json()
    assert KernelStudy.from_json(json.loads(json.dumps(found.to_json()))).to_json() == found.to_json()


def test_a_stopped_study_resumes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    measure = tangent_kernel.kernel_shift

    def counted(*arguments: object, **options: object) -> KernelShift:
        if len(made) == 3:
            made.append("stopped")
            raise Cancelled
        found = measure(*arguments, **options)  # type: ignore[arg-type]
        made.append("measured")
        return found

    monkeypatch.setattr(tangent_kernel, "kernel_shift", counted)
    with pytest.raises(Cancelled):
        execute(run, "kernel", REQUEST, Reporter())
    part = read_kernel(run.folder)
    assert part is not None and len(part.rows) == 3
    execute(run, "kernel", REQUEST, Reporter())
    assert made == ["measured"] * 3 + ["stopped", "measured"]
    wider = {**REQUEST, "sparsities": [0.2, 0.3, 0.4]}
    execute(run, "kernel", wider, Reporter())
    assert len(made) == 7, "the points of before are not measured again"
    execute(run, "kernel", {**wider, "samples": 2}, Reporter())
    last = read_kernel(run.folder)
    assert len(made) == 13 and last is not None
    assert {len(row.shift.dense) for row in last.rows if row.shift} == {2}, "other inputs, other rows"


def test_a_sparsity_out_of_reach_is_a_failed_row(run: Run) -> None:
    assert execute(run, "kernel", {**REQUEST, "sparsities": [0.2, 0.99]}, Reporter()) == {"points": 4, "failed": 2}
    found = read_kernel(run.folder)
    assert found is not None and len(found.rows) == 2 and all("99" in row.failure for row in found.failed)


def test_requests_that_cannot_be_met(run: Run) -> None:
    with pytest.raises(RunError, match="no criteria"):
        check_task(run, "kernel", {"criteria": []})
    with pytest.raises(SaliencyError, match="criteria"):
        check_task(run, "kernel", {"criteria": ["none"]})
    with pytest.raises(RunError, match="400"):
        check_task(run, "kernel", {"seeds": list(range(100))})
    assert read_kernel(run.folder) is None


def test_progress_covers_each_point(run: Run) -> None:
    reporter = Reporter()
    execute(run, "kernel", {**REQUEST, "sparsities": [0.2]}, reporter)
    stages = {progress.stage.split(":")[0] for progress in reporter.seen}
    assert any(stage.startswith("nirvana") for stage in stages) and any(stage.startswith("random") for stage in stages)
    assert all(isinstance(progress, Progress) and 0 <= progress.fraction <= 1 for progress in reporter.seen)


def study_of(changes: dict[str, list[list[float]]], eps: list[list[float]]) -> KernelStudy:
    """A study with given changes of the kernel, (plans, inputs) a criterion, and a dense kernel of 100."""
    rows = []
    for criterion, values in changes.items():
        for number, (change, saliency) in enumerate(zip(values, eps, strict=True)):
            dense, lost = np.full(len(change), 100.0), np.array(saliency) / 2
            pruned, point = dense + np.array(change), Point(0, criterion, "shared", (number + 1) / 10, "none", 1.0)
            shift = KernelShift(dense, pruned, lost, np.array(saliency), dense, pruned, {"sparsity": 0.1})
            rows.append(KernelRow(point, shift))
    return KernelStudy(tuple(rows))


def test_slope_exponent_and_rank_correlation() -> None:
    eps = [[1.0, 2.0, 4.0], [3.0, 5.0, 8.0]]
    quadratic = [[-(value**2) for value in values] for values in eps]
    study = study_of({"nirvana": quadratic, "random": [[-5.0, 2.0, 9.0], [1.0, 7.0, -3.0]]}, eps)
    found, flat = study.relation("shift", "nirvana"), np.array(eps).ravel()
    assert found.exponent == pytest.approx(2) and found.rank == pytest.approx(1) and found.pairs == 6
    assert found.slope == pytest.approx((flat**3).sum() / (flat**2).sum())
    assert found.largest == pytest.approx(8) and found.rank_within == pytest.approx(1)
    other, moved = study.relation("shift", "random"), np.array([5.0, 2, 9, 1, 7, 3])
    assert other.rank == pytest.approx(spearmanr(flat, moved).statistic)
    assert other.rank_within == pytest.approx((-1 + 1 - 1) / 3)
    assert study.relation("lost").slope == pytest.approx(0.5) and study.relation("lost").pairs == 12
    assert study.relation("remaining", "nirvana").largest == pytest.approx(8 - 0.5)
    with pytest.raises(KeyError):
        study.relation("shift", "taylor")
    nothing = study_of({"nirvana": [[0.0, 0.0]]}, [[0.0, 0.0]])
    assert math.isnan(nothing.relation().slope) and nothing.relation().pairs == 0


def test_which_criterion_preserves_the_kernel() -> None:
    near = [[-10.0, -11.0, -12.0]]
    study = study_of(
        {"nirvana": near, "taylor": [[5.0, 5.1, 5.2]], "random": [[-30.0, -33.0, -31.0]], "flap": [[9.0, 12.5, 11.0]]},
        [[1.0, 1.0, 1.0]],
    )
    (line,) = preservation_words(study)
    assert "more: random; less: taylor; not significantly differently: flap." in line and line.startswith("10 %")
    assert study.relative("nirvana", 0.1).value == pytest.approx(0.11)
    assert study.relative("nirvana", 0.1).error == pytest.approx(0.01 / math.sqrt(3))
    assert len(bound_words(study)) == 4


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = run.recipe
    words = ["kernel", "--model", recipe.model.name, "--device", "cpu", "--corpus", recipe.calibration.corpus]
    words += ["--samples", "4", "--length", "32", "--gamma", "1", "--multiple-of", "4"]
    words += ["--criterion", "nirvana", "--criterion", "random", "--sparsity", "0.3", "--sparsity", "0.4"]
    words += ["--inputs", "2", "--input-length", "16"]
    assert cli.main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["rows"]) == 4 and not data["failed"]
    assert cli.main(["kernel", "--run", data["run"]]) == 0
    shown = capsys.readouterr().out
    for words_shown in ("pruned saliency", "Spearman", "2 held-out windows of 16 tokens", "against nirvana"):
        assert words_shown in shown
