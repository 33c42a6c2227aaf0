"""The answer to "Why does NIRVANA lose here?" on the Method page, and the link to it from other pages."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard.guide import GUIDES
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.charts import Stated, show_chart
from nirvana.reporting.figures.quality import criteria_compared
from nirvana.reporting.quality import Column, Quality, in_words, read_quality
from nirvana.reporting.text import plain

TABS = "method.tabs"
LABEL = "Why it loses"
TEXTS = ("WikiText-2", "a novel")


def why_link(key: str) -> None:
    """The button to the answer, under widget key `<key>.why`."""
    if st.button("Why can that be?", key=f"{key}.why", type="tertiary", icon=":material/help:"):
        st.session_state[TABS] = LABEL
        st.switch_page(GUIDES["method"].path)


def losses() -> None:
    """Criteria compared, as measured, and the reasons."""
    quality = read_quality()
    columns = {column.title: column for column in quality.columns}
    controls, picture = page.stage("method.losses")
    with controls:
        st.markdown("**Does NIRVANA win?** Not on this small model.")
        chosen = st.radio("Setting", list(columns), index=1, key="method.losses.setting")
        st.caption(
            "As published: each criterion with its authors' allocation and compensation. Same: all with NIRVANA's "
            "allocation, gamma 4."
        )
    with picture:
        show_chart("method.losses", criteria_compared(quality, columns[str(chosen)], TEXTS), Stated(quality.protocol))
    _reasons(quality)
    st.markdown(f"#### The table\n{quality.markdown()}")
    st.caption(f"Perplexity on {' / '.join(TEXTS)}. {plain(quality.protocol)}")


def _reasons(quality: Quality) -> None:
    same, fitted = Column(0.2, "shared", "none"), Column(0.2, "shared", "least_squares")

    def cell(name: str, column: Column) -> str:
        return in_words(quality.cells[name, column])

    st.markdown(
        "#### Why?\n"
        f"- **What f measures.** Taylor has the same formula, |dL/dW * W|, and the same allocation here; only the "
        "differentiated scalar differs: the loss on text, instead of the mean of every vocabulary entry's highest "
        "logit, most of which no text asks for. At 20 % that is the difference between "
        f"{cell('taylor', same)} and {cell('nirvana', same)}.\n"
        f"- **Compensation matters more than the criterion.** Least squares brings NIRVANA from "
        f"{cell('nirvana', same)} to {cell('nirvana', fitted)}, and "
        f"random scores from {cell('random', same)} to {cell('random', fitted)}. "
        "Second order scores a unit by the loss that remains after that compensation.\n"
        "- **First order is rough for KV groups.** On this model the true change of f by removing one is often far "
        "from the prediction. The First order tab shows it for the open run.\n"
        "- **The model is small.** The paper prunes models of 3 and 8 billion parameters, with other text and a "
        "fine-tuning afterwards. Here, trained on the same tokens, NIRVANA's model gained more than Taylor's and "
        "stayed behind it (two seeds). One model, one language: on yours, measure it with a sweep."
    )
    page.page_link("sweep")
