"""Parts of the Compare page: the run's models side by side, and comparison with baselines."""

from __future__ import annotations

import json
import math

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.losses import why_link
from nirvana.evaluation.results import Measurement, Report
from nirvana.reporting import aligned
from nirvana.reporting.aligned import Aligned, align, describe_protocol, report_table
from nirvana.reporting.figures import compare as figures
from nirvana.reporting.figures.chart import plus_minus
from nirvana.reporting.figures.standings import perplexity_by_sparsity
from nirvana.reporting.recovery import verdict
from nirvana.reporting.standings import Standing, against_baselines, collapses, duels, read_standing
from nirvana.reporting.text import megabytes, millions, plain
from nirvana.runs.run import Run
from nirvana.runs.store import EXAMPLE

SIZES = ("parameters", "bytes")  # equal before and after recovery


def side_by_side(report: Report) -> None:
    """A card for each measurement with each model's number, the dense one first."""
    bits = {line.key: line for line in align(report, "bits per byte")}
    with st.grid(2, min_column_width=330):
        for line in align(report, "perplexity"):
            extra = bits.get(line.key)
            _card(f"Perplexity on {plain(line.corpus)}", line, _bits(extra) if extra else "")
        for line in align(report, "KL divergence"):
            _card(f"KL to the dense model on {plain(line.corpus)}", line, "In nats per token; 0 means identical.")
        for line in align(report, "parameters"):
            _card("Parameters", line, words=millions)
        for line in align(report, "bytes"):
            _card("Size of the weights", line, words=megabytes)


def answer(run: Run, report: Report) -> None:
    """The verdict in one sentence, or that the model is broken."""
    card = run.model()
    broken = collapses(report, card.geometry.get("vocabulary") if card else None)
    if broken:
        st.error("**Pruning broke this model.**\n" + _list(broken), icon=":material/heart_broken:")
    recovered(report)


def verdicts(report: Report, mine: Standing | None, others: list[Standing]) -> None:
    """Metrics that recovery made worse, and the run against the baselines."""
    made_worse(report)
    found = duels(mine, others) if mine is not None else []
    for side, show, title, icon in (
        (1, st.warning, "A baseline is better than this run.", ":material/trending_down:"),
        (0, st.info, "Not significantly different from a baseline.", ":material/trending_flat:"),
        (-1, st.success, "Better than a baseline.", ":material/trending_up:"),
    ):
        lines = against_baselines(found, side)
        if lines:
            show(f"**{title}**\n{_list(lines)}", icon=icon)
        if lines and side > 0:
            why_link("compare")


def recovered(report: Report) -> None:
    """The effect of recovery in a sentence."""
    found = verdict(report)
    if found is not None:
        show = st.success if found.clear else st.info
        show(f"**{plain(found.words)}**", icon=":material/healing:")


def made_worse(report: Report) -> None:
    """Warning of the metrics that recovery made significantly worse."""
    found = verdict(report)
    if found is not None and found.worse:
        lines = _list([plain(line) for line in found.worse])
        st.warning(f"**Recovery made this significantly worse.**\n{lines}", icon=":material/trending_down:")


def summary(run: Run, report: Report) -> None:
    """Dense, pruned and recovered model in one table, with their speed if it was measured."""
    table = aligned.side_by_side(report, run.speed()).set_index("measured").rename_axis("").rename(index=plain)
    st.table(table)  # it wraps on a phone, unlike a data frame, and reads Markdown


def ratios(report: Report) -> None:
    """Perplexity over the dense model's: the picture of the page."""
    chart, protocol = figures.perplexity_ratios(report), _perplexity_protocol(report)
    if chart is not None:
        show_chart("compare.ratios", chart, protocol)


def bits(report: Report) -> None:
    """Cost on each text in bits per byte."""
    chart = figures.bits_per_byte(report)
    if chart is not None:
        show_chart("compare.bits", chart, _perplexity_protocol(report))


def _perplexity_protocol(report: Report) -> str:
    note = next((str(item.protocol["note"]) for item in report.measurements if item.protocol.get("note")), "")
    found = next((item for item in report.measurements if item.metric == "perplexity"), None)
    if found is None:
        return ""
    where = " ".join(str(found.protocol[name]) for name in ("dtype", "device") if found.protocol.get(name))
    window = found.protocol.get("window")
    task = str(found.protocol.get("task") or "")
    parts = [f"windows of {window:,} tokens" if window else "", task, where, plain(note)]
    return ", ".join(part for part in parts if part).capitalize() + "."


def everything(run: Run, report: Report) -> None:
    """All measurements with their protocols, with downloads."""
    table = report_table(report)
    st.dataframe(
        table,
        hide_index=True,
        key="compare.table",
        placeholder="",
        column_config={"value": st.column_config.NumberColumn(format="localized")},
    )
    with st.container(horizontal=True):
        st.download_button(
            "Download CSV",
            data=lambda: table.to_csv(index=False).encode(),
            file_name="compare.csv",
            mime="text/csv",
            key="compare.csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.download_button(
            "Download JSON",
            data=lambda: json.dumps({"recipe": run.recipe.to_json(), **report.to_json()}, indent=1),
            file_name="compare.json",
            mime="application/json",
            key="compare.json",
            icon=":material/download:",
            on_click="ignore",
        )


def other_runs(mine: Standing, others: list[Standing]) -> None:
    """Perplexity over sparsity of every run of this model that read the same tokens."""
    drawn = {}
    for item in mine.perplexities():
        chart = perplexity_by_sparsity(mine, others, item)
        if chart is not None:
            drawn[str(item.protocol.get("corpus"))] = chart
    if not drawn:
        st.caption(
            "No other run of this model has been measured on the same tokens. Run the same sparsity with the "
            "random and the magnitude criterion as baselines."
        )
        return
    names = list(drawn)
    if st.session_state.get("compare.others.corpus", names[0]) not in names:
        del st.session_state["compare.others.corpus"]
    name = st.selectbox("Compare runs on", names, key="compare.others.corpus") if len(names) > 1 else names[0]
    show_chart("compare.others", drawn[name])


def standing(run: Run) -> Standing | None:
    """`read_standing`, cached per result."""
    info, plan = run.info("evaluate"), run.info("allocation")
    if info is None or plan is None:
        return None
    return _standing(
        run.id, f"{run.name} {run.recipe.fingerprint('evaluate')} {info.get('file')} {plan.get('file')}", run
    )


def peers(mine: Standing, now: state.Context) -> list[Standing]:
    """Other finished runs of the same weights; in a public demo, those of this session."""
    runs = [*state.visible_runs(), now.store.open(EXAMPLE)]
    found = (standing(run) for run in runs if run.id != mine.run_id)
    return [other for other in found if other is not None and other.weights == mine.weights]


@st.cache_data(max_entries=200, show_spinner=False)
def _standing(run_id: str, key: str, _run: Run) -> Standing | None:
    return read_standing(_run)


def explain() -> None:
    """Perplexity and bits per byte in formulas."""
    st.markdown(
        "The loss is the mean negative log-probability of each token $x_t$ of a window given those before it; "
        "**perplexity** is its exponential. The total loss in bits over the length of the text is **bits per "
        "byte**, which does not depend on the tokenizer:"
    )
    st.latex(
        r"\mathrm{PPL} = \exp\Bigl(-\tfrac{1}{N} \sum_{t} \log p(x_t \mid x_{<t})\Bigr)"
        r"\qquad \mathrm{BPB} = \frac{-\sum_t \log_2 p(x_t \mid x_{<t})}{\mathrm{bytes}}"
    )
    st.markdown(
        "An encoder-decoder reads one part of each window in its encoder and predicts the other, by its "
        "**task**: the masked spans, or the second half. Its loss is that of the predicted tokens given the "
        "encoder's input, so it is not comparable with that of a decoder or of another task."
    )
    st.markdown(
        "The **standard error** estimates the variation of the number on other text of the same kind, from the "
        "spread over windows (over probe samples for KL). Differences of less than two of them are not "
        "significant."
    )


def _card(title: str, line: Aligned, extra: str = "", words: object = None) -> None:
    same = line.metric in SIZES and line.ratio("recovered") == line.ratio()
    with st.container(border=True, height="stretch"):
        st.markdown(f"**{title}**")
        with st.container(horizontal=True):
            for subject, item in line.of.items():
                if subject == "recovered" and same:
                    continue
                label = "Pruned, recovered" if subject == "pruned" and same else subject.capitalize()
                ratio = line.ratio(subject) if subject != "dense" else math.nan
                _value(label, item, words, ratio)
        lines = [plain(describe_protocol(line.last)), extra]
        if line.last.n:
            lines.insert(1, f"n = {line.last.n:,}")
        if any(lines):
            st.caption(". ".join(each.rstrip(".") for each in lines if each) + ".")


def _value(label: str, item: Measurement, words: object, ratio: float) -> None:
    error = item.standard_error
    text = words(item.value) if callable(words) else plus_minus(item.value, error).partition(" ± ")[0]
    margin = plus_minus(item.value, error).partition(" ± ")[2]
    change = f"{ratio - 1:+.1%}" if ratio == ratio and ratio < 100 else f"x {ratio:,.0f}" if ratio == ratio else None
    st.metric(
        label,
        text,
        delta=change or (f"± {margin}" if margin else None),
        delta_color="inverse" if change else "off",
        delta_arrow="auto" if change else "off",
        delta_description=f"± {margin}" if change and margin else None,
        width="stretch",
    )


def _bits(line: Aligned) -> str:
    parts = [f"{subject} {plus_minus(item.value, item.standard_error)}" for subject, item in line.of.items()]
    return f"Bits per byte: {', '.join(parts)}"


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
