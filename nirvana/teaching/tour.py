"""The guided tour: stops on the pages, each with one thing to look at, whose numbers are read from the open run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nirvana.calibration.sets import CalibrationSelection
from nirvana.evaluation.results import Measurement, Report
from nirvana.layout import KV_GROUP, MLP, NEURON, Layout, Site
from nirvana.recovery.history import RecoveryHistory
from nirvana.reporting.figures.names import layer_name
from nirvana.reporting.text import count, duration, megabytes, millions
from nirvana.runs.describe import percent
from nirvana.runs.run import Run
from nirvana.teaching.experiments.registry import EXPERIMENTS


class Stop(NamedTuple):
    """One stop.

    Attributes:
        page: key of its page.
        title: a few words.
        look: what to look at, with numbers of the run; None where the run lacks the results.
    """

    page: str
    title: str
    look: Callable[[Run], str | None]


def home(run: Run) -> str | None:
    plan, report = run.plan(), run.report()
    if plan is None or report is None or len(report.subjects) < 2:
        return None
    before, after = plan.layout.parameters, plan.pruned_layout.parameters
    found = _perplexities(report)
    if found is None:
        return None
    corpus, values = found
    last = report.subjects[-1]
    return (
        f"The whole story in two numbers: {millions(before)} parameters become {millions(after)}, and perplexity on "
        f"{corpus} goes from {values['dense']:.4g} to {values[last]:.4g} ({last})."
    )


def model(run: Run) -> str | None:
    card = run.model()
    if card is None:
        return None
    layout = card.layout
    mlp = sum(place.parameters for site, place in layout.items() if site.module == MLP)
    groups = sum(layout[site].units for site in layout.pool(KV_GROUP))
    neurons = sum(layout[site].units for site in layout.pool(NEURON))
    costs = [max(layout[site].cost for site in layout.pool(kind)) for kind in (KV_GROUP, NEURON)]
    return (
        f"Find the MLP: it has {mlp / layout.prunable:.0%} of the weights that can be pruned, in "
        f"{count(neurons, 'neuron')}. Attention has the rest in only {count(groups, 'KV group')}, so one group weighs "
        f"as much as {costs[0] / costs[1]:,.0f} neurons."
    )


def calibration(run: Run) -> str | None:
    found = run.calibration()
    if found is None:
        return None
    if not isinstance(found, CalibrationSelection):
        return (
            f"{found.tokens.shape[0]:,} windows of {found.tokens.shape[1]:,} tokens, {found.tokens.size:,} in all, are "
            "everything that the scores are computed from. Read one under Samples."
        )
    values = [candidate.divergence.mean for candidate in found.candidates]
    return (
        f"Compare the bars: of {len(values)} candidate sets the best has a KL of {min(values):.3g} nats and the worst "
        f"{max(values):.3g}, from the same recipe. The best one is kept."
    )


def saliency(run: Run) -> str | None:
    scores = run.saliency()
    if scores is None:
        return None
    values = np.concatenate([scores[site] for site in scores.layout.pool(NEURON)]).astype(np.float64)
    ordered = np.sort(values)[::-1]
    few, half = ordered[: max(1, len(ordered) // 100)].sum(), ordered[len(ordered) // 2 :].sum()
    return (
        f"See how uneven the scores are: one neuron in a hundred has {100 * few / ordered.sum():.2g} % of the total "
        f"score of all {len(ordered):,}, and the lower half together has {100 * half / ordered.sum():.2g} %. Pruning "
        "takes from that half."
    )


def allocation(run: Run) -> str | None:
    plan = run.plan()
    if plan is None:
        return None
    left = {site: len(plan.kept[site]) / plan.layout[site].units for site in plan.layout.pool(NEURON)}
    low, high = min(left, key=left.__getitem__), max(left, key=left.__getitem__)
    return (
        f"{percent(plan.sparsity)} of the weights go, but not evenly: attention loses {plan.rate(KV_GROUP):.1%}, the "
        f"MLP {plan.rate(NEURON):.1%}. The MLP of {_layer(plan.layout, low)} keeps {left[low]:.0%} of its neurons, "
        f"that of {_layer(plan.layout, high)} {left[high]:.0%}. Move gamma and watch the bars."
    )


def prune(run: Run) -> str | None:
    found = run.pruned()
    if found is None:
        return None
    before, after = found.weight_bytes["dense"], found.weight_bytes["pruned"]
    return (
        f"{megabytes(before)} of weights become {megabytes(after)} ({after / before - 1:.1%}). The matrices are "
        "smaller, not sparse: any runtime gains, without masks or special kernels."
    )


def recover(run: Run) -> str | None:
    found = run.recovery()
    if found is None or len(found.checks) < 2:
        return None
    first, best = found.checks[0], found.best
    text = next(iter(first.perplexity))
    return (
        f"Follow the curve: within {duration(best.seconds)} of training perplexity on held-out {text} falls from "
        f"{first.perplexity[text]:.4g} to {best.perplexity[text]:.4g}, {_part(found, text)}."
    )


def compare(run: Run) -> str | None:
    report = run.report()
    found = _perplexities(report) if report else None
    if report is None or found is None or "pruned" not in found[1]:
        return None
    corpus, values = found
    worst = values["pruned"] / values["dense"]
    recovered = (
        f"; after the recovery it is {values['recovered'] / values['dense']:.2f} times" if "recovered" in values else ""
    )
    return (
        f"The verdict, on text that no step has read: perplexity on {corpus} is {worst:.2f} times the dense model's "
        f"after pruning{recovered}. Read two continuations side by side before you believe a number."
    )


def method(run: Run) -> str | None:
    found = run.ablations()
    if found is None:
        return None
    ranks = {kind: found.first_order_and_change(kind).spearman for kind in (NEURON, KV_GROUP) if found.of_kind(kind)}
    words = " and ".join(f"{value:.2f} for {kind}s" for kind, value in ranks.items())
    return (
        f"Open First order: {count(len(found.items), 'unit')} were removed one by one. How well does one backward pass "
        f"predict the change of the output? The rank correlation is {words}; KV groups act through a softmax, which no "
        "tangent follows far."
    )


def experiments(run: Run) -> str | None:
    return (
        f"Your turn: {len(EXPERIMENTS)} experiments of under a minute each, with an observation that is checked, and "
        "exercises. Start with pruning by magnitude."
    )


STOPS = (
    Stop("home", "What pruning does", home),
    Stop("model", "What can be pruned", model),
    Stop("calibration", "The text that decides", calibration),
    Stop("saliency", "Which units matter", saliency),
    Stop("allocation", "Where to take it from", allocation),
    Stop("prune", "A smaller model", prune),
    Stop("recover", "Some of it comes back", recover),
    Stop("compare", "What it costs", compare),
    Stop("method", "How good is first order?", method),
    Stop("experiments", "Try it", experiments),
)


def _layer(layout: Layout, site: Site) -> str:
    """E.g. "layer 3", "encoder layer 3"."""
    return f"{layer_name(layout, site.stack)} {site.layer}"


def _part(course: RecoveryHistory, text: str) -> str:
    """The share of the training's gain on a text that its first measurement already shows."""
    first, second, best = (check.perplexity[text] for check in (*course.checks[:2], course.best))
    gained = (first - second) / (first - best) if first > best else 0.0
    return f"{gained:.0%} of it in the first {duration(course.checks[1].seconds)}"


def _perplexities(report: Report) -> tuple[str, dict[str, float]] | None:
    """The first corpus with a perplexity, and the perplexity on it by subject."""
    found: list[Measurement] = [item for item in report.measurements if item.metric == "perplexity"]
    if not found:
        return None
    corpus = str(found[0].protocol.get("corpus"))
    values = {item.subject: item.value for item in found if item.protocol.get("corpus") == corpus}
    return (corpus, values) if "dense" in values and report.subjects[-1] in values else None
