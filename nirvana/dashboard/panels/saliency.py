"""Sections of the Saliency page: overview, one layer, and computation of the scores."""

from __future__ import annotations

from typing import Literal, NamedTuple

import streamlit as st

from nirvana.dashboard import selection, state
from nirvana.dashboard.panels.charts import clicked, show_chart
from nirvana.dashboard.panels.cost import expected, warn, words
from nirvana.dashboard.panels.selected import over_layers, take_layer_click
from nirvana.layout import Site
from nirvana.plan import PruningPlan
from nirvana.reporting.estimates import total_seconds
from nirvana.reporting.figures import distributions
from nirvana.reporting.figures import saliency as figures
from nirvana.runs.pace import read_pace
from nirvana.saliency.scores import Saliency

EXTREMES = 10


def show_cost(now: state.Context) -> None:
    """Expected duration and memory of the scores and the steps before them that are not current."""
    todo = [step for step in now.recipe.up_to("saliency") if state.step_state(step) != "done"]
    memory = expected(now, todo)
    seconds = total_seconds(todo, now.recipe, read_pace(now.recipe.model))
    st.caption(f"To do: {', '.join(todo)}: {words(seconds, memory)}.")
    warn(memory)


def take_clicks(scores: Saliency, stack: str) -> None:
    """Select the unit clicked in a chart; called before the controls are drawn."""
    layout, now = scores.layout, selection.selected(scores.layout)
    for module in figures.modules(scores, stack):
        take_layer_click(f"saliency.spread.{module}", layout, stack)
        site, unit = Site(stack, now.layer or 0, module), None
        point = clicked(f"saliency.heatmap.{module}")
        if point is not None and Site(stack, int(point["y"]), module) in layout:
            site = Site(stack, int(point["y"]), module)
            unit = figures.unit_at(scores, site, point["x"], bool(st.session_state.get("saliency.sort", True)))
        found = clicked_unit(f"saliency.curve.{module}")
        unit = found if unit is None else unit
        if unit is not None and site in layout:
            selection.choose(layout, stack=stack, layer=site.layer, module=module, unit=unit)
            st.rerun()


def clicked_unit(key: str) -> int | None:
    """The unit of a curve of scores that was clicked."""
    point = clicked(key)
    extra = None if point is None else point.get("customdata")
    if not extra:
        return None
    return int(extra[0] if isinstance(extra, list) else extra["0"])


class View(NamedTuple):
    """How heatmaps are drawn: the selected layer and unit, the scale, and whether each layer is sorted by score."""

    layer: int
    module: str
    unit: int | None
    colour: str
    ordered: bool


def choose_layer(scores: Saliency) -> None:
    """The layer that is outlined."""
    selection.layer_control(
        scores.layout, "saliency.layer", "A click on a cell of a heatmap also chooses its layer, and its unit."
    )


def view_controls(scores: Saliency) -> View:
    """Controls of the heatmaps, after those of the selection."""
    colour = st.segmented_control(
        "Colour",
        figures.COLOURS,
        default="log",
        required=True,
        format_func=str.capitalize,
        key="saliency.colour",
        wrap=True,
        persist_state="session",
        help="Scale of the scores. Log resolves small scores, linear large ones; rank is the order of removal.",
    )
    ordered = st.toggle(
        "Sort each layer, best first",
        value=True,
        key="saliency.sort",
        persist_state="session",
        help="Shows how the scores fall, and how many units of each layer the plan keeps. Off, units stand in the "
        "order of the model's weights.",
    )
    now = selection.selected(scores.layout)
    return View(now.layer or 0, now.module, now.unit, colour or "log", ordered)


def heatmaps(scores: Saliency, stack: str, view: View, plan: PruningPlan | None, protocol: str) -> None:
    """A heatmap for each module, with the view's layer outlined."""
    for module, column in zip(figures.modules(scores, stack), module_columns(scores, stack), strict=True):
        with column:
            chart = figures.unit_heatmap(
                scores,
                stack,
                module,
                colour=view.colour,
                ordered=view.ordered,
                plan=plan,
                selected=view.layer,
                unit=view.unit if module == view.module else None,
            )
            show_chart(f"saliency.heatmap.{module}", chart, protocol, clickable=True)


def spread(scores: Saliency, stack: str, protocol: str) -> None:
    """The distribution of each layer's scores."""
    for module, column in zip(figures.modules(scores, stack), module_columns(scores, stack), strict=True):
        with column:
            chart = over_layers(distributions.layer_distributions(scores, stack, module), scores.layout, stack)
            show_chart(f"saliency.spread.{module}", chart, protocol, clickable=True)


def one_layer(scores: Saliency, stack: str, view: View, plan: PruningPlan | None, protocol: str) -> None:
    """Every unit of the selected layer from best to worst, with the cut of the plan."""
    for module, column in zip(figures.modules(scores, stack), module_columns(scores, stack), strict=True):
        site = Site(stack, view.layer, module)
        if site not in scores.layout:
            continue
        with column:
            marked = view.unit if module == view.module else None
            chart = distributions.score_curve(scores, site, plan, unit=marked)
            show_chart(f"saliency.curve.{module}", chart, protocol, clickable=True)
            table = distributions.unit_table(scores, site, plan)
            if len(table) > 2 * EXTREMES:
                best, worst = st.columns(2)
                with best:
                    _units(f"saliency.best.{module}", f"The {EXTREMES} best", table.head(EXTREMES))
                with worst:
                    _units(f"saliency.worst.{module}", f"The {EXTREMES} worst", table.tail(EXTREMES)[::-1])
            else:
                _units(f"saliency.best.{module}", "Best first", table)


def how_computed(scores: Saliency) -> None:
    """The record of the scores' computation."""
    rows: dict[str, object] = {"criterion": scores.criterion, "calibration set": scores.calibration_hash}
    rows |= {name.replace("_", " "): value for name, value in scores.details.items()}
    st.table({name: _readable(value) for name, value in rows.items() if value not in ("", None)})


def module_columns(scores: Saliency, stack: str) -> list[st.delta_generator.DeltaGenerator]:
    """Side by side: a narrow column for few units, a wide one for many."""
    sites = {site.module: place.units for site, place in scores.layout.items() if site.stack == stack}
    narrow, wide = (1.0, 2.0) if len(sites) < 3 else (1.0, 1.25)  # three narrow ones are too tight for a colour bar
    gap: Literal["medium", "large"] = "large" if len(sites) < 3 else "medium"
    return list(st.columns([narrow if units <= 64 else wide for units in sites.values()], gap=gap))


def _units(key: str, title: str, table: object) -> None:
    st.markdown(f"**{title}**")
    st.dataframe(table, hide_index=True, key=key, column_config={"score": st.column_config.NumberColumn(format="%.3g")})


def _readable(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
