"""Screens of the Method page with the run's measurements: units removed one by one, text by KL, kernel study."""

from __future__ import annotations

import streamlit as st

from nirvana.calibration.sets import CalibrationSelection
from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.calibration import in_words, load_calibration, result_protocol
from nirvana.dashboard.panels.charts import Stated, show_chart
from nirvana.dashboard.panels.corpora import corpus_label
from nirvana.dashboard.panels.criteria import criterion_title
from nirvana.dashboard.study_panel import StudyPanel
from nirvana.evaluation.ablation_results import Ablations
from nirvana.jobs.tasks.ablation import AblationRequest
from nirvana.reporting.estimates import forward_seconds
from nirvana.reporting.estimates import in_words as seconds_in_words
from nirvana.reporting.figures import ablation as ablation_figures
from nirvana.reporting.figures import kernel as kernel_figures
from nirvana.reporting.figures.calibration import candidate_divergences
from nirvana.reporting.figures.matrix import kl_by_text
from nirvana.reporting.kernel import PART_TITLES, bound_words, preservation_words
from nirvana.reporting.matrix import in_words as matrix_in_words
from nirvana.reporting.quality import Column, read_quality
from nirvana.reporting.quality import in_words as perplexities
from nirvana.reporting.text import count, plain, short
from nirvana.runs.describe import model_name, percent
from nirvana.runs.pace import read_pace
from nirvana.runs.run import Run
from nirvana.saliency.criteria import available, find_criterion
from nirvana.studies.kernel import Kernel, KernelRequest
from nirvana.studies.kernel_rows import KernelRow, KernelStudy, read_kernel
from nirvana.studies.matrix_rows import read_matrix

OPENINGS = 5  # forward passes' worth before the first unit
SHOWN = 8  # units of the table
VARIANTS = ("nirvana", "nirvana-vocab", "nirvana-per-sample")


def _rows(run: Run) -> tuple[KernelRow, ...]:
    found = read_kernel(run.folder)
    return () if found is None else (*found.rows, *found.failed)


PANEL = StudyPanel(Kernel(), "method.theorem", "plan", lambda run: [row.seconds for row in _rows(run)])


def first_order(now: state.Context) -> None:
    """Predicted against true change, of units removed one by one."""
    found = now.run.ablations()
    controls, picture = page.stage("method.ablation", empty=found is None)
    with controls:
        st.latex(r"\Delta f \approx -\sum_{W_{ij} \in u} \tfrac{\partial f}{\partial W_{ij}} W_{ij}")
        if found is not None:
            pair = st.radio(
                "Prediction, measurement",
                list(ablation_figures.PAIRS),
                format_func=lambda name: ablation_figures.PAIRS[name].label,
                key="method.ablation.pair",
            )
        _start_ablation(now, found)
    with picture:
        if found is None:
            _nothing(
                "Units removed one by one", "Each unit is removed alone, and the true change of f and KL measured."
            )
            return
        protocol = _ablation_protocol(now, found)
        show_chart("method.ablation", ablation_figures.predicted_against_true(found, str(pair)), protocol)
        st.caption(protocol)
    missed = ablation_figures.missed_by_layer(found)
    if missed is not None:
        show_chart("method.ablation.missed", missed, protocol)
    _worst(found)
    _why_maximum()


def _start_ablation(now: state.Context, found: Ablations | None) -> None:
    """The size of the measurement, its cost, and the button."""
    usual, scored = AblationRequest(), now.run.info("saliency") is not None
    number = int(st.number_input("Units to remove", 10, 5_000, min(usual.count, 200), 10, key="method.ablation.count"))
    tokens = usual.samples * usual.length
    # A pass begins at the unit's own layer: half the model on average.
    seconds = forward_seconds((number / 2 + OPENINGS) * tokens, read_pace(now.recipe.model))
    if st.button(
        "Measure again" if found is not None else "Remove them one by one",
        key="method.ablation.run",
        type="secondary" if found is not None else "primary",
        icon=":material/play_arrow:",
        disabled=not scored or now.job is not None,
        help=f"{usual.samples} held-out windows of {usual.length} tokens, {seconds_in_words(seconds)}. The model is "
        "restored after each unit. On the command line: nirvana ablate RUN.",
    ):
        state.start_task("ablation", count=number)
    if not scored:
        st.caption("It needs the scores of the Saliency step first.")
        page.page_link("saliency")


def _ablation_protocol(now: state.Context, found: Ablations) -> Stated:
    values = found.protocol
    return Stated(
        f"{plain(model_name(now.run.recipe))}, {count(len(found.items), 'unit')}; f, its gradient and KL on "
        f"{values['samples']} held-out windows of {values['length']} tokens; scores by "
        f"{find_criterion(str(values['criterion'])).title}."
    )


def _worst(found: Ablations) -> None:
    st.markdown("#### Where first order fails most")
    st.table(
        {
            "unit": [f"{item.kind} {item.unit} of layer {item.site.layer}" for item in found.worst(SHOWN)],
            "predicted": [short(item.first_order) for item in found.worst(SHOWN)],
            "true change of f": [short(item.change) for item in found.worst(SHOWN)],
            "KL, nats": [short(item.kl) for item in found.worst(SHOWN)],
        }
    )


def _why_maximum() -> None:
    quality, column = read_quality(), Column(0.2, "shared", "none")
    rows = [f"| {find_criterion(name).title} | {perplexities(quality.cells[name, column])} |" for name in VARIANTS]
    st.markdown(
        "#### Why the maximum over positions?\n"
        "The published code takes each vocabulary entry's highest logit over the positions, and averages over the "
        "vocabulary. f is then a scalar that every output unit contributes to, but it is not the loss. Measured at "
        "20 %, perplexity on two texts:\n\n| f | perplexity |\n|---|---|\n" + "\n".join(rows)
    )
    st.caption(f"Dense: {perplexities(quality.dense)}. {plain(quality.protocol)}")


def text_by_kl(now: state.Context) -> None:
    """Why KL chooses the text: the candidates of the run, else its calibration matrix."""
    chosen, matrix = load_calibration(now.run), read_matrix(now.run.folder)
    selection = chosen if isinstance(chosen, CalibrationSelection) else None
    measured = selection is not None or (matrix is not None and bool(matrix.rows))
    controls, picture = page.stage("method.text", empty=not measured)
    with controls:
        st.latex(r"\mathrm{KL} = \sum_v p_v \log \frac{p_v}{q_v}")
        st.markdown(
            "p are the dense model's predictions of the next token, q the pruned model's. KL needs no labels and reads "
            "the whole distribution, so it shows a damage that the most likely token hides."
        )
        page.page_link("calibration")
    with picture:
        if selection is not None:
            show_chart("method.text", candidate_divergences(selection), result_protocol(now.run, selection))
            st.markdown(in_words(selection))
        elif matrix is not None and matrix.rows:
            show_chart("method.text", kl_by_text(matrix, corpus_label))
            st.markdown(matrix_in_words(matrix, corpus_label))
        else:
            _nothing("KL of the candidates", "This run draws one calibration set, so there is no choice to show.")
    st.markdown(
        "A model is pruned with each candidate set, and the set with the lowest KL on separate **probe** text is kept. "
        "The scores come from a few thousand tokens, so another draw removes other units. Of ten pruned models in "
        "docs/results.md, KL on probes of 512 tokens gives the order of perplexity (rank correlation 1.00); on 64 "
        "tokens, as in the paper, it is 0.89."
    )


def theorem(now: state.Context) -> None:
    """The kernel theorem, measured."""
    study = read_kernel(now.run.folder)
    measured = study is not None and bool(study.rows)
    controls, picture = page.stage("method.theorem", empty=not measured)
    with controls:
        st.latex(r"|\Delta \Theta| \le O(\varepsilon)")
        st.latex(r"\varepsilon = \sum_{\text{removed}} |\nabla f \cdot W|")
        part = "remaining"
        if measured:
            part = st.radio(
                "Part of the change",
                list(PART_TITLES),
                index=1,
                format_func=lambda name: PART_TITLES[name].capitalize(),
                key="method.theorem.part",
            )
        with st.expander(
            "Measure it" if not measured else "Measure again", key="method.theorem.more", expanded=not measured
        ):
            _start_theorem(now)
    with picture:
        page_study = study if measured else None
        if page_study is None:
            _nothing("The kernel's change against the pruned saliency", "Every criterion prunes at growing sparsities.")
        else:
            protocol = _kernel_protocol(now, page_study)
            show_chart("method.theorem", kernel_figures.change_against_saliency(page_study, part), protocol)
            st.caption(protocol)
    if page_study is not None:
        of_kernel = part if part != "output_shift" else "shift"  # f is not a share of the kernel
        show_chart("method.theorem.criteria", kernel_figures.change_by_sparsity(page_study, of_kernel), protocol)
        st.markdown("#### The whole bound\n" + "\n".join(f"- {line}" for line in bound_words(page_study)))
        st.markdown("#### Which criterion preserves the kernel?")
        st.markdown("\n".join(f"- {line}" for line in preservation_words(page_study, of_kernel)))
        PANEL.failures((row.point.label, row.failure) for row in page_study.failed)
    st.markdown(
        "The claim: pruning moves the kernel by at most the order of the pruned saliency. Removed weights also take "
        "their own |df/dW| with them, the **lost mass**, which the claim does not bound; so it is shown apart from the "
        "change on the remaining weights. Every quantity is of the same held-out input x."
    )


def _start_theorem(now: state.Context) -> None:
    usual = KernelRequest()
    criteria = st.multiselect(
        "Criteria", available(), list(usual.criteria), format_func=criterion_title, key="method.theorem.list"
    )
    samples = st.number_input("Inputs", 2, 64, usual.samples, key="method.theorem.inputs", help="Held-out windows.")
    request = KernelRequest(criteria=tuple(criteria), samples=int(samples))
    if PANEL.is_valid(now, request, now.recipe, "Measure the kernel", quiet=not criteria):
        sparsities = ", ".join(percent(each) for each in request.sparsities)
        PANEL.start(
            now,
            request,
            now.recipe,
            label="Measure the kernel",
            caption=f"{count(len(request.points(1.0)), 'plan')} at {sparsities}; a backward pass for each plan and "
            "input.",
            help="It can be cancelled; the next start continues. On the command line: nirvana kernel.",
        )
    PANEL.watch(now)


def _kernel_protocol(now: state.Context, study: KernelStudy) -> Stated:
    inputs = study.settings["inputs"]
    drawn = study.settings["recipe"]["calibration"]
    return Stated(
        f"{plain(model_name(now.run.recipe))}, {inputs['samples']} held-out windows of {inputs['length']} tokens; "
        f"scores from {drawn['samples']} x {drawn['length']} tokens; gamma "
        f"{now.run.recipe.allocation.gamma:g}, no compensation."
    )


def _nothing(title: str, words: str) -> None:
    with st.container(border=True):
        st.markdown(f"#### {title}\nNothing is measured yet. {words}")
