"""Results on the Sweep page: verdicts, tables, charts, and the runs behind the points."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import clicked, show_chart
from nirvana.dashboard.panels.losses import why_link
from nirvana.dashboard.panels.sweep import PANEL
from nirvana.reporting.figures import pareto
from nirvana.reporting.figures import sweep as figures
from nirvana.reporting.figures.chart import count
from nirvana.reporting.figures.sweep_recovery import recovery_by_way
from nirvana.reporting.sweeps import HEADINGS, Verdict, metrics, points_table, title, verdicts
from nirvana.reporting.text import plain
from nirvana.runs.run import Run
from nirvana.studies.sweep_rows import Row

METRIC, AGAINST, POINT = "sweep.metric", "sweep.against", "sweep.point"
CURVES, FRONT, TABLE = "sweep.by_sparsity", "sweep.pareto", "sweep.points"
RECOVERED = "sweep.recovery"
BOXES = {"winner": st.success, "beaten": st.warning, "tie": st.info, "unknown": st.info}
ICONS = {
    "winner": ":material/trophy:",
    "beaten": ":material/trending_down:",
    "tie": ":material/balance:",
    "unknown": ":material/casino:",
}


def choose_metric(rows: Sequence[Row]) -> str:
    """The measurement that the page compares; empty without one."""
    take_click(rows)
    names = metrics(rows)
    if not names:
        return ""
    if st.session_state.get(METRIC) not in names:
        st.session_state[METRIC] = names[0]
    return st.selectbox("Measured by", names, key=METRIC, format_func=title)


def answer(rows: Sequence[Row], metric: str) -> None:
    """The picture of the page, and below it the verdicts and the failed points."""
    chart = figures.by_sparsity(rows, metric) if metric else None
    if chart is not None:
        show_chart(CURVES, chart, _protocol(rows), clickable=True)
    if metric:
        say(verdicts(rows, metric))
    PANEL.failures((row.point.label, row.failure) for row in rows if row.failure)


def contests(rows: Sequence[Row], metric: str) -> None:
    """Each criterion as published, and with the allocation that all share."""
    if not metric:
        st.caption("Appears with the first finished point.")
        return
    st.markdown("#### As published, and with the same allocation")
    st.dataframe(figures.comparison_table(rows, metric), hide_index=True, key="sweep.comparison", height="content")
    st.caption(
        f"{title(metric)}: means over seeds ± one standard deviation; of the dense model ± its standard "
        "error. Points more than 1 pp off the target sparsity are flagged and excluded from comparisons."
    )


def trained(rows: Sequence[Row], metric: str) -> None:
    """Each way before and after recovery."""
    chart = recovery_by_way(rows, metric) if metric else None
    if chart is None:
        st.caption("No point has been recovered. Choose a recovery under More, and all points are trained alike.")
    else:
        show_chart(RECOVERED, chart, f"{_size(rows)}.")


def say(found: Sequence[Verdict]) -> None:
    """A box for each kind of verdict: criteria better than NIRVANA first, then winners, then undecided contests."""
    for kind, heading in HEADINGS.items():
        lines = [plain(each.text) for each in found if each.kind == kind]
        if lines:
            BOXES[kind](f"**{heading}.**\n" + "\n".join(f"- {line}" for line in lines), icon=ICONS[kind])
            if kind == "beaten":
                why_link("sweep")
    if found:
        st.caption(
            "A winner is named only where the 95 % interval of the paired difference over seeds excludes zero "
            "against every other criterion. Intervals are not adjusted for multiple comparisons: one in twenty "
            "errs by chance."
        )


def frontier(run: Run, rows: Sequence[Row], metric: str) -> None:
    """Quality against parameters, bytes or measured speed."""
    if not metric:
        st.caption("Appears with the first finished point.")
        return
    options = [name for name in pareto.AGAINST if name != "speed" or any(row.speed for row in rows)]
    if st.session_state.get(AGAINST) not in options:
        st.session_state[AGAINST] = options[0]
    against = st.segmented_control(
        "Quality against",
        options,
        key=AGAINST,
        wrap=True,
        required=True,
        format_func=lambda name: pareto.AGAINST[name].capitalize(),
    )
    sizes = run.sizes() if against == "bytes" else None
    chart = pareto.pareto(rows, metric, str(against), sizes)
    if chart is not None:
        show_chart(FRONT, chart, clickable=True)
        if against == "bytes" and not chart.table["model"].str.startswith("dense ").any():
            st.caption(
                "Quantised copies of the dense model are also drawn if quality against bytes was measured on "
                "the Compare page of the open run, for perplexity on the same text, tokens and windows."
            )


def take_click(rows: Sequence[Row]) -> None:
    """Select the point of a clicked mark or table row; called before the selectbox is drawn."""
    known = [row.run_id for row in rows if row.run_id]
    for key in (CURVES, FRONT):
        point = clicked(key)
        data = (point or {}).get("customdata")
        run_id = data[0] if isinstance(data, list) and data else data
        if run_id in known:
            st.session_state[POINT] = run_id
    event = st.session_state.get(TABLE)
    chosen = list(event["selection"]["rows"]) if event else []
    if chosen != st.session_state.get(f"{TABLE}.seen", []):
        st.session_state[f"{TABLE}.seen"] = chosen
        if chosen and chosen[0] < len(rows) and rows[chosen[0]].run_id:
            st.session_state[POINT] = rows[chosen[0]].run_id


def points(rows: Sequence[Row]) -> None:
    """Table of all points, and the button that opens a point's run."""
    if not rows:
        st.caption("Appears with the first finished point.")
        return
    table = points_table(rows)
    st.dataframe(
        table.drop(columns="run"),
        hide_index=True,
        key=TABLE,
        on_select="rerun",
        selection_mode="single-row",
        height="auto" if len(table) < 9 else 320,
        column_config={
            "asked": st.column_config.NumberColumn(format="percent"),
            "sparsity": st.column_config.NumberColumn(format="percent"),
            "parameters": st.column_config.NumberColumn(format="localized"),
            "bytes": st.column_config.NumberColumn(format="localized"),
            "seconds": st.column_config.NumberColumn(format="%.1f"),
        },
    )
    labels = {row.run_id: row.point.label for row in rows if row.run_id}
    if labels:
        if st.session_state.get(POINT) not in labels:
            st.session_state[POINT] = next(iter(labels))
        chosen = st.selectbox(
            "Point",
            list(labels),
            key=POINT,
            format_func=labels.__getitem__,
            help="A click on a mark of a chart or a row of the table also chooses it.",
        )
        with st.container(horizontal=True):
            if st.button("Open its run", key="sweep.open", icon=":material/folder_open:"):
                state.open_run(chosen)
                st.switch_page("pages/compare.py")
            st.download_button(
                "Download CSV",
                data=lambda: table.to_csv(index=False).encode(),
                file_name="sweep.csv",
                mime="text/csv",
                key="sweep.csv",
                icon=":material/download:",
                on_click="ignore",
            )


def _protocol(rows: Sequence[Row]) -> str:
    return f"{_size(rows)}. A click on a mark chooses its run below."


def _size(rows: Sequence[Row]) -> str:
    return f"{count(len(rows), 'point')}, {count(len({row.point.seed for row in rows}), 'seed')}"
