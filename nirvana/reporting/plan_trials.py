"""Measured plans in words and as table rows."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nirvana.evaluation.plan_trials import PlanTrial, PlanTrials
from nirvana.reporting.text import millions, plus_minus, short

CERTAIN = 1.96  # standard errors of a 95 % interval


def rows(items: Iterable[PlanTrial]) -> list[dict[str, str]]:
    """One row a plan, its columns in order."""
    return [
        {
            "plan": item.allocation,
            "edits": "; ".join(item.edits) or "none",
            "sparsity": f"{item.sparsity:.2%}",
            "parameters": millions(item.parameters),
            "score removed": f"{item.removed_score:.1%}",
            "predicted KL": "" if item.predicted is None else short(item.predicted),
            "measured KL": plus_minus(item.mean, item.standard_error),
            "compensation": item.compensation,
        }
        for item in items
    ]


def compared(edited: PlanTrial, before: PlanTrial) -> str:
    """Whether the edits cost or gain, in a sentence."""
    gap, error = edited.less(before)
    words = f"The edits change KL by {gap:+.3g} nats"
    if math.isnan(error):
        return f"{words}, on one sample, so it is not known how certain that is."
    certain = abs(gap) > CERTAIN * error
    verdict = ("so they lose" if gap > 0 else "so they gain") if certain else "which is not significant"
    return f"{words} (± {error:.2g} over {len(edited.kl)} samples), {verdict}."


def protocol_words(found: PlanTrials) -> str:
    """E.g. "KL to the dense model in nats per token, on 16 x 512 tokens of python-docs (probe split)."."""
    protocol = found.protocol
    return (
        f"KL to the dense model in nats per token, on {protocol['samples']} x {protocol['length']} tokens of "
        f"{protocol['corpus']} (probe split), not recovered; ± is one standard error over samples."
    )
