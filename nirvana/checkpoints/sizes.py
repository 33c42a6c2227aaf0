"""How large each export will be, from the layout alone: no weights, no torch."""

from __future__ import annotations

from nirvana.layout import Layout

FORMATS = ("checkpoint", "uniform", "gguf")
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def export_sizes(layout: Layout, *, dtype: str, gguf_dtype: str = "float16") -> dict[str, int]:
    """Format -> bytes of the weights, e.g. `{"checkpoint": ..., "uniform": ..., "gguf": ...}`.

    Args:
        layout: of the model that would be exported.
        dtype: its floating-point type, "float32", "float16" or "bfloat16".
        gguf_dtype: that of the matrices in a GGUF file.
    """
    own = ITEM_BYTES[dtype]
    return {
        "checkpoint": layout.parameters * own,
        "uniform": uniform_layout(layout).parameters * own,
        "gguf": layout.parameters * ITEM_BYTES[gguf_dtype],
    }


def uniform_layout(layout: Layout) -> Layout:
    """`layout` with each kind of unit as many times in every layer as in the widest."""
    widest: dict[str, int] = {}
    for place in layout.values():
        widest[place.kind] = max(widest.get(place.kind, 0), place.units)
    sites = {site: place._replace(units=widest[place.kind]) for site, place in layout.items()}
    return Layout(sites, layout.other, layout.architecture)
