"""Calibration text shaded by what drives a unit, as HTML."""

from __future__ import annotations

from html import escape

from nirvana.evaluation.unit_inspection_results import Excerpt, UnitInspection
from nirvana.reporting.figures import theme
from nirvana.reporting.text import short

STRONGEST = 0.55  # opacity at the largest value, readable in the light and dark themes
POSITIVE, NEGATIVE = theme.ATTENTION, theme.REMOVED
ROW = "display: grid; grid-template-columns: 4.5em 1fr; gap: 0.75em; padding: 0.2rem 0"
WORDS = "font-family: ui-monospace, monospace; font-size: 0.875rem; line-height: 1.7; overflow-wrap: anywhere"
VALUE = "font-variant-numeric: tabular-nums; text-align: right; font-size: 0.875rem; line-height: 1.7"


def excerpts_html(found: UnitInspection, most: int = 8) -> str:
    """Excerpts, one a row with the value at its peak: tokens shaded by size, blue where positive and orange where
    negative, the peak in bold; a tooltip has each value. Tokens are escaped.
    """
    scale = max((abs(value) for item in found.excerpts for value in item.values), default=0.0) or 1.0
    rows = [
        f'<div style="{ROW}"><div style="{VALUE}">{_signed(item.value)}</div>'
        f'<div style="{WORDS}">{_words(item, scale)}</div></div>'
        for item in found.excerpts[:most]
    ]
    return "".join(rows)


def _words(item: Excerpt, scale: float) -> str:
    spans, held = [], ""
    peak_held, value = False, 0.0
    for place, (text, each) in enumerate(zip(item.texts, item.values, strict=True)):
        held, peak_held = held + text, peak_held or place == item.peak
        value = each if abs(each) > abs(value) else value
        if not text and place < len(item.texts) - 1:
            continue  # part of a character, which the next token completes
        words = escape(held or "·").replace("\n", "↵ ")
        weight = "; font-weight: 700; border-bottom: 2px solid currentColor" if peak_held else ""
        spans.append(f'<span title="{_signed(value)}" style="{_background(value / scale)}{weight}">{words}</span>')
        held, peak_held, value = "", False, 0.0
    return "".join(spans)


def _background(share: float) -> str:
    colour = POSITIVE if share > 0 else NEGATIVE
    return f"background-color: {theme.translucent(colour, round(STRONGEST * abs(share), 3))}"


def _signed(value: float) -> str:
    return short(value).replace("-", "−")
