"""Charts of a search: KL against each choice, the search over time, and KL against perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import MARGIN
from nirvana.reporting.figures.chart import Chart, count, log_axis, plus_minus
from nirvana.reporting.search import CHOICES, describe, trials_table
from nirvana.studies.search_trials import Trial, correlation, mean_perplexity, ranked

NUMBERS = ("gamma", "normalisation")  # choices that are numbers
QUESTIONS = {
    "criterion": "Which criterion keeps the model closest?",
    "allocation": "Which allocation keeps the model closest?",
    "gamma": "Which gamma keeps the model closest?",
    "normalisation": "Does it help to normalise scores?",
    "text": "Which calibration text keeps the model closest?",
    "seed": "How much does the draw of calibration samples matter?",
    "compensation": "How much does compensation recover?",
    "protected": "Does it help to protect the first or last layers?",
}
SPREAD = 0.28  # of the marks around the place of a word
HEIGHT = 340
FEW = 12  # trials up to which an axis names each
STRONG, NONE = 0.8, 0.3  # rank correlations called high and moderate


def by_choice(trials: Sequence[Trial], choice: str) -> Chart | None:
    """KL of every trial with a choice against it, the best of them ringed; None before one succeeded.

    The measured allocation has no gamma and no normalisation.
    """
    every = trials_table(trials)
    table = every if every.empty else every.dropna(subset=choice)
    if table.empty:
        return None
    left = len(every) - len(table)
    values = table["KL"].to_numpy(float)
    best = int(values.argmin())
    if choice in NUMBERS:
        places, ticks = table[choice].to_numpy(float), None
    else:
        order = table.groupby(choice)["KL"].min().sort_values().index.tolist()
        ticks = dict(enumerate(order))
        generator = np.random.default_rng(0)
        places = np.array([order.index(value) for value in table[choice]], float)
        places += generator.uniform(-SPREAD, SPREAD, len(places))
    figure = go.Figure(_marks(table, places))
    figure.add_trace(_ring(float(places[best]), float(values[best])))
    figure.update_layout(height=HEIGHT, margin=MARGIN, showlegend=False)
    figure.update_xaxes(title=CHOICES[choice], showgrid=False, zeroline=False)
    if ticks:
        figure.update_xaxes(
            tickvals=list(ticks), ticktext=list(ticks.values()), automargin=True, range=[-0.5, len(ticks) - 0.5]
        )
    elif choice == "gamma":
        figure.update_xaxes(**log_axis(places))
    _kl_axis(figure, values)
    return Chart(
        title=QUESTIONS[choice],
        figure=figure,
        takeaway=_choice_takeaway(table, choice, "with the shared allocation" if left else "so far"),
        table=table,
        reading=(
            "One mark a trial; the best is ringed. Other choices also differ between marks; the lower edge shows the "
            "best of each choice."
        )
        + (" Marks of one place are spread sideways." if ticks else "")
        + (f" Left out: {count(left, 'trial')} with the measured allocation, which has no {choice}." if left else ""),
    )


def over_time(trials: Sequence[Trial]) -> Chart | None:
    """KL of the trials in their order, and the best so far; None before a trial succeeded."""
    table = trials_table(trials)
    if table.empty:
        return None
    table = table.sort_values("trial", ignore_index=True)
    least = table["KL"].cummin()
    figure = go.Figure(_marks(table, table["trial"].to_numpy(float)))
    figure.add_trace(
        go.Scatter(
            x=table["trial"].to_numpy(float),
            y=least.to_numpy(float),
            mode="lines",
            line={"color": theme.CHOSEN, "width": 2, "shape": "hv"},
            hoverinfo="skip",
        )
    )
    figure.update_layout(height=HEIGHT, margin=MARGIN, showlegend=False)
    figure.update_xaxes(title="Trial", showgrid=False, zeroline=False, dtick=1 if len(table) <= FEW else None)
    _kl_axis(figure, table["KL"].to_numpy(float))
    values = table["KL"].to_numpy(float)
    first, last = values[0], values.min()
    found = int(table["trial"].to_numpy()[values.argmin()])
    return Chart(
        title="Does the search still improve?",
        figure=figure,
        takeaway=f"From {first:.3g} nats with the first trial to {last:.3g} with trial {found}"
        + (f", {1 - last / first:.0%} less." if last < first else ": no trial is better than the first."),
        table=table,
        reading=(
            "Marks: trials. Line: the lowest so far. A long flat end suggests that more trials would improve little."
        ),
    )


def kl_against_perplexity(trials: Sequence[Trial]) -> Chart | None:
    """The paper's claim on this model: a low KL goes with a low perplexity. None before two trials."""
    good = [trial for trial in ranked(trials) if trial.perplexity]
    if len(good) < 2:
        return None
    table = trials_table(good)
    values = np.array([mean_perplexity(trial) for trial in good])
    table.insert(2, "perplexity, mean", values)
    figure = go.Figure(
        go.Scatter(
            x=table["KL"].to_numpy(float),
            y=values,
            mode="markers",
            text=[describe(trial.choices) for trial in good],
            marker={"color": theme.ATTENTION, "size": 9, "opacity": 0.75},
            hovertemplate="%{text}<br>KL %{x:.3g}<br>perplexity %{y:,.4~g}<extra></extra>",
        )
    )
    kls = table["KL"].to_numpy(float)
    figure.add_trace(_ring(float(kls[0]), float(values[0])))
    figure.update_layout(height=HEIGHT, margin=MARGIN, showlegend=False)
    figure.update_xaxes(title="KL to the dense model, nats", showgrid=False, zeroline=False)
    figure.update_yaxes(title="Perplexity", zeroline=False)
    if kls.max() > 8 * kls.min() > 0:
        figure.update_xaxes(**log_axis(kls), title="KL to the dense model, nats (log)")
    if values.max() > 4 * values.min():
        figure.update_yaxes(**log_axis(values), title="Perplexity (log)")
    texts = len(good[0].perplexity)
    of = f"{count(texts, 'text')}, the geometric mean, of " if texts > 1 else ""
    return Chart(
        title="Does KL predict which model has the lower perplexity?",
        figure=figure,
        takeaway=_claim(good),
        table=table,
        reading=f"One mark a trial; the one of the lowest KL is ringed. Perplexity is of {of}the same probe splits, "
        "in longer windows.",
    )


def _claim(good: Sequence[Trial]) -> str:
    found = correlation(good)
    if math.isnan(found.value):
        return f"{count(found.n, 'model')} so far: too few for a correlation."
    lowest = min(good, key=mean_perplexity)
    same = lowest is good[0]
    words = f"Spearman's rank correlation is **{found.value:.2f}** over {found.n} models. "
    if found.value >= STRONG:
        words += "On this model the paper's claim holds: KL puts models in nearly the order of their perplexity"
    elif found.value >= NONE:
        words += "On this model the paper's claim holds in part: KL and perplexity often agree"
    else:
        words += "On this model the paper's claim does not hold: KL predicts little of perplexity"
    if same:
        return f"{words}, and the lowest of both is the same trial."
    loss = mean_perplexity(good[0]) / mean_perplexity(lowest) - 1
    return f"{words}; choosing by KL costs {loss:.1%} of perplexity against the lowest."


def _choice_takeaway(table: pd.DataFrame, choice: str, among: str) -> str:
    rows = sorted(table.to_dict("records"), key=lambda row: float(row["KL"]))
    best = rows[0]
    words = f"The best {among} has {best[choice]}: {plus_minus(float(best['KL']), float(best['KL error']))} nats."
    other = next((row for row in rows if row[choice] != best[choice]), None)
    if choice in NUMBERS or other is None:
        return words
    return f"{words} The best with {other[choice]} is at {float(other['KL']):.3g}."


def _marks(table: pd.DataFrame, places: np.ndarray) -> go.Scatter:
    balances = table["allocation"].where(table["gamma"].isna(), table["gamma"].map("gamma {:g}".format))
    words = [
        f"Trial {row.trial}: {row.criterion}, {balance}, {row.compensation}"
        for row, balance in zip(table.itertuples(), balances, strict=True)
    ]
    return go.Scatter(
        x=places,
        y=table["KL"].to_numpy(float),
        mode="markers",
        text=words,
        marker={"color": theme.ATTENTION, "size": 9, "opacity": 0.75},
        hovertemplate="%{text}<br>KL %{y:.3g} nats<extra></extra>",
    )


def _ring(x: float, y: float) -> go.Scatter:
    ring = {"symbol": "circle-open", "size": 18, "color": theme.CHOSEN, "line": {"width": 2.5}}
    return go.Scatter(x=[x], y=[y], mode="markers", marker=ring, hoverinfo="skip")


def _kl_axis(figure: go.Figure, values: np.ndarray) -> None:
    figure.update_yaxes(title="KL, nats", zeroline=False, rangemode="tozero")
    if values.min() > 0 and values.max() > 8 * values.min():
        figure.update_yaxes(**log_axis(values), title="KL, nats (log)")
