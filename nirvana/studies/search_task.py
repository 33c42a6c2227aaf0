"""The task "tune": search for a recipe of a run's model; the trials are in the run's folder while it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.errors import RunError
from nirvana.runs.run import Run
from nirvana.runs.validation import check_rates
from nirvana.studies.search_space import CRITERIA, Space

if TYPE_CHECKING:
    from nirvana.progress import Reporter
    from nirvana.runs.model_cache import ModelCache

TUNE: dict[str, Any] = {
    "corpora": [],
    "sparsity": 0.2,
    "minutes": 10,
    "trials": 0,
    "criteria": list(CRITERIA),
    "seed": 0,
}
MOST_MINUTES, MOST_TRIALS = 7 * 24 * 60, 10_000


def tune_run(
    run: Run,
    *,
    models: ModelCache,
    reporter: Reporter,
    until: str,
    corpora: list[str],
    sparsity: float,
    minutes: float,
    trials: int,
    criteria: list[str],
    seed: int,
) -> dict[str, Any]:
    """Search around a run's recipe. A search that was stopped goes on where it was, one for something else anew.

    Args:
        minutes, trials: the budget; 0 for no limit of that kind.

    Returns:
        "trials", "failed": how many, and "best": the lowest KL, or None.
    """
    from nirvana.studies.search import tune

    reporter.step("tune", 1, 1)
    lm = models.dense(run.recipe.model, reporter.progress)
    found = tune(
        lm,
        corpora,
        sparsity,
        minutes=minutes or None,
        trials=trials or None,
        criteria=criteria,
        seed=seed,
        base=run.recipe,
        folder=run.folder,
        progress=reporter.progress,
        on_trial=getattr(reporter, "on_trial", None),
    )
    best = found.trials[0].kl if found.trials else None
    return {"trials": len(found.trials), "failed": len(found.failed), "best": best}


def check_tune(
    run: Run, until: str, *, corpora: Any, sparsity: Any, minutes: Any, trials: Any, criteria: Any, seed: Any
) -> None:
    """Refuse a search that cannot be.

    Raises:
        RunError: a value has the wrong type or is out of range.
        NirvanaError: the sparsity or a criterion makes no sense.
    """
    for name, values in (("corpora", corpora), ("criteria", criteria)):
        if not isinstance(values, list | tuple) or not all(isinstance(value, str) and value for value in values):
            raise RunError(f"{name} is a list of names, not {values!r}.", "Correct it.")
    for name, value, most in (
        ("minutes", minutes, MOST_MINUTES),
        ("trials", trials, MOST_TRIALS),
        ("seed", seed, 2**31),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise RunError(f"{name} lies between 0 and {most:,}, not at {value!r}.", "Correct it.")
    if not minutes and not trials:
        raise RunError("A search needs a limit.", "Give minutes or trials.")
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float):
        raise RunError(f"sparsity is a number, not {sparsity!r}.", "Correct it.")
    check_rates(sparsity, 1.0)
    Space(tuple(criteria), tuple(corpora), 1).check()
