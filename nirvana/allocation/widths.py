"""Widths of single sites that replace the rule's: a plan edited by hand or by a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from nirvana.allocation.constraints import lowest_go
from nirvana.errors import PlanError
from nirvana.files import whole_number
from nirvana.layout import Layout, Site
from nirvana.saliency.scores import Saliency

Widths = Mapping[Site, int] | Iterable[str]
HOW = "Give the kept units of a site, e.g. decoder.5.mlp=1344."


def read_widths(widths: Widths, layout: Layout) -> dict[Site, int]:
    """Site -> kept units, from a mapping or words such as "decoder.5.mlp=1344"; in model order.

    Raises:
        PlanError: a word has another form, or a site is unknown, named twice, or has fewer units.
    """
    pairs = widths.items() if isinstance(widths, Mapping) else map(_read, widths)
    found: dict[Site, int] = {}
    for site, width in pairs:
        if site not in layout.sites:
            raise PlanError(f"There is no {site.key} in this model.", HOW)
        if site in found:
            raise PlanError(f"{site.key} has two widths.", "Give it one.")
        units, kind = layout[site].units, layout[site].kind
        if not 1 <= width <= units:
            raise PlanError(f"{site.key} has {units:,} {kind}s, so it cannot keep {width:,}.", HOW)
        found[site] = width
    return {site: found[site] for site in layout if site in found}


def words(widths: Mapping[Site, int]) -> tuple[str, ...]:
    """Widths as `read_widths` reads them, e.g. ("decoder.5.mlp=1344",)."""
    return tuple(f"{site.key}={width}" for site, width in widths.items())


def with_widths(
    saliency: Saliency, kept: Mapping[Site, np.ndarray], widths: Mapping[Site, int], protected: Iterable[Site]
) -> dict[Site, np.ndarray]:
    """Site -> kept units: the best-scored ones of each site in `widths`, and those in `kept` of all others.

    Raises:
        PlanError: a site is protected, or its layer is removed.
    """
    best = lowest_go(saliency, {site: saliency.layout[site].units - width for site, width in widths.items()})
    for site in widths:
        if site not in kept:
            raise PlanError(f"The layer of {site.key} is removed.", "Allocate with another rule, or without its width.")
        if site in protected and widths[site] < saliency.layout[site].units:
            raise PlanError(f"{site.key} is protected and has a width.", "Leave out one of the two.")
    return {site: best[site] if site in widths else units for site, units in kept.items()}


def _read(word: str) -> tuple[Site, int]:
    key, _, width = word.partition("=")
    try:
        return Site.from_key(key.strip()), whole_number(int(width))
    except ValueError:
        raise PlanError(f"{word[:60]!r} is no width of a site.", HOW) from None
