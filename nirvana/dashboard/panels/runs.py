"""Parts of the Runs page: the history, and actions on runs."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.comparison import set_beside
from nirvana.dashboard.panels.sidebar import STATUS
from nirvana.errors import NirvanaError
from nirvana.reporting.figures import runs as figures
from nirvana.reporting.figures.allocation import gamma_label
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import megabytes, moment, plain
from nirvana.runs.describe import ALLOCATIONS
from nirvana.runs.recipe import AllocationChoice
from nirvana.runs.store import EXAMPLE, Run

SELECTED = "runs.selected"
POINT = "runs.point"


def listed(now: state.Context) -> list[Run]:
    """The runs visible to this session, pinned ones first, the example last."""
    example = now.store.open(EXAMPLE)
    return [*state.visible_runs(), *([example] if example.model() is not None else [])]


def _allocation(choice: AllocationChoice) -> str:
    words = f"gamma {gamma_label(choice.gamma)}" if choice.method == "shared" else ALLOCATIONS[choice.method]
    return words + ", equal widths" * choice.uniform


def history(runs: list[Run]) -> None:
    """All runs as a table; a click on a row selects the run below."""
    rows, use = [], {}
    for run in runs:
        choice, points = run.recipe.allocation, state.store().children(run.id)
        use[run.id] = run.steps.size() + sum(point.steps.size() for point in points)
        rows.append(
            {
                "run": ("📌 " if run.pinned else "") + run.name,
                "points": len(points) or None,
                "status": "example" if run.is_example else STATUS.get(run.status, run.status),
                "model": run.recipe.model.name,
                "sparsity": choice.sparsity,
                "allocation": _allocation(choice),
                **figures.history_row(run.report()),
                "started": moment(run.created),
                "on disk": megabytes(use[run.id]),
            }
        )
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="runs.table",
        placeholder="",
        on_select="rerun",
        selection_mode="multi-row",
        column_config={
            "points": st.column_config.NumberColumn(help="Points of its sweep; each is a run, opened below."),
            "sparsity": st.column_config.NumberColumn(format="percent"),
            "perplexity": st.column_config.TextColumn(
                help="Dense to pruned to recovered, on the first corpus of the run."
            ),
            "KL": st.column_config.NumberColumn(format="%.3g", help="Nats per token; 0 means identical."),
        },
    )
    total = sum(use[run.id] for run in runs if not run.is_example)
    st.caption(
        f"Runs take {megabytes(total)} on disk. A pruned model is stored as base and plan, without weights, "
        "and a recovered one by its weights."
    )


def take_row(runs: list[Run]) -> None:
    """Select the run of a clicked row; called before the selectbox is drawn."""
    rows = _rows()
    if rows != st.session_state.get("runs.table.seen", []):
        st.session_state["runs.table.seen"] = rows
        if rows and rows[-1] < len(runs):
            st.session_state[SELECTED] = runs[rows[-1]].id
    ids = [run.id for run in runs]
    if st.session_state.get(SELECTED) not in ids:
        current = st.session_state.get(state.RUN)
        st.session_state[SELECTED] = current if current in ids else ids[0]


def _rows() -> list[int]:
    event = st.session_state.get("runs.table")
    return list(event["selection"]["rows"]) if event else []


def choose(runs: list[Run]) -> Run:
    """The run for the actions below."""
    names = {run.id: run for run in runs}
    chosen = st.selectbox(
        "Run",
        list(names),
        key=SELECTED,
        format_func=lambda run_id: f"{names[run_id].name} · {moment(names[run_id].created)}",
        help="A click on a row of the table also chooses it.",
    )
    return names.get(chosen, runs[0])


def actions(run: Run, now: state.Context) -> None:
    """Open, pin, rename and delete."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Open", key="runs.open", type="primary", icon=":material/folder_open:"):
            state.open_run(run.id)
            st.switch_page("pages/compare.py" if run.report() else "pages/model.py")
        if run.is_example:
            st.caption("The example is read only.")
            return
        st.button(
            "Unpin" if run.pinned else "Pin",
            key="runs.pin",
            icon=":material/push_pin:",
            help="A pinned run stays at the top.",
            on_click=_attempt,
            args=("pin", run.id, not run.pinned),
        )
        with st.popover("Rename", icon=":material/edit:", key="runs.rename"):
            name_key = f"runs.name.{run.id}"
            st.session_state.setdefault(name_key, run.name)
            st.text_input("New name", key=name_key, max_chars=120)
            st.button("Save the name", key="runs.rename.save", on_click=_rename, args=(run.id, name_key))
        size = now.store.disk_use(run.id)
        with st.popover("Delete", icon=":material/delete:", key="runs.delete", disabled=run.status == "running"):
            points = len(now.store.children(run.id))
            also = f" and the {count(points, 'point')} of its sweep" if points else ""
            st.markdown(f"Delete **{plain(run.name)}** with all its results{also}, {megabytes(size)}?")
            st.caption("This cannot be undone. Results shared with other runs stay with them.")
            st.button(
                "Delete for good",
                key="runs.delete.confirm",
                type="primary",
                on_click=_attempt,
                args=("delete", run.id),
            )
    failure = run.failure()
    if failure is not None and failure["status"] == "failed":
        st.warning(
            f"Its last job failed: {plain(failure['message'])} {plain(failure['hint'])}", icon=":material/error:"
        )


def children(run: Run, now: state.Context) -> None:
    """The points of the run's sweep, collapsed; each opens like any run."""
    points = now.store.children(run.id)
    if not points:
        return
    with st.expander(f"{count(len(points), 'point')} of its sweep", icon=":material/account_tree:", key="runs.points"):
        rows = [
            {
                "point": point.name,
                "status": STATUS.get(point.status, point.status),
                **figures.history_row(point.report()),
            }
            for point in points
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True, key="runs.points.table", height=min(35 * len(rows) + 38, 320))
        names = {point.id: point.name for point in points}
        if st.session_state.get(POINT) not in names:
            st.session_state[POINT] = points[0].id
        chosen = st.selectbox("Point", list(names), key=POINT, format_func=names.__getitem__)
        if st.button("Open this point", key="runs.points.open", icon=":material/folder_open:"):
            state.open_run(chosen)
            st.switch_page("pages/compare.py")


def compare(runs: list[Run]) -> None:
    """A button that compares the selected runs on the Compare page."""
    chosen = [runs[row].id for row in _rows() if row < len(runs)]
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            f"Compare {count(len(chosen), 'run')}" if len(chosen) > 1 else "Compare runs",
            key="runs.compare",
            icon=":material/balance:",
            disabled=len(chosen) < 2,
            help="Select two rows or more in the table first.",
        ):
            set_beside(chosen)
        st.caption("Select rows of the table to compare runs.")


def _attempt(action: str, run_id: str, *values: object) -> None:
    try:
        getattr(state.store(), action)(run_id, *values)
    except NirvanaError as error:
        st.session_state[state.PROBLEM] = error
    if action == "delete" and st.session_state.get(state.RUN) == run_id:
        try:
            state.store().open(run_id)
        except NirvanaError:
            state.open_run(EXAMPLE)


def _rename(run_id: str, key: str) -> None:
    _attempt("rename", run_id, str(st.session_state[key]))
