"""Figure of the measured criteria: perplexity over the dense model's in one setting."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plain_ticks
from nirvana.reporting.quality import Column, Quality
from nirvana.saliency.criteria import find_criterion

OWN = "nirvana"
LABEL = 20  # characters of the longest label


def criteria_compared(quality: Quality, column: Column, texts: tuple[str, str]) -> Chart:
    """Perplexity over the dense model's by criterion, the lowest first, on both texts; log axis."""
    found = {name: quality.ratios(name, column) for name in quality.criteria}
    names = sorted((name for name in found if found[name]), key=lambda name: found[name][0])
    titles = [find_criterion(name).title for name in names]
    figure = go.Figure()
    figure.add_vline(x=1, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    places = np.arange(len(names), dtype=np.float32)
    for index, (text, symbol) in enumerate(zip(texts, ("circle", "diamond-open"), strict=True)):
        figure.add_trace(
            go.Scatter(
                x=np.array([found[name][index] for name in names], np.float32),
                y=places,
                text=titles,
                mode="markers",
                name=text,
                marker={
                    "color": [theme.PRUNED if name.startswith(OWN) else theme.ATTENTION for name in names],
                    "symbol": symbol,
                    "size": 11,
                    "line": {"width": 2},
                },
                hovertemplate="%{text}<br>%{x:.3~g} x dense<extra>%{fullData.name}</extra>",
            )
        )
    values = np.array([value for name in names for value in found[name]])
    figure.update_layout(height=60 + 34 * len(names), margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(**plain_ticks(log_axis(np.append(values, 1.0))))
    figure.update_xaxes(title="Perplexity over dense (log)", tickangle=0)
    figure.update_yaxes(
        tickvals=places,
        ticktext=[_label(name) for name in names],
        range=[len(names) - 0.5, -0.5],
        zeroline=False,
        automargin=True,
    )
    place = names.index(OWN) + 1 if OWN in names else 0
    best = found[names[0]]
    return Chart(
        title=(
            f"NIRVANA is number {place} of {len(names)}; {titles[0]} is best"
            if place != 1
            else f"NIRVANA is the best of {len(names)}"
        ),
        figure=figure,
        takeaway=f"{titles[0]} has {best[0]:.2f} and {best[1]:.2f} x the dense perplexity"
        + (f", NIRVANA {found[OWN][0]:.2f} and {found[OWN][1]:.2f} x." if place > 1 else "."),
        table=pd.DataFrame(
            [
                {"criterion": title, **dict(zip(texts, found[name], strict=True))}
                for name, title in zip(names, titles, strict=True)
            ]
        ),
        reading=f"Setting: {column.title}. The dashed line, 1, is the dense model.",
    )


def _label(name: str) -> str:
    """A short label of a criterion, which fits beside the marks on a phone."""
    title = find_criterion(name).title.partition(" (")[0]
    return f"<b>{title}</b>" if name == OWN else title if len(title) <= LABEL else name
