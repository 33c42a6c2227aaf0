"""Agreement of criteria on the Saliency page: the open run's scores against those of another run."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import scores_protocol, show_chart
from nirvana.dashboard.panels.criteria import criterion_title
from nirvana.dashboard.replan import draft_plan, load_saliency
from nirvana.dashboard.scored import others_of_model
from nirvana.plan import PruningPlan
from nirvana.reporting.figures.agreement import same_order, same_units
from nirvana.saliency.scores import Saliency

AGAINST = "saliency.against"


def criterion_against_criterion(now: state.Context, scores: Saliency, stack: str, plan: PruningPlan | None) -> None:
    """Rank correlation and overlap of kept units by layer, against a run of the same model by another criterion.

    `plan` is the draft recipe's plan of `scores`, or None.
    """
    found = {
        run_id: run for run_id, run in others_of_model(now).items() if run.recipe.saliency.criterion != scores.criterion
    }
    if not found:
        st.caption(
            "No other run of this model has scores by another criterion. Choose another one above and score the units: "
            "that starts a separate run, and both can be compared here."
        )
        return
    if st.session_state.get(AGAINST) not in found:
        st.session_state[AGAINST] = next(iter(found))
    chosen = st.selectbox(
        "Compare with",
        list(found),
        key=AGAINST,
        format_func=lambda run_id: f"{criterion_title(found[run_id].recipe.saliency.criterion)} · {found[run_id].name}",
        help="Runs of the same model whose units were scored by another criterion.",
    )
    other = load_saliency(found[chosen])
    if other is None or other.layout != scores.layout:
        st.caption("The scores of that run cannot be read. Choose another one.")
        return
    names = (criterion_title(scores.criterion), criterion_title(other.criterion))
    protocol = scores_protocol(now.run, scores).rstrip(".") + "; " + scores_protocol(found[chosen], other)
    order, units = st.columns(2, gap="large")
    with order:
        show_chart("saliency.agreement", same_order(scores, other, stack, names), protocol)
    theirs = draft_plan(other, now.recipe.allocation, now.run)
    with units:
        if plan is not None and theirs.plan is not None:
            show_chart("saliency.overlap", same_units(plan, theirs.plan, scores, stack, names), protocol)
        else:
            st.info(f"The kept units cannot be compared. {theirs.error or 'This run has no plan.'}")
