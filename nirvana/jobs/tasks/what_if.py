"""The task "what-if": plans of an allocation, without and with its edits by hand, pruned and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirvana.allocation.allocate import allocate
from nirvana.allocation.prediction import predicted_kl, removed_score
from nirvana.allocation.rules import balance
from nirvana.costs import CostTable
from nirvana.evaluation.plan_trials import PlanTrial, PlanTrials, distinct
from nirvana.jobs.tasks.measurements import MeasurementTask, require_scores
from nirvana.loss_curves import Sensitivity
from nirvana.plan import PruningPlan
from nirvana.progress import within
from nirvana.runs.costs import known_costs
from nirvana.runs.describe import percent
from nirvana.runs.recipe import AllocationChoice, PruneChoice
from nirvana.runs.run import Run
from nirvana.runs.validation import check_reachable
from nirvana.saliency.scores import Saliency

if TYPE_CHECKING:
    from nirvana.runs.workspace import Workspace


class WhatIf(MeasurementTask[AllocationChoice]):
    """KL of the plan of an allocation, with and without its edits by hand. The run keeps all measured plans."""

    name = "what-if"
    title = "Measuring a plan"
    attachment = "plans"
    keeps_earlier = True
    request = AllocationChoice

    def check(self, run: Run, request: AllocationChoice) -> None:
        """Raises: PlanError, where there is no such plan with the run's scores."""
        require_scores(run)
        card, scores = run.model(), run.saliency()
        if card is not None:
            check_reachable(request, run.recipe.saliency.criterion, card.layout)
        if scores is not None:
            plans_of(scores, request, run.loss_curves(), known_costs(run, request))

    def measure(self, workspace: Workspace, request: AllocationChoice) -> PlanTrials:
        from nirvana.runs.measurements import divergence_of
        from nirvana.runs.model_cache import placement

        scores, run = workspace.saliency(), workspace.run
        curves = run.loss_curves() if run is not None else None
        probe, lm, prune = workspace.probe(), workspace.lm, workspace.recipe.prune
        plans, items = plans_of(scores, request, curves, known_costs(run, request) if run is not None else None), []
        for number, plan in enumerate(plans):
            progress = within(workspace.progress, "With edits" if plan.edits else "Plan", number, len(plans))
            small = workspace.prune_model(within(progress, "Pruning", 0, 2), plan=plan)
            # Every plan is compared with the same dense predictions, which are computed once.
            found = divergence_of(lm, small, probe, within(progress, "KL", 1, 2), reference=workspace.reference)[0]
            parts = found.part_values
            kl = (found.value,) if parts is None else tuple(map(float, parts))
            items.append(trial(scores, plan, curves, prune, kl))
        protocol = {
            "model": lm.hash,
            "scores": scores.hash,
            "probe": probe.hash,
            "corpus": probe.source,
            "samples": probe.samples,
            "length": probe.length,
            **placement(lm),
        }
        return PlanTrials(tuple(items), protocol)


def plans_of(
    scores: Saliency, choice: AllocationChoice, curves: Sensitivity | None, costs: CostTable | None = None
) -> list[PruningPlan]:
    """The rule's plan, and the edited one where it differs.

    Raises:
        PlanError: see `allocate`.
    """
    choice.check_rounds()
    variants = [choice.with_values(edits=()), choice]
    return distinct(allocate(scores, sensitivity=curves, costs=costs, **each.one_round) for each in variants)


def trial(
    scores: Saliency, plan: PruningPlan, curves: Sensitivity | None, prune: PruneChoice, kl: tuple[float, ...]
) -> PlanTrial:
    """A measured plan with its predictions."""
    return PlanTrial(
        plan=plan.hash,
        allocation=f"{percent(plan.requested)}, {balance(plan)}",
        edits=plan.edits,
        compensation=compensation_words(prune),
        sparsity=plan.sparsity,
        parameters=plan.pruned_layout.parameters,
        removed_score=removed_score(scores, plan),
        predicted=None if curves is None else predicted_kl(curves, scores, plan),
        kl=kl,
    )


def compensation_words(choice: PruneChoice) -> str:
    """The compensation with its statistics, e.g. "least_squares, 96 x 256 tokens, seed 1"; or "none"."""
    if choice.compensation == "none":
        return "none"
    return f"{choice.compensation}, {choice.samples} x {choice.length} tokens, seed {choice.seed}"
