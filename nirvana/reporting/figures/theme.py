"""Colours of the figures, after Okabe and Ito; those drawn on the page have a contrast above 3 in light and dark."""

from __future__ import annotations

from typing import NamedTuple

ATTENTION = "#2B83BA"  # blue
CROSS_ATTENTION = "#7A6FC2"  # violet
MLP = "#009E73"  # bluish green
REMOVED = "#D55E00"  # vermilion
NEUTRAL = "#868D97"  # a size before pruning, or anything without a meaning of its own
UNPRUNED = ("#8C6D5A", NEUTRAL, "#A07A3F", "#6E7B8B")  # parts that are never pruned, embeddings first
CHOSEN = "#B77D00"  # amber: the ring or line of the best or kept one

DENSE = NEUTRAL
PRUNED = "#C2629B"  # reddish purple
RECOVERED = MLP


class Look(NamedTuple):
    """Colour and marker of a model; the marker tells it apart without colours."""

    colour: str
    symbol: str


SUBJECTS = {
    "dense": Look(DENSE, "circle-open"),
    "pruned": Look(PRUNED, "circle"),
    "recovered": Look(RECOVERED, "diamond"),
}

CUT = "#868D97"  # lines over the page's own background
CUT_ON_HEATMAP = "#FF6A3D"  # lines over SEQUENTIAL, which has no red

CATEGORICAL = (ATTENTION, "#B77D00", MLP, PRUNED, REMOVED, "#7A6FC2", "#4E9AA8", NEUTRAL)
SEQUENTIAL = "Cividis"
DIVERGING = "PuOr"  # centre it at 0


def translucent(colour: str, alpha: float) -> str:
    """A hex colour with an opacity, e.g. "rgba(43, 131, 186, 0.35)"."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha:g})"
