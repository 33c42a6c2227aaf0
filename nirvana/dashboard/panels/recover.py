"""Parts of the Recover page: the course of the training, its actions and its result."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.cost import expected, warn
from nirvana.dashboard.panels.exports import exports
from nirvana.dashboard.panels.messages import message, show_error
from nirvana.dashboard.panels.metrics import metric
from nirvana.dashboard.panels.prune import show_cost
from nirvana.errors import NirvanaError
from nirvana.jobs.queue import Job
from nirvana.recovery.history import RecoveryHistory
from nirvana.reporting.estimates import expected_seconds, in_words, step_left
from nirvana.reporting.figures import recovery as figures
from nirvana.reporting.figures.chart import short
from nirvana.reporting.recovery import overfitting, protocol_words, recent_loss, seconds_spent, tokens_a_second
from nirvana.reporting.text import duration, plain
from nirvana.runs.pace import read_pace
from nirvana.runs.recovery import course, has_weights, interrupted
from nirvana.runs.validation import check_against_model

POLL = 1.0  # seconds
WHOLE, EMPTY = "Recover", "–"
UNSTORED = "The weights of this recovered model are not stored: points of a sweep and the example keep none."


def watch(now: state.Context) -> None:
    """The course of the recovery: live while it trains, else of the run's result or of an interruption."""
    if now.job is not None and _trains(now.job):
        st.fragment(_live, run_every=POLL)(now.run.id, now.job.id)
        return
    finished = now.run.recovery()
    history = finished or course(now.run)
    if history is None or not history.checks:
        return
    if finished is not None and now.run.step_state("recover", now.recipe) == "stale":
        st.warning("What follows belongs to earlier choices. Recover again to bring it up to date.")
    elif finished is None and interrupted(now.run, now.recipe) is None:
        st.info("This recovery was interrupted, and belongs to earlier choices.", icon=":material/pause_circle:")
    picture(history)
    numbers(history)
    if finished is not None and not has_weights(now.run):
        _again(now)


def _live(run_id: str, job_id: str) -> None:
    try:
        run, job = state.store().open(run_id), state.jobs().job(job_id)
    except NirvanaError:  # deleted in another tab
        st.rerun()
    history = course(run)
    if history is None or not history.checks:
        st.info("Before the first step, the model is measured on held-out text.", icon=":material/hourglass_top:")
        return
    picture(history, loss=True)
    left = step_left(job, expected_seconds("recover", run.recipe, read_pace(run.recipe.model)))
    numbers(history, EMPTY if left is None else duration(left))


def picture(history: RecoveryHistory, *, loss: bool = False) -> None:
    """Held-out perplexity and KL at the checks, and with `loss` the training loss, with warnings."""
    if history.stopped:
        message(history.stopped, "Lower the learning rate, or the maximum norm of a gradient.")
    worse = overfitting(history)
    if worse:
        st.warning(f"**Overfitting.** {plain(worse)}", icon=":material/trending_up:")
    charts = {"recover.perplexity": figures.perplexity_by_step(history), "recover.kl": figures.kl_by_step(history)}
    if loss:
        charts["recover.loss"] = figures.loss_by_step(history)
    with st.grid(2, min_column_width=300, gap="medium"):
        for key, chart in charts.items():
            if chart is not None:
                with st.container():
                    show_chart(key, chart)


def numbers(history: RecoveryHistory, left: str = "") -> None:
    """Loss, learning rate, pace, time and the kept step; `left` is the time left while it trains."""
    last, pace = history.steps[-1] if history.steps else None, tokens_a_second(history)
    with st.grid(5, min_column_width=130):
        meaning = "Nats a token, mean of the last 20 steps."
        metric("Training loss", short(recent_loss(history)) if last else EMPTY, meaning=meaning)
        metric("Learning rate", f"{last.learning_rate:.2g}" if last else EMPTY, f"step {last.step:,}" if last else "")
        metric("Tokens per second", f"{pace:,.0f}" if pace else EMPTY, f"{last.tokens:,} tokens" if last else "")
        if left:
            metric("Time left", left, f"{duration(seconds_spent(history))} spent", "At the budget, or the pace so far.")
        else:
            metric("Time spent", duration(seconds_spent(history)))
        best = history.best
        metric("Best step", f"{best.step:,}", "before training" if not best.step else "", "Its weights are kept.")


def actions(now: state.Context) -> None:
    """Estimated cost, and the buttons: recover or continue first, then compare."""
    recipe = now.recipe
    enabled, busy = recipe.recovery.method != "none", now.job is not None
    done = state.state_of(now, "recover") == "done"
    saved = interrupted(now.run, recipe)
    possible = not enabled or _possible(now)
    todo = [step for step in recipe.up_to("recover") if now.run.step_state(step, recipe) != "done"]
    if enabled and not busy:
        if saved is None:
            show_cost(now, todo)
        else:
            st.caption(f"{_paused(saved)} {_rest(now, saved)}")
            warn(expected(now, todo))
    verb = WHOLE if saved is None else "Continue"
    with st.container(horizontal=True):
        if st.button(
            "Recovered" if done else verb,
            key="recover.run",
            type="primary" if enabled and not done else "secondary",
            icon=":material/check:" if done else ":material/play_arrow:",
            disabled=done or busy or not enabled or not possible,
            help="Also computes earlier steps that are not current. Pause it at any time: its state is kept.",
        ):
            state.submit("recover")
        further = enabled and not done
        if st.button(
            f"{verb} and compare" if further else "Continue to Compare",
            key="recover.compare",
            type="secondary" if further else "primary",
            icon=None if further else ":material/arrow_forward:",
            disabled=further and (busy or not possible),
            help="Measures the dense, the pruned and the recovered model next." if further else None,
        ):
            if not further:
                st.switch_page("pages/compare.py")
            state.submit("evaluate")


def explain() -> None:
    """The objectives, the budget, and the choice of the best weights."""
    st.markdown(
        "Training is a few minutes of gradient steps by AdamW on the pruned model, whose size stays the same. "
        "**Distillation** needs no labels: at every position the pruned model's distribution $q$ of the next token is "
        "moved towards the dense model's $p$, with the loss"
    )
    st.latex(r"\mathrm{KL}(p \,\|\, q) = \sum_v p_v \log \frac{p_v}{q_v}")
    st.markdown(
        "**Adapters** and **language modelling** minimise the negative log-probability of the text instead: adapters "
        "train two small matrices beside each linear layer and merge them in the end, language modelling trains all "
        "weights. The learning rate rises over the warm-up and falls to 0 at the end of the budget.\n\n"
        "The calibration split of the text is trained on. Perplexity and KL are measured on windows of the **probe** "
        "split of that text and of another one, and the weights of the best check are kept, so longer training cannot "
        "make the result worse on them. The Compare page reads the **evaluation** split, which neither training nor "
        "that choice has seen."
    )


def loss(now: state.Context) -> None:
    """Training loss by step."""
    if now.job is not None and _trains(now.job):
        st.caption("It is drawn above while the model trains.")
        return
    history = now.run.recovery() or course(now.run)
    chart = figures.loss_by_step(history) if history is not None else None
    if chart is None:
        st.caption("Appears with the first step of a training.")
    else:
        show_chart("recover.loss", chart)


def checks(now: state.Context) -> None:
    """The checks with their protocol."""
    history = now.run.recovery()
    if history is None:
        st.caption("Appears once the model is recovered.")
        return
    info = now.run.info("recover") or {}
    table = figures.checks_table(history)
    st.dataframe(
        table,
        hide_index=True,
        key="recover.checks.table",
        column_config={
            "tokens": st.column_config.NumberColumn(format="localized"),
            "seconds": st.column_config.NumberColumn(format="%.0f"),
            **{
                name: st.column_config.NumberColumn(format="%.4g")
                for name in map(str, table)
                if name.startswith(("perplexity", "times", "KL"))
            },
        },
    )
    place = f"On {info['device']} in {info['dtype']}" if info.get("device") else ""
    st.caption(plain(protocol_words(history, place)))


def export(now: state.Context) -> None:
    """The export of the recovered model."""
    plan, summary = now.run.plan(), now.run.pruned()
    if now.run.recovery() is None or plan is None or summary is None:
        st.caption("Appears once the model is recovered.")
    elif not has_weights(now.run):
        st.caption(UNSTORED)
    else:
        exports(now, plan, summary, subject="recovered")


def _again(now: state.Context) -> None:
    """A button that recovers in a new run, where the weights are not stored."""
    st.info(UNSTORED, icon=":material/delete:")
    if st.button(
        "Recover in a run of my own",
        key="recover.again",
        icon=":material/play_arrow:",
        disabled=now.job is not None,
        help="Starts a new run with the results of the earlier steps, trains again, and keeps the weights.",
    ):
        state.submit("recover", anew=True)


def _trains(job: Job) -> bool:
    return job.status == "running" and job.step == "recover"


def _possible(now: state.Context) -> bool:
    """Whether the choice can be trained; otherwise the reason is shown."""
    card = now.run.model()
    try:
        now.recipe.recovery.check()
        if card is not None and card.name == now.recipe.model.name:
            check_against_model(now.recipe, card, ("recover",))
    except NirvanaError as error:
        show_error(error)
        return False
    return True


def _paused(saved: RecoveryHistory) -> str:
    return f"Paused after step {saved.steps[-1].step if saved.steps else 0:,}; its state is kept."


def _rest(now: state.Context, saved: RecoveryHistory) -> str:
    minutes = now.recipe.recovery.minutes
    left = max(60 * minutes - seconds_spent(saved), 0.0) if minutes else None
    return f"The rest takes {in_words(left)}." if left is not None else ""
