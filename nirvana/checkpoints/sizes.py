"""Size of each export format, from the layout alone. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nirvana.layout import KV_GROUP, NEURON, Layout, Site

FORMATS = ("checkpoint", "uniform", "gguf")
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
Kept = Mapping[Site, np.ndarray]  # site -> original indices of the kept units


def export_sizes(layout: Layout, kept: Kept, *, dtype: str) -> dict[str, int]:
    """Format -> bytes of the weights, e.g. `{"checkpoint": ..., "uniform": ..., "gguf": ...}`.

    Args:
        layout: of the model to export.
        kept: units that it keeps of the dense model.
        dtype: of the weights in the files, "float32", "float16" or "bfloat16".
    """
    own = ITEM_BYTES[dtype]
    return {
        "checkpoint": layout.parameters * own,
        "uniform": uniform_layout(layout, kept).parameters * own,
        "gguf": layout.parameters * own,
    }


def written_dtype(asked: str, own: str, stored: str, *, format: str = FORMATS[0]) -> str:
    """The dtype of an export. `asked` unless it is "auto", which is the one of `own`, in memory, and `stored`, in the
    model's files, that takes fewer bytes: a pruned model never takes more than its source. A quantised source, whose
    `stored` is "", is written in the dtype in memory, and as GGUF in float16.
    """
    if asked != "auto":
        return asked
    stored = stored or ("float16" if format == "gguf" else own)
    return stored if ITEM_BYTES[stored] < ITEM_BYTES[own] else own


def uniform_layout(layout: Layout, kept: Kept) -> Layout:
    """`layout` with the number of units in every layer that a plain checkpoint needs.

    That is the widest layer's number; where layers must hold the same units, the size of the union of theirs; where the
    config allows only some numbers of KV groups, the next allowed one.
    """
    groups = max((layout[site].units for site in layout.pool(KV_GROUP)), default=0)
    groups = max([groups, *(len(units) for units in shared_units(layout, kept).values())])
    whole = layout.plain.groups_divide
    if whole:
        groups = next(count for count in range(groups, whole + 1) if whole % count == 0)
    width = max((layout[site].units for site in layout.pool(NEURON)), default=0)
    widest = {KV_GROUP: groups, NEURON: width}
    return replace(layout, sites={site: place._replace(units=widest[place.kind]) for site, place in layout.items()})


def shared_units(layout: Layout, kept: Kept) -> dict[tuple[str, str], np.ndarray]:
    """(stack, module) whose layers must hold the same units in a plain checkpoint -> the union of their kept units."""
    found = {}
    for stack, module in layout.plain.same_units:
        units = [kept[site] for site in layout if (site.stack, site.module) == (stack, module) and site in kept]
        if units:
            found[stack, module] = np.unique(np.concatenate(units))
    return found


def padding_note(layout: Layout, kept: Kept) -> str:
    """Why a uniform checkpoint has more KV groups in a layer than the widest layer; "" where it has not."""
    pool = layout.pool(KV_GROUP)
    if not pool:
        return ""
    widest, filled = max(layout[site].units for site in pool), uniform_layout(layout, kept)[pool[0]].units
    union = max((len(units) for units in shared_units(layout, kept).values()), default=0)
    reasons = []
    if union > widest:
        reasons.append("the blocks of a stack share one position bias, so each holds the union of their kept heads")
    if filled > max(widest, union):
        reasons.append(
            f"a plain {layout.architecture} cannot have {max(widest, union)}: heads must divide the hidden size"
        )
    if not reasons:
        return ""
    return f"{filled} KV groups in each layer instead of at most {widest}: {'; '.join(reasons)}"
