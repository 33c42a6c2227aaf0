"""The sidebar: the open run, the running job and memory, the same on every page."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import streamlit as st

from nirvana.dashboard import lecture, state
from nirvana.dashboard.guide import PageGuide
from nirvana.dashboard.panels import tour
from nirvana.dashboard.panels.job import POLL, show_progress
from nirvana.dashboard.panels.messages import show_error
from nirvana.dashboard.panels.model import devices_now
from nirvana.errors import NirvanaError
from nirvana.jobs.records import device_of
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import megabytes, plain
from nirvana.runs.run import Run

STEP_ICONS = {
    "done": ":material/check_circle:",
    "stale": ":material/update:",
    "running": ":material/hourglass_top:",
    "failed": ":material/error:",
    "missing": ":material/radio_button_unchecked:",
    "off": ":material/do_not_disturb_on:",
}
IDLE_POLL = 10.0  # seconds between looks at the memory while nothing runs
STATUS = {
    "done": "complete",
    "partial": "in part",
    "empty": "not started",
    "running": "running",
    "queued": "waiting",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "interrupted",
}


def page_icon(now: state.Context, guide: PageGuide) -> str:
    """For a step, the state of the open run's result; for other pages their icon."""
    return STEP_ICONS[state.state_of(now, guide.step)] if guide.step else guide.icon


def sidebar(now: state.Context) -> None:
    """The open run with its model, running jobs, and memory."""
    with st.sidebar:
        st.markdown(f"**{plain(now.run.name)}**")
        status = "example, read only" if now.run.is_example else STATUS.get(now.run.status, now.run.status)
        card = now.run.model()
        where = f"{plain(card.name)} on {plain(card.device)}, {plain(card.dtype)}" if card else "No model loaded yet"
        note = f" · {plain(card.note)}" if card and card.note else ""
        st.caption(f"Run: {status}  \n{where}{note}")
        if now.run.study:
            st.button(
                "Back to its study",
                key="sidebar.study",
                type="tertiary",
                icon=":material/arrow_back:",
                on_click=state.open_run,
                args=(now.run.study,),
                help="This run is one point of a sweep. Open the run of the sweep.",
            )
        tour.offer("sidebar.tour", "Guided tour")
        lecture.switch()
        copy_link()
        live, others = bool(now.jobs.live_jobs()), now.jobs.others()
        st.fragment(_activity, run_every=POLL if live or others else IDLE_POLL)(now.run, live, bool(others))


def copy_link() -> None:
    """The address that opens this page with the run, layer, unit and criterion that are chosen, ready to copy."""
    with st.popover("Copy link", type="tertiary", icon=":material/link:", key="sidebar.link"):
        st.code(link(st.context.url or "", st.query_params.to_dict()), language=None, wrap_lines=True)
        st.caption("It opens this page with the run, layer, unit and criterion chosen now.")


def link(address: str, parameters: Mapping[str, str]) -> str:
    """The address of a page with query parameters."""
    return f"{address}?{urlencode(parameters)}"


def _activity(run: Run, was_live: bool, were_others: bool) -> None:
    """Jobs of any run, and memory. Reruns the page once when the last job ends."""
    try:
        _show_activity(run, was_live, were_others)
    except NirvanaError as error:  # here, since the fragment runs without app.py
        show_error(error)


def _show_activity(run: Run, was_live: bool, were_others: bool) -> None:
    if st.session_state[state.RUN] != run.id:  # the button below was pressed
        st.rerun()
    jobs = state.jobs()
    live, others = jobs.live_jobs(), jobs.others()
    if (was_live and not live) or (were_others and not others):
        st.rerun()
    if others:
        place = 0 if live else jobs.next_place(device_of(run))
        st.caption(
            f"Busy with {count(others, 'job')} of other visitors"
            + (f": place {place} in the queue for a new one." if place else ".")
        )
    for job in live[:1]:
        show_progress(job)
        if job.run_id != run.id:
            st.button(
                plain(state.store().open(job.run_id).name),
                key="sidebar.open_running",
                type="tertiary",
                icon=":material/open_in_new:",
                on_click=state.open_run,
                args=(job.run_id,),
                help="Open the run that is being computed.",
            )
        if len(live) > 1:
            st.caption(f"{len(live) - 1} more in the queue")
    lines = [
        f"{megabytes(device.free)} of {megabytes(device.total)} free, {plain(device.title)}"
        for device in reversed(devices_now())
    ]
    lines += [
        f"{plain(model['model'])} holds {megabytes(model['bytes'])} on {plain(model['device'])}"
        for model in jobs.resident()
    ]
    st.caption("  \n".join(lines))
