"""Names and colours of model parts in figures; with two stacks, names include the stack."""

from __future__ import annotations

import textwrap
from html import escape

from nirvana.layout import CROSS_ATTENTION, MLP, Layout
from nirvana.reporting.figures import theme

MODULES = {MLP: "MLP", CROSS_ATTENTION: "cross-attention"}
COLOURS = {MLP: theme.MLP, CROSS_ATTENTION: theme.CROSS_ATTENTION}


def part_name(layout: Layout, stack: str, module: str) -> str:
    """E.g. "attention", "MLP"; with two stacks "encoder self-attention", "cross-attention", "decoder MLP"."""
    name = MODULES.get(module, module)
    if len(layout.stacks) == 1 or module == CROSS_ATTENTION:  # only decoders have it
        return name
    return f"{stack} {name if module == MLP else f'self-{name}'}"


def unit_name(layout: Layout, stack: str, module: str) -> str:
    """E.g. "KV group", "neuron"; with two stacks "encoder self-attention KV group", "decoder neuron"."""
    kind = next(place.kind for site, place in layout.items() if (site.stack, site.module) == (stack, module))
    if len(layout.stacks) == 1:
        return kind
    return f"{stack} {kind}" if module == MLP else f"{part_name(layout, stack, module)} {kind}"


def layer_name(layout: Layout, stack: str) -> str:
    """ "layer", or with two stacks "encoder layer", "decoder layer"."""
    return "layer" if len(layout.stacks) == 1 else f"{stack} layer"


def parts(layout: Layout) -> list[tuple[str, str]]:
    """Each module of each stack, (stack, module), in model order."""
    return list(dict.fromkeys((site.stack, site.module) for site in layout))


def part_colour(module: str) -> str:
    """A module's colour: blue for attention, violet for cross-attention, green for the MLP."""
    return COLOURS.get(module, theme.ATTENTION)


def part_colours(layout: Layout) -> dict[str, str]:
    """Name of each part -> its colour on every page; never-pruned parts have their own."""
    colours = dict(zip(layout.other, theme.UNPRUNED, strict=False))
    return colours | {part_name(layout, *part): part_colour(part[1]) for part in parts(layout)}


def text_label(name: str) -> str:
    """A corpus's name on an axis: shortened in the middle, and escaped, since Plotly interprets some HTML."""
    return escape(name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}")


def wrapped_label(name: str, width: int = 17, lines: int = 3) -> str:
    """A corpus's name over several lines."""
    found = textwrap.wrap(name, width, break_on_hyphens=False)
    kept = found[:lines] if len(found) <= lines else [*found[: lines - 1], f"{found[lines - 1][: width - 1]}…"]
    return "<br>".join(map(escape, kept))
