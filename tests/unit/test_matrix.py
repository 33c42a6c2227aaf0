"""The matrix of calibration text by evaluation text: its numbers are those of the single calls, and none is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import nirvana as nv
from nirvana import cli
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.errors import Cancelled, CorpusError, PlanError, RunError
from nirvana.evaluation.results import Measurement, pack_parts
from nirvana.jobs.execute import check_task, execute
from nirvana.progress import Progress
from nirvana.runs import measurements, planning
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.studies.matrix_rows import FILE, CalibrationMatrix, MatrixRow, read_matrix, used
from tests.conftest import english
from tests.reporter import Reporter

if TYPE_CHECKING:
    from nirvana.models.lm import LM

MEASURES = ["perplexity", "divergence"]
BASE = (
    Recipe()
    .change("calibration", samples=4, length=24, seed=5, probe_samples=6, probe_length=16)
    .change("saliency", criterion="taylor")
    .change("allocation", sparsity=0.3, gamma=2.0)
    .change("prune", samples=6, length=24)
    .change("evaluation", window=32, max_tokens=256)
)


def corpus(name: str, seed: int) -> Corpus:
    return Corpus.from_documents(english(40, seed=seed), name=name, kind="file")


@pytest.fixture
def texts(own_home: Path) -> list[Corpus]:
    return [corpus("one", 1), corpus("two", 2)]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The measurements and scores that were made, once they are finished."""
    made: list[str] = []

    def watch(name: str, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = wrapped(*arguments, **options)
            made.append(name)
            return result

        return call

    for module, names in ((planning, ["score", "dense_reference"]), (measurements, MEASURES)):
        for name in names:
            monkeypatch.setattr(module, name, watch(name, getattr(module, name)))
    return made


@pytest.mark.parametrize("compensation", ["none", "least_squares"])
def test_every_number_is_that_of_the_single_calls(tiny_lm: LM, texts: list[Corpus], compensation: str) -> None:
    found = nv.calibration_matrix(tiny_lm, texts, base=BASE, compensation=compensation)
    assert found.texts == ("one", "two") and found.calibrations == ["one", "two", "one + two"]
    for name, text in zip(found.calibrations, [*texts, nv.mix(texts)], strict=True):
        calibration = nv.sample_calibration(tiny_lm, text, samples=4, length=24, seed=5)
        plan = nv.allocate(nv.score(tiny_lm, calibration, criterion="taylor"), sparsity=0.3, gamma=2.0)
        options: dict[str, Any] = {}
        if compensation != "none":
            windows = nv.sample_calibration(tiny_lm, text, samples=6, length=24, seed=BASE.prune.seed)
            options = {"compensation": compensation, "statistics": nv.collect_statistics(tiny_lm, windows)}
        small = nv.prune(tiny_lm, plan, **options)
        row = next(row for row in found.rows if row.calibration == name)
        assert row.sparsity == plan.sparsity and row.calibration_hash == calibration.hash
        for column, read in enumerate(texts):
            probe = nv.sample_probe(tiny_lm, read, samples=6, length=16)
            expected = nv.divergence(tiny_lm, small, probe)
            kl = found.kl(name, read.name)
            assert kl.value == pytest.approx(expected.mean, rel=1e-5)
            assert kl.error == pytest.approx(expected.standard_error, rel=1e-4)
            pruned, dense = (nv.perplexity(model, read, window=32, max_tokens=256) for model in (small, tiny_lm))
            perplexity, ratio = found.perplexity(name, read.name), found.ratio(name, read.name)
            assert perplexity.value == pytest.approx(pruned.value, rel=1e-6)
            assert perplexity.error == pytest.approx(pruned.standard_error, rel=1e-4)
            assert found.dense[column].value == pytest.approx(dense.value, rel=1e-6)
            assert ratio.value == pytest.approx(pruned.value / dense.value, rel=1e-6)


def test_the_dense_model_is_measured_once(tiny_lm: LM, texts: list[Corpus], monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    nv.calibration_matrix(tiny_lm, texts, base=BASE, mixture=False)
    assert (made.count("score"), made.count("dense_reference")) == (2, 2)
    assert (made.count("perplexity"), made.count("divergence")) == (2 + 4, 4)


def test_what_was_stopped_goes_on_and_computes_nothing_twice(
    tiny_lm: LM, texts: list[Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)

    def stop(progress: Progress) -> None:
        if progress.stage.startswith("Calibrated on two"):
            raise Cancelled

    with pytest.raises(Cancelled):
        nv.calibration_matrix(tiny_lm, texts, base=BASE, folder=tmp_path, progress=stop)
    kept = read_matrix(tmp_path)
    assert kept is not None and [row.calibration for row in kept.rows] == ["one"] and kept.transfer() is None
    with (tmp_path / FILE).open("a") as file:
        file.write('{"calibration": "two", "seed')  # a program that was killed while it wrote
    finished: list[MatrixRow] = []
    found = nv.calibration_matrix(tiny_lm, texts, base=BASE, folder=tmp_path, on_row=finished.append)
    assert [row.calibration for row in finished] == ["two", "one + two"]
    assert (made.count("score"), made.count("perplexity"), made.count("divergence")) == (3, 2 + 6, 6)
    again = read_matrix(tmp_path)
    assert again is not None and again.to_json() == found.to_json()
    before = list(made)
    nv.calibration_matrix(tiny_lm, texts, base=BASE, folder=tmp_path)
    assert made == before
    nv.calibration_matrix(tiny_lm, texts, base=BASE)  # without the folder, everything comes from the cache
    assert made == before


def test_other_choices_begin_anew(tiny_lm: LM, texts: list[Corpus], tmp_path: Path) -> None:
    nv.calibration_matrix(tiny_lm, texts, base=BASE, mixture=False, folder=tmp_path)
    more = nv.calibration_matrix(tiny_lm, texts, base=BASE, seeds=2, mixture=False, folder=tmp_path)
    kept = read_matrix(tmp_path)
    assert kept is not None and len(kept.rows) == 4 and more.seeds("two") == [5, 6]
    both = [nv.calibration_matrix(tiny_lm, texts, base=BASE.change("calibration", seed=seed)) for seed in (5, 6)]
    expected = np.mean([each.kl("one", "two").value for each in both])
    assert more.kl("one", "two").value == pytest.approx(expected)
    nv.calibration_matrix(tiny_lm, texts, base=BASE, sparsity=0.2, mixture=False, folder=tmp_path)
    kept = read_matrix(tmp_path)
    assert kept is not None and len(kept.rows) == 2
    assert kept.protocol["recipe"]["allocation"]["sparsity"] == 0.2


def cell(parts: list[float]) -> Measurement:
    value, values = float(np.exp(np.mean(parts))), np.array(parts)
    return Measurement("perplexity", "pruned", value, None, len(parts), parts=pack_parts(values))


def test_what_is_lost_off_the_diagonal_by_hand() -> None:
    dense = (cell([1.0, 3.0]), cell([2.0, 2.0]))
    losses = {"a": ([1.5, 3.5], [2.75, 3.25]), "b": ([1.75, 3.75], [2.5, 3.0]), "a + b": ([1.5, 3.75], [2.5, 3.0])}
    rows = tuple(MatrixRow(name, 0, 0.2, (), (cell(first), cell(second))) for name, (first, second) in losses.items())
    matrix = CalibrationMatrix(("a", "b"), dense, rows)
    found = matrix.transfer()
    assert found is not None
    assert found.off.value == pytest.approx((0.25 + 0.25) / 2) and found.off.error == pytest.approx(0)
    assert found.own.value == pytest.approx((0.5 + 0.75) / 2)
    assert found.worst[:2] in (("a", "b"), ("b", "a")) and found.worst[2].value == pytest.approx(0.25)
    assert found.mixed is not None and found.mixed.value == pytest.approx((0.125 + 0) / 2)
    assert found.mixed.error == pytest.approx(math.sqrt(0.125**2) / 2)
    assert matrix.ratio("b", "a").value == pytest.approx(math.exp(0.75))
    assert matrix.calibrations == ["a", "b", "a + b"]
    assert CalibrationMatrix.from_json(json.loads(json.dumps(matrix.to_json()))) == matrix
    with pytest.raises(KeyError):
        matrix.kl("a", "c")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"corpora": [corpus("one", 1)]}, RunError, "2 to 12 texts, not 1"),
        ({"corpora": ["python-docs", "python-docs"]}, RunError, "named twice"),
        ({"seeds": 0}, RunError, "1 to 16"),
        ({"sparsity": 1.5}, PlanError, "parsity"),
        ({"corpora": ["python-docs", "missing.txt"]}, CorpusError, "missing.txt"),
        (
            {"corpora": [corpus("one", 1), Corpus.from_documents("abc", name="little", kind="file")]},
            CorpusError,
            "little",
        ),
    ],
)
def test_what_makes_no_matrix_is_refused(
    tiny_lm: LM, texts: list[Corpus], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        nv.calibration_matrix(tiny_lm, **{"corpora": texts, "base": BASE, **options})


def test_a_run_keeps_its_matrix(tiny_folder: Path, tmp_path: Path, own_home: Path) -> None:
    paths = []
    for name, seed in (("first", 1), ("second", 2)):
        path = tmp_path / f"{name}.txt"
        path.write_text("\n\n".join(english(60, seed=seed)), encoding="utf-8")
        paths.append(str(path))
    run = Store().create(BASE.change("model", name=str(tiny_folder), device="cpu"))
    result = execute(run, "matrix", {"corpora": paths}, Reporter())
    kept = read_matrix(run.folder)
    assert result == {"points": 4, "failed": 0} and kept is not None
    assert kept.texts == tuple(paths) and kept.calibrations[2] == "first.txt + second.txt"
    assert kept.protocol["recipe"] == used(run.recipe)
    with pytest.raises(RunError, match="example"):
        check_task(Store().open("example"), "matrix", {"corpora": paths})
    with pytest.raises(RunError, match="must be a list"):
        check_task(run, "matrix", {"corpora": "python-docs"})


def test_the_command_measures_shows_and_goes_on(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path, sample_text: Path, tmp_path: Path, own_home: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(english(60, seed=9)), encoding="utf-8")
    options = ["matrix", "--model", str(tiny_folder), "--device", "cpu", "--samples", "4", "--length", "24"]
    options += ["--probe-samples", "4", "--probe-length", "16", "--window", "32", "--max-tokens", "256"]
    options += ["--sparsity", "0.3", "--compensation", "bias", "--statistics-samples", "4", "--statistics-length", "24"]
    texts = ["--corpus", str(sample_text), "--corpus", str(other)]
    assert cli.main([*options, *texts, "--no-mixture", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["calibration"] for row in found["rows"]] == [str(sample_text), str(other)]
    assert found["protocol"]["recipe"]["prune"]["compensation"] == "bias"
    run = Store().open(found["run"])
    assert run.recipe.allocation.sparsity == 0.3 and run.status == "partial"
    assert cli.main(["matrix", "--run", run.id, "--mixture"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Perplexity over the dense model's, evaluated on" in shown and "uniform mixture of all" in shown
    assert "Calibrated on another text" in shown and str(tmp_path) not in shown
    kept = read_matrix(run.folder)
    assert kept is not None and len(kept.rows) == 3
    assert cli.main(["matrix", "--corpus", "python-docs"]) == cli.FAILED
    assert "2 to 12 texts" in capsys.readouterr().err


def test_the_command_line_calibrates_on_a_mixture(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path, sample_text: Path, tmp_path: Path, own_home: Path
) -> None:
    output = tmp_path / "set.npz"
    words = ["calibrate", "--model", str(tiny_folder), "--device", "cpu", "--samples", "4", "--length", "16"]
    words += ["--candidates", "1", "--output", str(output), "--json"]
    assert cli.main([*words, "--corpus", f"python-docs + {sample_text}"]) == 0
    assert json.loads(capsys.readouterr().out)["corpus"] == "python-docs + sample.txt"
    words += ["--probe-samples", "4", "--probe-length", "16"]
    assert cli.main([*words, "--corpus", "python-docs", "--or-corpus", str(sample_text), "--mixtures"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["corpus"] for each in found["candidates"]] == [
        "python-docs",
        "sample.txt",
        "python-docs + sample.txt",
    ]
    assert found["corpus"] == found["candidates"][found["winner"]]["corpus"]
    assert cli.main([*words, "--corpus", "python-docs + nowhere.txt"]) == cli.FAILED
    assert "nowhere.txt" in capsys.readouterr().err
