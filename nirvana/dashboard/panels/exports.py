"""Export of the pruned or recovered model: format, size, verification, and code to load it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from nirvana.checkpoints.sizes import FORMATS, export_sizes, padding_note
from nirvana.dashboard import state
from nirvana.jobs.queue import Job
from nirvana.jobs.tasks.export import TITLES
from nirvana.plan import PruningPlan
from nirvana.reporting.text import megabytes, plain
from nirvana.runs.results import PruneSummary

PAGES = {"pruned": "prune", "recovered": "recover"}  # of each model, and prefix of its widget keys
MEANINGS = {
    "checkpoint": "every layer with its own width, for `transformers` with `trust_remote_code=True`, or for "
    "`nirvana.load_model`, which runs no code from the folder",
    "uniform": "padded with zeros to the widest layer, for every program that reads the base model; contains no code",
    "gguf": "for llama.cpp, in float16, every layer with its own width",
}
LOADING = {
    "checkpoint": "model = transformers.{auto_class}.from_pretrained(folder, trust_remote_code=True)\n"
    "lm = nirvana.load_model(folder)",
    "uniform": "model = transformers.{auto_class}.from_pretrained(folder)",
    "gguf": "llama-cli -m {file}",
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
    sizes = export_sizes(plan.pruned_layout, plan, dtype=card.dtype)

    def caption(format: str) -> str:
        reason = summary.refused.get(format)
        if reason:
            return f"Not for this model. {plain(reason)}"
        note = padding_note(plan.pruned_layout, plan) if format == "uniform" else ""
        return f"{megabytes(sizes[format])}: {MEANINGS[format]}.{f' It will have {plain(note)}.' if note else ''}"

    chosen = st.radio(
        "Format",
        FORMATS,
        key=f"{page}.format",
        format_func=lambda format: TITLES[format],
        captions=[caption(format) for format in FORMATS],
        help="The sizes are those of the weights. Each export is verified by reading it back and comparing its logits.",
    )
    ready = _newest(context, chosen, subject)
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
        auto_class = "AutoModelForSeq2SeqLM" if len(card.layout.stacks) > 1 else "AutoModelForCausalLM"
        language = "bash" if chosen == "gguf" else "python"
        st.code(LOADING[chosen].format(auto_class=auto_class, file=path.name), language=language)
    elif st.button(
        f"Prepare the {_in_text(chosen)}",
        key=f"{page}.export",
        icon=":material/package_2:",
        disabled=context.job is not None or chosen in summary.refused,
        help="Writes, verifies and packs it. The file takes disk space until the run is deleted.",
    ):
        state.start_task("export", format=chosen, subject=subject)


def chosen_format(subject: str) -> str:
    """The format chosen on the page of a model, or the first one before it was shown."""
    chosen = st.session_state.get(f"{PAGES[subject]}.format")
    return chosen if chosen in FORMATS else FORMATS[0]


def _newest(context: state.Context, format: str, subject: str) -> Job | None:
    """The last finished export of the run's present model in this format, if its file exists."""
    weights = (context.run.info(PAGES[subject]) or {}).get("weight_hash")
    for job in context.jobs.jobs(context.run.id):
        found = job.result or {} if job.task == "export" and job.status == "done" else {}
        if (found.get("format"), found.get("model")) == (format, weights) and Path(str(found["path"])).is_file():
            return job
    return None


def _in_text(format: str) -> str:
    title = TITLES[format]
    return title if title.startswith("GGUF") else title[0].lower() + title[1:]
