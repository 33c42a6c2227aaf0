"""Text with tokens shaded by probability, as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from nirvana.reporting.figures import theme
from nirvana.runs.results import ScoredText

STRONGEST = 0.5  # opacity at probability 1, readable in the light and dark themes
UNLIKELY = 0.1  # tokens below it are also underlined, for readers who cannot see the colours
BLOCK = (
    "font-family: ui-monospace, monospace; font-size: 0.875rem; line-height: 1.9; white-space: pre-wrap; "
    "overflow-wrap: anywhere"
)


def shaded(text: ScoredText, judge: str) -> str:
    """The text as HTML, each token shaded by its probability under the model `judge`; a tooltip shows that under every
    model. Tokens are escaped.
    """
    spans = []
    for place, piece in enumerate(text.texts):
        if piece:
            words = escape(piece).replace("\n", "↵\n")
            tip = ", ".join(f"{subject} {share(values[place])}" for subject, values in text.under.items())
            spans.append(f'<span title="{tip}" style="{_style(text.under[judge][place])}">{words}</span>')
    return f'<div style="{BLOCK}">{"".join(spans) or "(ends at once)"}</div>'


def legend() -> str:
    """Legend of the shades and the underline, as HTML."""
    swatches = "".join(
        f'<span style="{_style(value, line=False)}; padding: 0 0.5em">{value:.0%}</span>' for value in (0, 0.25, 0.5, 1)
    )
    line = f'<span style="{_style(0.0)}">under {UNLIKELY:.0%}</span>'
    return f'<div style="font-size: 0.8rem">Probability of a token: {swatches} {line}</div>'


def token_table(texts: Mapping[str, ScoredText]) -> pd.DataFrame:
    """Every token of the texts with its probability under each model."""
    rows = [
        {"written by": writer, "token": place + 1, "text": piece}
        | {judge: values[place] for judge, values in text.under.items()}
        for writer, text in texts.items()
        for place, piece in enumerate(text.texts)
    ]
    return pd.DataFrame(rows, columns=["written by", "token", "text", *texts])


def text_perplexity(probabilities: Sequence[float]) -> float:
    """exp of the mean negative log-probability; NaN without tokens, infinite with a zero probability."""
    if not probabilities:
        return math.nan
    if min(probabilities) <= 0:
        return math.inf
    return math.exp(-sum(map(math.log, probabilities)) / len(probabilities))


def share(probability: float) -> str:
    """E.g. "83 %", "0.4 %", "under 0.01 %"."""
    if probability < 1e-4:
        return "under 0.01 %"
    return f"{100 * probability:.2g} %" if probability < 0.1 else f"{100 * probability:.0f} %"


def _style(probability: float, *, line: bool = True) -> str:
    background = f"background-color: {theme.translucent(theme.ATTENTION, round(STRONGEST * probability, 3))}"
    return background + ("; border-bottom: 2px dotted currentColor" if line and probability < UNLIKELY else "")
