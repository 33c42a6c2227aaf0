"""The matrix of calibration text by evaluation text, computed through the caches of the steps, and its task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.errors import RunError
from nirvana.progress import ProgressCallback, within
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.validation import check_against_model, check_recipe
from nirvana.studies.matrix_rows import CalibrationMatrix, MatrixRow, append_row, read_matrix, write_matrix

if TYPE_CHECKING:
    from nirvana.models.lm import LM
    from nirvana.progress import Reporter
    from nirvana.runs.model_cache import ModelCache

MATRIX: dict[str, Any] = {"corpora": [], "mixture": True, "seeds": 1}
FEWEST, MOST, MOST_SEEDS = 2, 12, 16


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

    KL is measured on probes from each text's probe split, perplexity on its evaluation split; no split shares text
    with another. Results are kept by their inputs, as those of a run are, so the dense model is measured once.

    Args:
        corpora: names, paths or corpora, two or more.
        sparsity: of every model; like `criterion` and `compensation`, by default what `base` says.
        mixture: calibrate on equal shares of all texts as well.
        seeds: calibration sets of each text, whose results are averaged; the first has the seed of `base`.
        base: gives every other choice: sizes of samples, probes and windows, gamma, protected layers ...
        folder: keeps rows as they are finished; a matrix that was stopped goes on from it, and one that was asked for
            with other choices begins anew.
        models: holds the pruned models between rows.
        progress: over all rows; may raise `Cancelled`, and the rows so far are kept.
        on_row: called with each row that was computed, when it is finished.

    Raises:
        RunError: there are not 2 to 12 different texts, or the seeds are not from 1 to 16.
        CorpusError: a text is not to be had, or too short for its samples, probes or windows.
        NirvanaError: see `score`, `allocate`, `prune` and `perplexity`.
    """
    from nirvana.studies.matrix_cells import Cells

    recipe = (base or Recipe()).change("evaluation", zero_shot=())
    given = {"allocation": ("sparsity", sparsity), "saliency": ("criterion", criterion)}
    for section, (key, value) in {**given, "prune": ("compensation", compensation)}.items():
        recipe = recipe if value is None else recipe.change(section, **{key: value})
    names = [text.name if isinstance(text, Corpus) else fspath(text) for text in corpora]
    check_texts(names, mixture, seeds)
    check_recipe(recipe)
    cells = Cells(lm, dict(zip(names, corpora, strict=True)), recipe, mixture, models, progress)
    wanted = [(name, recipe.calibration.seed + number) for name in cells.rows for number in range(seeds)]
    matrix = CalibrationMatrix(tuple(names), (), (), cells.protocol)
    place = Path(folder) if folder is not None else None
    kept = read_matrix(place) if place is not None else None
    if kept is not None and kept.protocol == matrix.protocol and kept.texts == matrix.texts:
        matrix = kept
    else:
        dense = tuple(cells.dense(within(progress, "Dense model", 0, len(wanted) + 1)))
        matrix = CalibrationMatrix(matrix.texts, dense, (), matrix.protocol)
        if place is not None:
            write_matrix(place, matrix)
    rows = {(row.calibration, row.seed): row for row in matrix.rows}
    for number, (name, seed) in enumerate(wanted, start=1):
        if (name, seed) not in rows:
            start = time.perf_counter()
            row = cells.row(name, seed, within(progress, f"Calibrated on {name}", number, len(wanted) + 1))
            row = rows[name, seed] = replace(row, seconds=round(time.perf_counter() - start, 2))
            if place is not None:
                append_row(place, row)
            if on_row is not None:
                on_row(row)
    return CalibrationMatrix(matrix.texts, matrix.dense, tuple(rows[each] for each in wanted), matrix.protocol)


def check_texts(names: Sequence[str], mixture: Any = True, seeds: Any = 1) -> None:
    """Refuse what makes no matrix.

    Raises:
        RunError: naming what is wrong.
    """
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.strip() for name in names):
        raise RunError(f"Texts are a list of names, not {names!r}.", "Correct it.")
    if not FEWEST <= len(names) <= MOST:
        raise RunError(
            f"A matrix is of {FEWEST} to {MOST} texts, not {len(names)}.", "Name each text that the model should read."
        )
    for name in names:
        if names.count(name) > 1:
            raise RunError(f"{name} is named twice.", "Name each text once.")
    if not isinstance(mixture, bool):
        raise RunError("mixture is true or false.", "Correct it.")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise RunError(f"seeds is a whole number from 1 to {MOST_SEEDS}.", "Correct it.")


def matrix_task(
    run: Run, *, models: ModelCache, reporter: Reporter, until: str, corpora: list[str], mixture: bool, seeds: int
) -> dict[str, Any]:
    """The worker's task: the matrix with the choices of `run`, in its folder.

    Returns:
        "rows": how many there are.
    """
    reporter.step("matrix", 1, 1)
    lm = models.dense(run.recipe.model, reporter.progress)
    found = calibration_matrix(
        lm,
        corpora,
        mixture=mixture,
        seeds=seeds,
        base=run.recipe,
        folder=run.folder,
        models=models,
        progress=reporter.progress,
    )
    return {"rows": len(found.rows)}


def check_matrix(run: Run, until: str, *, corpora: Any, mixture: Any, seeds: Any) -> None:
    """Refuse a matrix that cannot be.

    Raises:
        RunError: the run is the example, or an argument makes no sense.
        NirvanaError: the run's recipe asks for what cannot be.
    """
    if run.is_example:
        raise RunError("The example run cannot be changed.", "Start a run of your own from it.")
    check_texts(corpora, mixture, seeds)
    check_recipe(run.recipe)
    card = run.model()
    if card is not None:
        check_against_model(run.recipe.change("evaluation", zero_shot=()), card)
