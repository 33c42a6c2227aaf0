"""`allocate`: the kept units for scores and a sparsity (paper: sparsity allocation)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from nirvana.allocation import scaled
from nirvana.allocation.budgets import PARAMETERS, Budget, read_budget
from nirvana.allocation.constraints import Constraints, Protected, protected_sites
from nirvana.allocation.edits import edit_plan
from nirvana.allocation.normalisation import normalised
from nirvana.allocation.rules import RULES, find_rule, rule_name
from nirvana.allocation.shared import pruning_rates
from nirvana.allocation.widths import Widths, read_widths, with_widths
from nirvana.costs import CostTable
from nirvana.errors import PlanError
from nirvana.layout import Layout
from nirvana.loss_curves import Sensitivity
from nirvana.plan import PruningPlan
from nirvana.saliency.scores import Saliency


def allocate(
    saliency: Saliency,
    *,
    sparsity: float,
    gamma: float = 3.36,
    multiple_of: int = 8,
    protected: Protected = (),
    uniform: bool = False,
    method: str = "shared",
    normalisation: float = 0.0,
    sensitivity: Sensitivity | None = None,
    widths: Widths = (),
    edits: Iterable[str] = (),
    budget: str = "parameters",
    costs: CostTable | None = None,
) -> PruningPlan:
    """Choose the units to keep so that at most `sparsity` of the prunable parameters, or of another budget, is removed.

    The shared allocation removes floor(v_attn * groups) KV groups, the lowest-scored over all layers. The rest of the
    budget is neurons: the lowest-scored over all layers, each layer's kept width rounded up to `multiple_of`, then
    whole blocks of that size, lowest summed score first, within the budget. The achieved sparsity misses the request by
    less than one such block. Every layer keeps its best KV group and its `multiple_of` best neurons.

    Within another budget, the measured allocation removes the units that cost the least KL per second or byte. Every
    other rule keeps its order of removal and its gamma: it is followed to the largest share of the parameters that
    stays within the budget (see `scaled`). The achieved share misses the request by less than one block's amount.

    Args:
        saliency: scores of every unit, with their costs.
        sparsity: fraction of attention and MLP parameters to remove, in (0, 1); with another budget, that fraction of
            the bytes or measured seconds of the attention and MLP modules of all layers, protected ones included.
            Embeddings, norms, residual sums and the output head take time too, but are not part of it, so the whole
            model's time falls by less: `plan.predicted.ratio` is its speed-up.
        gamma: v_mlp / v_attn, in [0, inf]: 0 prunes attention only, inf the MLP only. Only the shared rule uses it.
        multiple_of: MLP widths are multiples of this.
        protected: layers (original indices, in every stack) or sites that keep all units. They count in the target.
        uniform: keep the same number of KV groups and of neurons in every layer (see `equal_widths`), the best-scored
            of each; the achieved sparsity then misses the request by less than one block in every layer.
        method: "shared"; "published", the allocation of the criterion's authors (see `rules` and
            `nirvana.saliency.criteria.published_allocation`); or "measured", by loss curves (see `measured`).
        normalisation: exponent of the score normalisation of the shared allocation, in [0, 1]; 0 is off (see
            `normalised`).
        sensitivity: of the measured allocation, loss curves measured with the same scores.
        widths: kept units of single sites, the best-scored ones, in place of the rule's, which does not compensate for
            the difference: {Site("decoder", 5, "mlp"): 1344}, or words such as "decoder.5.mlp=1344".
        edits: units and layers that are kept or removed by hand after that (see `edit_plan`).
        budget: "parameters"; "bytes" of the weights, which are like parameters unless `costs` has several dtypes; or
            "latency", seconds by `costs`.
        costs: of `nirvana.measure_costs` or `nirvana.byte_costs`. With a budget in parameters they only predict.

    Raises:
        PlanError: a value is invalid, the rule does not support an option, the cost table is missing or of another
            model, or the sparsity is out of reach; the reachable maximum is named.
    """
    if not 0 < sparsity < 1:
        raise PlanError(f"Sparsity must lie between 0 and 1, not {sparsity}.", "Use 0.2 to remove 20 %.")
    name = rule_name(method, saliency.criterion)
    rule = find_rule(name, uniform)
    if normalisation and name != "shared":
        raise PlanError(
            f"The allocation by {RULES[name].label} does not normalise scores.",
            "Use the shared allocation, or a normalisation of 0.",
        )
    counted = read_budget(budget, costs, saliency.layout)
    constraints = rule.constrain(_constraints(saliency.layout, gamma, multiple_of, protected, sensitivity, counted))
    own = read_widths(widths, saliency.layout)
    if own and uniform:
        raise PlanError("Widths of single sites are not equal widths.", "Leave out one of the two.")
    ranked = normalised(saliency, normalisation)
    if rule.counts_any or counted.costs is None:
        chosen = rule.choose(ranked, constraints, sparsity)
    else:
        chosen = scaled.choose(rule, ranked, constraints, sparsity)
    kept, notes = chosen.kept, chosen.notes
    if own:
        kept = with_widths(saliency, kept, own, constraints.protected)
        notes = (f"Widths in place of the rule's: {len(own)} of {len(kept)} modules.", *notes)
    plan = PruningPlan(
        kept=kept,
        layout=saliency.layout,
        requested=float(sparsity),
        gamma=float(constraints.gamma),
        multiple_of=multiple_of,
        protected=constraints.protected,
        removed_layers=chosen.removed_layers,
        notes=notes,
        method=name,
        uniform=uniform,
        normalisation=float(normalisation),
        budget=budget,
    )
    plan = edit_plan(plan, edits)
    return plan if costs is None else _with_prediction(plan, costs)


def _with_prediction(plan: PruningPlan, costs: CostTable) -> PruningPlan:
    """The plan with its predicted time or bytes, and a note where these are its budget."""
    found = costs.predict(plan.layout, plan.widths)
    plan = replace(plan, predicted=found)
    if plan.budget == "parameters":
        return plan
    if plan.budget == "bytes":
        note = f"{found.share:.2%} of the modules' bytes is removed, {plan.sparsity:.2%} of their parameters."
    else:
        where = found.protocol
        note = (
            f"{found.share:.2%} of the modules' time is removed, {plan.sparsity:.2%} of their parameters. The whole "
            f"model is predicted to be {found.ratio:.2f} times as fast: {where.get('phase')}, {where.get('batch')} x "
            f"{where.get('length')} tokens, {where.get('dtype')} on {where.get('device')}."
        )
    return replace(plan, notes=(note, *plan.notes))


def reachable_sparsity(
    layout: Layout,
    *,
    gamma: float = 3.36,
    multiple_of: int = 8,
    protected: Protected = (),
    uniform: bool = False,
    method: str = "shared",
    criterion: str = "nirvana",
    budget: str = "parameters",
    costs: CostTable | None = None,
) -> float:
    """The highest sparsity that `allocate` accepts, in [0, 1], floors and protected layers counted.

    Within a budget in time, rules other than the measured one reach a share that depends on the scores: the value is
    that of scores with the same distribution in every layer, and `allocate` is exact.

    Args:
        criterion: needed where `method` is "published".
        budget, costs: as for `allocate`.

    Raises:
        PlanError: a value is invalid, or the rule does not support an option.
    """
    rule = find_rule(rule_name(method, criterion), uniform)
    counted = read_budget(budget, costs, layout)
    constraints = rule.constrain(_constraints(layout, gamma, multiple_of, protected, budget=counted))
    if rule.counts_any or counted.costs is None:
        best = rule.reachable(constraints)
    else:
        scores = {site: np.linspace(0, 1, place.units, dtype=np.float32) for site, place in layout.items()}
        best = scaled.reachable(rule, constraints, Saliency(scores, layout, criterion))
    return min(math.floor(best * 1e9) / 1e9, 1.0)


def _constraints(
    layout: Layout,
    gamma: float,
    multiple_of: int,
    protected: Protected,
    curves: Sensitivity | None = None,
    budget: Budget = PARAMETERS,
) -> Constraints:
    if isinstance(multiple_of, bool) or not isinstance(multiple_of, int | np.integer) or multiple_of < 1:
        raise PlanError(f"multiple_of must be a whole number from 1, not {multiple_of}.", "Use 8, or 1 for none.")
    pruning_rates(layout, sparsity=1.0, gamma=gamma)  # raises for a gamma that fits no unit
    return Constraints(layout, gamma, multiple_of, protected_sites(layout, protected), curves, budget)
