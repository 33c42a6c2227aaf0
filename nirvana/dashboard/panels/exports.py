"""Export of the pruned or recovered model: format, size, verification, and code to load it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from nirvana.checkpoints.sizes import FORMATS, ITEM_BYTES, export_sizes, padding_note, written_dtype
from nirvana.dashboard import state
from nirvana.jobs.queue import Job
from nirvana.jobs.tasks.export import TITLES
from nirvana.plan import PruningPlan
from nirvana.reporting.engines import engines_of
from nirvana.reporting.text import megabytes, plain
from nirvana.runs.results import PruneSummary

PAGES = {"pruned": "prune", "recovered": "recover"}  # of each model, and prefix of its widget keys
MEANINGS = {
    "checkpoint": "every layer with its own width; a plain model, without code, where all widths are equal",
    "uniform": "padded with zeros to the widest layer, for every program that reads the base model; contains no code",
    "gguf": "for llama.cpp, every layer with its own width",
}


def exports(context: state.Context, plan: PruningPlan, summary: PruneSummary, *, subject: str) -> None:
    """Choose a format, export, verify and download; nothing is read before the click.

    Args:
        subject: the model, "pruned" or "recovered".
    """
    card = context.run.model()
    if card is None:
        return
    page = PAGES[subject]
    st.markdown(f"#### Export the {subject} model")
    dtypes = {each: written_dtype(_dtype(subject), card.dtype, card.stored_dtype, format=each) for each in FORMATS}
    sizes = {each: export_sizes(plan.pruned_layout, plan, dtype=dtypes[each])[each] for each in FORMATS}

    def caption(format: str) -> str:
        reason = summary.refused.get(format)
        if reason:
            return f"Not for this model. {plain(reason)}"
        note = padding_note(plan.pruned_layout, plan) if format == "uniform" else ""
        size = f"{megabytes(sizes[format])} in {dtypes[format]}"
        return f"{size}: {MEANINGS[format]}.{f' It will have {plain(note)}.' if note else ''}"

    chosen = st.radio(
        "Format",
        FORMATS,
        key=f"{page}.format",
        format_func=lambda format: TITLES[format],
        captions=[caption(format) for format in FORMATS],
        help="The sizes are those of the weights. Each export is verified by reading it back and comparing its logits.",
    )
    dtype = st.selectbox(
        "Number format",
        ("auto", *ITEM_BYTES),
        key=f"{page}.export_dtype",
        format_func=lambda each: _dtype_words(
            each, written_dtype("auto", card.dtype, card.stored_dtype, format=chosen)
        ),
        help="Automatic: that of the model's files, or the one in memory if it takes fewer bytes. A quantised model "
        "has none of its own: the one in memory, and float16 in GGUF.",
        width=260,
    )
    ready = _newest(context, chosen, dtype, subject)
    if ready is not None and ready.result:
        path = Path(str(ready.result["path"]))
        st.download_button(
            f"Download the {_in_text(chosen)} ({megabytes(path.stat().st_size)})",
            data=path.read_bytes,
            file_name=path.name,
            mime="application/octet-stream" if chosen == "gguf" else "application/zip",
            key=f"{page}.download",
            icon=":material/download:",
            on_click="ignore",
        )
        st.caption(f"Verified: {plain('; '.join(ready.result.get('checks', [])))}.")
    elif st.button(
        f"Prepare the {_in_text(chosen)}",
        key=f"{page}.export",
        icon=":material/package_2:",
        disabled=context.job is not None or chosen in summary.refused,
        help="Writes, verifies and packs it. The file takes disk space until the run is deleted.",
    ):
        state.start_task("export", format=chosen, subject=subject, dtype=dtype)
    name = Path(str(ready.result["path"])).stem if ready is not None and ready.result else "folder"
    use_elsewhere(chosen, f"{name}.gguf" if chosen == "gguf" else name, encoder_decoder=len(card.layout.stacks) > 1)


def use_elsewhere(format: str, path: str, *, encoder_decoder: bool) -> None:
    """Programs that read an export in `format`, each with its command, the version that was run, and what is lost."""
    st.markdown("##### Use it elsewhere")
    auto_class = "AutoModelForSeq2SeqLM" if encoder_decoder else "AutoModelForCausalLM"
    for each in engines_of(format, encoder_decoder=encoder_decoder):
        st.markdown(f"**{each.engine}** · verified: {plain(each.verified)}")
        if each.command:
            st.code(each.call(path, auto_class), language=each.language, wrap_lines=True)
        st.caption(f"Lost: {plain(each.lost)}")


def chosen_export(subject: str) -> tuple[str, str]:
    """Format and number format chosen on the page of a model, or the first ones before they were shown."""
    chosen = st.session_state.get(f"{PAGES[subject]}.format")
    return chosen if chosen in FORMATS else FORMATS[0], _dtype(subject)


def _dtype_words(dtype: str, automatic: str) -> str:
    return f"Automatic ({automatic})" if dtype == "auto" else dtype


def _dtype(subject: str) -> str:
    """The chosen number format, or the first one before it was shown."""
    chosen = st.session_state.get(f"{PAGES[subject]}.export_dtype")
    return chosen if chosen in ITEM_BYTES else "auto"


def _newest(context: state.Context, format: str, dtype: str, subject: str) -> Job | None:
    """The last finished export of the run's present model in this format and dtype, if its file exists."""
    weights = (context.run.info(PAGES[subject]) or {}).get("weight_hash")
    for job in context.jobs.jobs(context.run.id):
        found = job.result or {} if job.task == "export" and job.status == "done" else {}
        wanted = (found.get("format"), found.get("dtype"), found.get("model")) == (format, dtype, weights)
        if wanted and Path(str(found["path"])).is_file():
            return job
    return None


def _in_text(format: str) -> str:
    title = TITLES[format]
    return title if title.startswith("GGUF") else title[0].lower() + title[1:]
