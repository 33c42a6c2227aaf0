"""Zero-shot tasks on the Compare page: choice and results."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.fields import whole_number
from nirvana.dashboard.panels.messages import show_error
from nirvana.errors import NirvanaError
from nirvana.evaluation.results import Report
from nirvana.evaluation.zero_shot.results import comparisons
from nirvana.evaluation.zero_shot.tasks import HUB, MINIMAL_PAIRS, check_fit, check_name, task_title
from nirvana.reporting.figures import zero_shot as figures
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import plain
from nirvana.runs.pace import zero_shot_characters
from nirvana.runs.recipe import EvaluationChoice, Recipe
from nirvana.runs.results import ModelCard

PAIRS, TASKS, ITEMS = "compare.minimal_pairs", "compare.tasks", "compare.items"


def task_controls(choice: EvaluationChoice) -> EvaluationChoice:
    """Controls of tasks and number of items, starting from `choice`; returns their values."""
    own = not state.public_demo()
    st.session_state.setdefault(PAIRS, MINIMAL_PAIRS in choice.zero_shot)
    pairs = st.toggle(
        "Test grammar with minimal pairs",
        key=PAIRS,
        help=(
            "A built-in probe that needs no download: 12 phenomena with 100 pairs each, of one grammatical "
            "sentence and one with a wrong word. A model is right where the grammatical one is likelier; guessing "
            "is right half the time. For language models without an encoder."
        ),
    )
    others = tuple(name for name in choice.zero_shot if name != MINIMAL_PAIRS)
    with st.grid(2, min_column_width=150):
        if own:
            st.session_state.setdefault(TASKS, list(others))
            others = tuple(
                st.multiselect(
                    "Other zero-shot tasks",
                    list(dict.fromkeys([*HUB, *others, *st.session_state[TASKS]])),
                    key=TASKS,
                    format_func=_option,
                    accept_new_options=True,
                    placeholder="Choose, or type a path",
                    help=(
                        "Questions with multiple choices, without examples. For your own, type the path of a "
                        ".jsonl file on the machine that serves this page, or of a folder of them: a line has "
                        "query, choices and gold, or context_options, continuation and gold."
                    ),
                )
            )
        items = whole_number(
            "Items of each task, 0 for all",
            choice,
            "zero_shot_items",
            key=ITEMS,
            step=25,
            help=(
                "Taken from the start of each task and of each phenomenon of the minimal pairs. More items reduce "
                "the standard error and take longer."
            ),
        )
    chosen = (*((MINIMAL_PAIRS,) if pairs else ()), *others)
    if set(chosen) == set(choice.zero_shot):
        chosen = choice.zero_shot  # an imported recipe may have another order
    return choice.with_values(zero_shot=chosen, zero_shot_items=items)


def asked(recipe: Recipe) -> str:
    """Number of items and tasks, as the end of a sentence."""
    tasks = recipe.evaluation.zero_shot
    text = f", and are measured on {count(len(tasks), 'zero-shot task')}" if tasks else ""
    return f"{text} (downloads are not counted)" if zero_shot_characters(recipe) is None else text


def tasks_usable(choice: EvaluationChoice, card: ModelCard | None) -> bool:
    """Whether the tasks can be measured; otherwise a hint is shown."""
    try:
        for name in choice.zero_shot:
            check_name(name)
        if card is not None:
            check_fit(choice.zero_shot, card.name, encoder=len(card.layout.stacks) > 1)
    except NirvanaError as error:
        show_error(error)
        return False
    return True


def answers(report: Report) -> None:
    """Accuracies of each model on every task and phenomenon, and significant differences."""
    found = comparisons(report)
    if not found:
        return
    measured = found[0].first
    protocol = ", ".join(
        part
        for part in (
            plain(measured.protocol.get("harness", "")),
            "no examples in the prompt",
            " ".join(str(measured.protocol.get(name, "")) for name in ("dtype", "device")).strip(),
            plain(measured.protocol.get("note") or ""),
        )
        if part
    )
    tasks, phenomena = figures.split_phenomena(found)
    for name, rows, what in (("tasks", tasks, "task"), ("phenomena", phenomena, "phenomenon")):
        drawn = [
            (key, chart)
            for key, chart in (
                (f"compare.accuracy.{name}", figures.accuracies(rows, what)),
                (f"compare.difference.{name}", figures.differences(rows, what)),
            )
            if chart is not None
        ]
        if drawn:
            for (key, chart), column in zip(drawn, st.columns(len(drawn), gap="large"), strict=True):
                with column:
                    show_chart(key, chart, f"{protocol}.")


def explain_tasks() -> None:
    """Explanation of zero-shot accuracy and the paired difference."""
    st.markdown(
        "A **zero-shot task** has no examples in the prompt. The model's answer is the likeliest choice: by "
        "the sum of its tokens' log-probabilities (**accuracy**), or by that sum over the answer's length in "
        "characters (**normalised accuracy**), which does not favour short answers. The two are not comparable "
        "with each other, nor with other versions of the harness."
    )
    st.markdown(
        "All models are measured on the same items, so their difference is more precise than each accuracy: "
        "items that both answer correctly, or both incorrectly, do not contribute. Its 95 % interval counts "
        "the items that only one of them answers correctly; a model is called better only where that interval "
        "excludes zero."
    )


def _option(name: str) -> str:
    return f"{task_title(name)} (download)" if name in HUB else name
