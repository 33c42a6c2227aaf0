"""Predictions of what a plan costs, from scores and measured loss curves: at once, without the model."""

from __future__ import annotations

import numpy as np

from nirvana.allocation.measured import predicted
from nirvana.errors import PlanError
from nirvana.layout import Site
from nirvana.loss_curves import Sensitivity
from nirvana.plan import PruningPlan
from nirvana.saliency.scores import Saliency


def removed_score(saliency: Saliency, plan: PruningPlan) -> float:
    """Share of the summed scores of all units that the plan removes, in [0, 1].

    Raises:
        PlanError: the scores are of a model of another shape.
    """
    _check(saliency, plan)
    total = sum(float(values.sum(dtype=np.float64)) for values in saliency.values())
    kept = sum(float(saliency[site][units].sum(dtype=np.float64)) for site, units in plan.items())
    return (total - kept) / total if total else 0.0


def predicted_kl(curves: Sensitivity, saliency: Saliency, plan: PruningPlan) -> float:
    """KL( dense || pruned ) in nats per token by loss curves: the sum over sites of each pruned alone.

    A curve is measured with the lowest-scored units removed. Where a plan removes others, the curve is read at the
    number of lowest-scored units whose summed score is the same. Losses of several sites do not add up exactly, and
    beyond its last level a curve is extrapolated.

    Raises:
        PlanError: the scores are of a model of another shape.
    """
    _check(saliency, plan)
    return predicted(curves, {site: _equivalent(saliency, plan, site) for site in saliency.layout})


def _equivalent(saliency: Saliency, plan: PruningPlan, site: Site) -> float:
    """The number of lowest-scored units of a site with the summed score of those that the plan removes."""
    scores, kept = saliency[site].astype(np.float64), plan.kept.get(site, np.empty(0, np.int64))
    sums = np.concatenate([[0.0], np.cumsum(np.sort(scores))])
    gone = np.delete(scores, kept)
    if (np.diff(sums) <= 0).any():  # equal or zero scores do not tell units apart
        return float(gone.size)
    return float(np.interp(gone.sum(), sums, np.arange(sums.size)))


def _check(saliency: Saliency, plan: PruningPlan) -> None:
    if saliency.layout.sites != plan.layout.sites:
        raise PlanError("The scores are of a model of another shape.", "Score the model of the plan.")
