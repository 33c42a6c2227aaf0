"""Parts of the Calibration page: winner, charts and texts."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.calibration.tasks import SPANS
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.metrics import metric
from nirvana.reporting.figures import calibration as figures
from nirvana.reporting.figures import positions, tokens
from nirvana.reporting.figures.allocation import gamma_label
from nirvana.reporting.figures.calibration_texts import by_text
from nirvana.reporting.figures.chart import count, plus_minus, short
from nirvana.reporting.text import plain
from nirvana.runs.run import Run

SET, SAMPLE, PROBE = "calibration.set", "calibration.sample", "calibration.probe"


def load_calibration(run: Run) -> CalibrationSelection | CalibrationSet | None:
    """The run's result, or None. Read once per result."""
    info = run.info("calibration")
    return _read(run.id, str(info.get("file")), run) if info else None


@st.cache_resource(max_entries=8, show_spinner=False)
def _read(run_id: str, file: str, _run: Run) -> CalibrationSelection | CalibrationSet | None:
    return _run.calibration()


def winner(selection: CalibrationSelection) -> None:
    """The winner, its lead, and the significance."""
    best = selection.candidates[selection.winner]
    found = figures.verdict(selection)
    drawn = best.calibration
    origin = [plain(drawn.source)] if figures.several_texts(selection) else []
    origin += [f"seed {drawn.seed}"] if drawn.seed is not None else []
    with st.grid(4, min_column_width=170):
        metric("Winner", f"Set {selection.winner + 1}", ", ".join(origin))
        metric(
            "Mean KL",
            f"{short(best.divergence.mean)} nats",
            f"± {best.divergence.standard_error:.2g}",
            "KL divergence from the dense model's predictions to the pruned model's, with its standard error; 0 means "
            "identical.",
        )
        if found is not None:
            metric(
                f"Runner-up, set {found.runner_up + 1}",
                f"{found.margin:+.2g} nats",
                f"± {found.error:.2g}",
                "The difference to the winner, paired by probe, with its standard error.",
            )
        metric("Trial sparsity", f"{best.sparsity:.2%}", f"gamma {gamma_label(selection.gamma)}")
    st.markdown(in_words(selection))


def in_words(selection: CalibrationSelection) -> str:
    """The choice in words, as Markdown."""
    best = selection.candidates[selection.winner].divergence
    trials = count(len(selection.candidates), "model")
    text = (
        f"**Set {selection.winner + 1} wins**{_from_text(selection, selection.winner)}: of {trials} trial "
        "prunings, the one with this set has the lowest KL to the dense model, a mean of "
        f"{plus_minus(best.mean, best.standard_error)} nats over {count(selection.probe.samples, 'probe sample')}."
    )
    found = figures.verdict(selection)
    if found is None:
        return text
    last = selection.candidates[selection.ranking[-1]].divergence.mean
    spread = f" The last set is {last / best.mean - 1:.0%} above the winner." if best.mean > 0 else ""
    gap = f"set {found.runner_up + 1}{_from_text(selection, found.runner_up)}, is "
    gap += f"{plus_minus(found.margin, found.error)} nats higher on the same probes"
    if found.clear is None:
        return f"{text} With one probe sample, significance is unknown.{spread}"
    if found.clear:
        return f"{text} **That is significant**: the runner-up, {gap}, and the 95 % interval excludes zero.{spread}"
    return (
        f"{text} **The lead is within noise**: the runner-up, {gap}, and the 95 % interval includes zero. More "
        f"probe samples would give a more precise difference.{spread}"
    )


def _from_text(selection: CalibrationSelection, index: int) -> str:
    """Text of a set, e.g. ", drawn from novel.txt", if there are several."""
    source = selection.candidates[index].calibration.source
    return f", drawn from {plain(source)}" if figures.several_texts(selection) else ""


def by_candidate(selection: CalibrationSelection, protocol: str) -> None:
    """KL of every candidate set: the picture of the page."""
    show_chart("calibration.divergences", figures.candidate_divergences(selection), protocol)


def chart_sections(selection: CalibrationSelection, protocol: str) -> dict[str, Callable[[], None]]:
    """Charts by the label of their tab: texts, paired differences, KL by position, and the choice by shorter probes."""
    charts = {}
    if figures.several_texts(selection):
        charts["Texts"] = "texts", by_text
    if len(selection.candidates) > 1:
        charts["Differences"] = "margins", figures.margins
        charts["Probe length"] = "lengths", positions.by_length
    charts["By position"] = "positions", positions.by_position
    return {
        label: lambda key=key, draw=draw: show_chart(f"calibration.{key}", draw(selection), protocol)  # type: ignore[misc]
        for label, (key, draw) in charts.items()
    }


def read_samples(result: CalibrationSelection | CalibrationSet) -> None:
    """The text and tokens of any sample of any set."""
    chosen, left = result, st.container()
    if isinstance(result, CalibrationSelection):
        ranking = figures.winner_first(result)
        left, right = st.columns(2)
        if st.session_state.get(SET, ranking[0]) not in ranking:  # of another run
            del st.session_state[SET]
        index = left.selectbox("Set", ranking, key=SET, format_func=lambda each: _set_label(result, each))
        chosen, left = result.candidates[index].calibration, right
    assert isinstance(chosen, CalibrationSet)
    with left:
        sample = _pick(f"Sample, of {chosen.samples}", SAMPLE, chosen.samples)
    show_text(chosen, sample)
    show_chart("calibration.variety", tokens.sample_variety(chosen), _origin(chosen))
    if isinstance(result, CalibrationSelection):
        frequencies(chosen)


def frequencies(calibration: CalibrationSet) -> None:
    """The most frequent tokens of a set: the picture of the page where there are no candidates to compare."""
    show_chart("calibration.tokens", tokens.token_frequencies(calibration), _origin(calibration))


def _origin(calibration: CalibrationSet) -> str:
    return f"{plain(calibration.source)} {calibration.source_hash[:8]}; set {calibration.hash[:8]}."


def read_probes(selection: CalibrationSelection, protocol: str) -> None:
    """The text of any probe sample, highest KL first."""
    order = positions.probes_by_divergence(selection)
    place = _pick(
        f"Probe sample, 1 is the hardest of {len(order)}", PROBE, len(order), "Ordered by the KL of the winner."
    )
    sample = order[place]
    left, right = st.columns(2, gap="large")
    with left:
        show_text(selection.probe, sample)
    with right:
        show_chart("calibration.one_probe", positions.one_probe(selection, sample), protocol)


def show_text(calibration: CalibrationSet, sample: int) -> None:
    """One sample's text without formatting; its token ids where the text was not kept."""
    parts = [(calibration.texts, calibration.tokens)]
    if calibration.decoder_tokens is not None and calibration.targets is not None:
        parts.append((calibration.target_texts, calibration.targets))
    for (texts, ids), role in zip(parts, ("Input of the encoder", "Labels of the decoder"), strict=False):
        if len(parts) > 1:
            st.markdown(f"**{role}**")
        text = texts[sample] if sample < len(texts) else ""
        st.code(text or " ".join(map(str, ids[sample])), language=None, wrap_lines=True)
    what = f"{_length(calibration)} of {plain(calibration.source or 'an unnamed text')}"
    gaps = ". [1], [2] ... are masked spans" if calibration.task == SPANS else ""
    st.caption(f"{what}{gaps}." if calibration.texts else f"{what}; the text was not kept, so these are token ids.")


def token_metrics(calibration: CalibrationSet) -> None:
    """The size of a single set."""
    with st.grid(3, min_column_width=170):
        metric("Samples", f"{calibration.samples:,}", f"of {_length(calibration)}")
        metric("Tokens", f"{calibration.tokens.size:,}")
        metric("Seed", "none" if calibration.seed is None else f"{calibration.seed}")


def fingerprints(result: CalibrationSelection | CalibrationSet) -> None:
    """Hashes that identify the text and the sets."""
    chosen = result.calibration if isinstance(result, CalibrationSelection) else result
    rows = {"corpus": chosen.source, "corpus hash": chosen.source_hash, "calibration set": chosen.hash}
    if isinstance(result, CalibrationSelection):
        rows["probe"] = result.probe.hash
        rows |= {f"set {index + 1}": each.calibration.hash for index, each in enumerate(result.candidates)}
    st.code("\n".join(f"{name:<16} {value}" for name, value in rows.items() if value), language=None)


def result_protocol(run: Run, result: CalibrationSelection | CalibrationSet) -> str:
    """Protocol of the results, e.g. "smollm2-135m (4-bit origin); trials: nirvana at 20 %, gamma 3.36; ..."."""
    card = run.model()
    parts = []
    if card is not None:
        note = f" ({plain(card.note)})" if card.note else ""
        parts.append(f"{plain(card.name)}{note}, {plain(card.dtype)} on {plain(card.device)}")
    chosen = result.calibration if isinstance(result, CalibrationSelection) else result
    if isinstance(result, CalibrationSelection):
        how = f"gamma {gamma_label(result.gamma)}" if result.method == "shared" else "allocated as published"
        parts.append(f"trials: {result.criterion} at {result.sparsity:.0%}, {how}")
        parts.append(f"{result.probe.samples:,} probes of {_length(result.probe)}")
    parts.append(f"{plain(chosen.source)} {chosen.source_hash[:8]}".strip())
    parts.append(chosen.task)
    return "; ".join(part for part in parts if part) + "."


def _length(calibration: CalibrationSet) -> str:
    """Tokens in a sample, e.g. "128 tokens", "110 tokens read and 33 predicted"."""
    if calibration.decoder_tokens is None:
        return count(calibration.length, "token")
    return f"{count(calibration.length, 'token')} read and {calibration.decoder_tokens.shape[1]:,} predicted"


def explain_kl() -> None:
    """Explanation of KL and of the choice by it."""
    st.markdown(
        "The dense model gives each word of its vocabulary a probability $p$, the pruned one $q$. Their "
        "difference at one position of a text is the **KL divergence**, in nats:"
    )
    st.latex(r"\mathrm{KL}(p \,\|\, q) = \sum_{v \,\in\, \mathrm{vocabulary}} p_v \log \frac{p_v}{q_v}")
    st.markdown(
        "It is 0 where both agree and large where the pruned model gives a low probability to tokens that the "
        "dense one expects. It is averaged over every token of every probe sample. For each candidate set the "
        "units are scored, the lowest are removed, and the pruned model reads the probe, which shares no "
        "document with the calibration samples. The set with the lowest mean wins, and the next page scores "
        "with it."
    )


def _pick(label: str, key: str, size: int, meaning: str | None = None) -> int:
    """A number from 1 to `size`, returned from 0."""
    st.session_state[key] = min(st.session_state.get(key, 1), size)
    return int(st.number_input(label, min_value=1, max_value=size, step=1, key=key, help=meaning)) - 1


def _set_label(selection: CalibrationSelection, index: int) -> str:
    mean = selection.candidates[index].divergence.mean
    name = figures.set_name(selection, index)
    return f"{name[0].upper()}{name[1:]}, mean KL {short(mean)}" + (" (winner)" if index == selection.winner else "")
