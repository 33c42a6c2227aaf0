"""Calibration matrix: calibration text by evaluation text, computed through the caches of the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.errors import RunError
from nirvana.progress import ProgressCallback
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.validation import check_against_model, check_recipe
from nirvana.schema import Many, Schema, option
from nirvana.studies.journal import Journal
from nirvana.studies.matrix_rows import DENSE, FILE, CalibrationMatrix, MatrixRow, assemble
from nirvana.studies.points import measure_points
from nirvana.studies.session import Session
from nirvana.studies.study import Study

if TYPE_CHECKING:
    from nirvana.models.lm import LM
    from nirvana.runs.model_cache import ModelCache

FEWEST, MOST = 2, 12
Point = tuple[str, int]  # calibration text, seed; DENSE is the model before pruning


class MatrixRequest(Schema):
    """The texts of both axes."""

    corpora: Many[str] = option((), "--corpus", "text for calibration and measurement; two or more")
    mixture: bool = option(True, "--mixture", "also calibrate on a uniform mixture of all texts")
    seeds: int = option(1, "--seeds", "calibration sets of each text, whose results are averaged", ge=1, le=16)

    def check(self) -> None:
        """Validate the texts.

        Raises:
            RunError: there are not 2 to 12, or one has no name or is named twice.
        """
        if not FEWEST <= len(self.corpora) <= MOST:
            raise RunError(
                f"A matrix has {FEWEST} to {MOST} texts, not {len(self.corpora)}.",
                "Name each text to calibrate and measure on.",
            )
        for name in self.corpora:
            if not name.strip():
                raise RunError("A text has no name.", "Correct it.")
            if self.corpora.count(name) > 1:
                raise RunError(f"{name} is named twice.", "Name each text once.")


class Matrix(Study[MatrixRequest]):
    """Calibration text by evaluation text."""

    name, title, file, request = "matrix", "Calibration matrix", FILE, MatrixRequest

    def check(self, run: Run, request: MatrixRequest) -> None:
        super().check(run, request)
        request.check()
        recipe = run.recipe.change("evaluation", zero_shot=())
        check_recipe(recipe)
        card = run.model()
        if card is not None:
            check_against_model(recipe, card)

    def open(self, run: Run, request: MatrixRequest, models: ModelCache, progress: ProgressCallback | None) -> _Session:
        lm = models.dense(run.recipe.model, progress)
        return _Session(lm, {name: name for name in request.corpora}, request, run.recipe, models, progress)


def calibration_matrix(
    lm: LM,
    corpora: Sequence[str | PathLike[str] | Corpus],
    *,
    sparsity: float | None = None,
    criterion: str | None = None,
    compensation: str | None = None,
    mixture: bool = True,
    seeds: int = 1,
    base: Recipe | None = None,
    folder: str | PathLike[str] | None = None,
    models: ModelCache | None = None,
    progress: ProgressCallback | None = None,
    on_row: Callable[[MatrixRow], None] | None = None,
) -> CalibrationMatrix:
    """Prune with a calibration set from each text, and measure each model on every text.

    KL is measured on probes from each text's probe split, perplexity on its evaluation split; no split shares text with
    another. Results are cached by their inputs, so the dense model is measured once.

    Args:
        corpora: names, paths or corpora, two or more.
        sparsity: of every model; like `criterion` and `compensation`, by default that of `base`.
        mixture: also calibrate on a uniform mixture of all texts.
        seeds: calibration sets of each text, whose results are averaged; the first has the seed of `base`.
        base: recipe with all other choices: samples, probes, windows, gamma, protected layers ...
        folder: stores finished rows; a stopped matrix resumes with the first missing row.
        models: holds the pruned models between rows.
        progress: over all rows; may raise `Cancelled`, and the rows so far are kept.
        on_row: called with each computed row.

    Raises:
        RunError: not 2 to 12 different texts, or not 1 to 16 seeds.
        CorpusError: a text is not found, or too short for its samples, probes or windows.
        NirvanaError: see `score`, `allocate`, `prune` and `perplexity`.
    """
    recipe = base or Recipe()
    given = {"allocation": ("sparsity", sparsity), "saliency": ("criterion", criterion)}
    for section, (key, value) in {**given, "prune": ("compensation", compensation)}.items():
        recipe = recipe if value is None else recipe.change(section, **{key: value})
    names = [text.name if isinstance(text, Corpus) else fspath(text) for text in corpora]
    request = MatrixRequest(corpora=tuple(names), mixture=mixture, seeds=seeds)
    request.check()
    check_recipe(recipe.change("evaluation", zero_shot=()))
    session = _Session(lm, dict(zip(names, corpora, strict=True)), request, recipe, models, progress)
    rows = measure_points(
        session,
        Journal(Path(folder) / FILE) if folder is not None else None,
        request=request.to_json(),
        progress=progress,
        on_row=on_row,
    )
    wanted = set(session.points)
    return assemble(session.settings, [row for row in rows if row.point in wanted])


class _Session(Session[Point, MatrixRow]):
    """The dense model, then each text with each seed."""

    def __init__(
        self,
        lm: LM,
        texts: Mapping[str, str | PathLike[str] | Corpus],
        request: MatrixRequest,
        recipe: Recipe,
        models: ModelCache | None,
        progress: ProgressCallback | None,
    ) -> None:
        from nirvana.studies.matrix_cells import Cells

        self.cells = Cells(lm, texts, recipe.change("evaluation", zero_shot=()), request.mixture, models, progress)
        first = recipe.calibration.seed
        self.points: list[Point] = [DENSE]
        self.points += [(name, first + number) for name in self.cells.rows for number in range(request.seeds)]
        self.settings = {"texts": list(texts), "protocol": self.cells.protocol}
        self._tried: set[Point] = set()

    def read(self, data: dict[str, Any]) -> MatrixRow:
        return MatrixRow.from_json(data)

    def next(self, rows: Sequence[MatrixRow]) -> Point | None:
        done = {row.point for row in rows if not row.failure} | self._tried
        return next((point for point in self.points if point not in done), None)

    def place(self, point: Point, rows: Sequence[MatrixRow]) -> tuple[str, int, int]:
        label = "Dense model" if point == DENSE else f"Calibrated on {point[0]}"
        return label, self.points.index(point) + 1, len(self.points)

    def measure(self, point: Point, progress: ProgressCallback | None) -> MatrixRow:
        self._tried.add(point)
        if point == DENSE:
            return MatrixRow(*DENSE, 0.0, (), tuple(self.cells.dense(progress)))
        return self.cells.row(*point, progress)

    def failed(self, point: Point, failure: str) -> MatrixRow:
        return MatrixRow(*point, 0.0, (), (), failure=failure)

    def release(self) -> None:
        self.cells.release()
