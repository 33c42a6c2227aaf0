"""How large each export will be, from the layout alone: no weights, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nirvana.layout import KV_GROUP, Layout

FORMATS = ("checkpoint", "uniform", "gguf")
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Architectures whose config transformers 5 refuses unless the number of heads divides the hidden size.
HEADS_DIVIDE_HIDDEN = {"LlamaForCausalLM"}


def export_sizes(
    layout: Layout, geometry: Mapping[str, int], *, dtype: str, gguf_dtype: str = "float16"
) -> dict[str, int]:
    """Format -> bytes of the weights, e.g. `{"checkpoint": ..., "uniform": ..., "gguf": ...}`.

    Args:
        layout: of the model that would be exported.
        geometry: of the dense model, from its family.
        dtype: its floating-point type, "float32", "float16" or "bfloat16".
        gguf_dtype: that of the matrices in a GGUF file.
    """
    own = ITEM_BYTES[dtype]
    return {
        "checkpoint": layout.parameters * own,
        "uniform": uniform_layout(layout, geometry).parameters * own,
        "gguf": layout.parameters * ITEM_BYTES[gguf_dtype],
    }


def uniform_layout(layout: Layout, geometry: Mapping[str, int]) -> Layout:
    """`layout` with each kind of unit as many times in every layer as in the widest.

    Where the architecture's config allows only some numbers of heads, the next allowed one is taken.
    """
    widest: dict[str, int] = {}
    for place in layout.values():
        widest[place.kind] = max(widest.get(place.kind, 0), place.units)
    if layout.architecture in HEADS_DIVIDE_HIDDEN:
        per_group = geometry["heads"] // geometry["kv_heads"]
        allowed = (
            groups
            for groups in range(widest[KV_GROUP], geometry["kv_heads"])
            if geometry["hidden"] % (groups * per_group) == 0
        )
        widest[KV_GROUP] = next(allowed, geometry["kv_heads"])
    sites = {site: place._replace(units=widest[place.kind]) for site, place in layout.items()}
    return replace(layout, sites=sites)
