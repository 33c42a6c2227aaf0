"""Exercises on the open run and its draft, checked as one works."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.guide import GUIDES
from nirvana.dashboard.panels.messages import page_link
from nirvana.dashboard.replan import draft_plan, load_saliency
from nirvana.reporting.text import plain
from nirvana.runs.store import EXAMPLE
from nirvana.teaching.exercises import NUMBERS, PLANS, Answer, NumberExercise

RIGHT, OPEN = ":material/check_circle:", ":material/radio_button_unchecked:"


def show(now: state.Context) -> None:
    """Numeric questions, then plans to make on the Allocation page."""
    scores = load_saliency(now.run)
    draft = draft_plan(scores, now.recipe.allocation, now.run) if scores else None
    st.markdown(f"On the open run, **{plain(now.run.name)}**. Answers are checked against its results.")
    if scores is None and not now.run.is_example:
        st.button("Open the example", key="exercises.example", on_click=state.open_run, args=(EXAMPLE,))
    numbers, plans = st.columns(2, gap="large")
    with numbers:
        st.markdown("#### Read the pages")
        for number in NUMBERS:
            _number(now, number)
    with plans:
        st.markdown("#### Move the sliders")
        if draft is None or draft.plan is None:
            st.caption("These need a plan: scores of the open run, and a sparsity that can be reached.")
        for exercise in PLANS:
            answer = exercise.check(draft.plan) if draft is not None and draft.plan is not None else None
            _line(exercise.task, answer)
        if draft is not None:
            page_link("allocation", "Change the plan on the Allocation page")


def _number(now: state.Context, exercise: NumberExercise) -> None:
    given = st.number_input(exercise.question, value=None, key=f"exercises.{exercise.name}", placeholder="Your answer")
    if given is None:
        page_link(exercise.page, f"See {GUIDES[exercise.page].title}")
        return
    answer = exercise.check(now.run, float(given))
    if answer is None:
        st.caption("The open run has no such result yet.")
    else:
        _verdict(answer)


def _line(task: str, answer: Answer | None) -> None:
    st.markdown(f"{RIGHT if answer and answer.right else OPEN} {task}")
    if answer is not None:
        _verdict(answer)


def _verdict(answer: Answer) -> None:
    if answer.right:
        st.success(answer.words, icon=RIGHT)
    else:
        st.caption(plain(answer.words))
