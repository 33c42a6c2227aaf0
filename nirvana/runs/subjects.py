"""The two models of a run, for the tasks that need both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirvana.errors import RunError
from nirvana.progress import ProgressCallback
from nirvana.runs.run import Run

if TYPE_CHECKING:
    from nirvana.models.lm import LM
    from nirvana.runs.models import Models


def both_models(run: Run, models: Models, progress: ProgressCallback | None) -> tuple[LM, LM]:
    """The dense model and the pruned one that the run holds, made again where they are not in memory.

    Raises:
        RunError: there is no pruned model yet, or the model's files have changed.
    """
    plan, card = run.plan(), run.model()
    if plan is None or card is None:
        raise RunError("There is no pruned model yet.", "Prune first.")
    lm = models.dense(run.recipe.model, progress)
    if lm.hash != card.hash:
        raise RunError("The model's files have changed since the plan was made.", "Start a new run.")
    from nirvana.runs.compensated import check_same_compensation, pruned_model

    small, _ = pruned_model(run.recipe, models, lm, plan, chosen=run.calibration(), progress=progress)
    check_same_compensation(run.pruned(), lm, small)
    return lm, small
