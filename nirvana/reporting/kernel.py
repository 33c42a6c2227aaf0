"""The kernel study in words: the bound by pruned saliency, and which criterion preserves the kernel. Does not import
torch.
"""

from __future__ import annotations

from nirvana.reporting.contests import paired_mean
from nirvana.reporting.text import short
from nirvana.runs.describe import percent
from nirvana.studies.kernel_rows import KernelStudy

BASELINE = "nirvana"
PART_TITLES = {
    "shift": "change of the kernel",
    "remaining": "change on the remaining weights",
    "lost": "lost mass of the removed weights",
    "output_shift": "change of the output f",
}


def bound_words(study: KernelStudy) -> list[str]:
    """How the kernel's change, and its two parts, depend on the pruned saliency, over all criteria."""
    lines = []
    for part, title in PART_TITLES.items():
        found = study.relation(part)
        lines.append(
            f"{title[0].upper()}{title[1:]}: Spearman correlation with pruned saliency {found.rank:.2f} over "
            f"{found.pairs} pairs of plan and input, {found.rank_within:.2f} at one input; exponent "
            f"{found.exponent:.2f}; at most {short(found.largest)} times the saliency."
        )
    return lines


def preservation_words(study: KernelStudy, part: str = "shift") -> list[str]:
    """At each sparsity, the criteria that change the kernel significantly more or less than NIRVANA: the 95 % interval
    of the paired difference over inputs excludes zero.
    """
    lines = []
    for sparsity in study.sparsities:
        sides: dict[str, list[str]] = {"more": [], "less": [], "not significantly differently": []}
        for criterion in study.criteria:
            if criterion == BASELINE:
                continue
            try:
                pair = (study.relative_values(name, sparsity, part) for name in (criterion, BASELINE))
                found = paired_mean(*pair)
            except KeyError:  # one of the points is missing
                continue
            side = "more" if found.low > 0 else "less" if found.high < 0 else "not significantly differently"
            sides[side].append(criterion)
        shown = [f"{side}: {', '.join(names)}" for side, names in sides.items() if names]
        if shown:
            lines.append(f"{percent(sparsity)}, against {BASELINE}, {PART_TITLES[part]}. {'; '.join(shown)}.")
    return lines
