"""Choosing text: from the list, a file, a data set of the hub, or what is pasted or uploaded."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from nirvana.calibration.corpora import AVAILABLE, load_corpus, save_upload, uploads
from nirvana.calibration.corpora.files import SUFFIXES, UPLOAD
from nirvana.calibration.corpora.hub import HUB_ID
from nirvana.errors import CorpusError, NirvanaError
from nirvana.ui import state
from nirvana.ui.panels.messages import show_error
from nirvana.ui.text import plain

CORPUS = "calibration.corpus"
PROBLEM = "calibration.problem"


def corpus_options(*chosen: str) -> list[str]:
    """Names to offer: built-in ones, the hub's, kept uploads, and those that are `chosen` already."""
    if state.public_demo():
        return [name for name, info in AVAILABLE.items() if info.offline]
    return list(dict.fromkeys([*AVAILABLE, *uploads(), *chosen]))


def corpus_label(name: str) -> str:
    """E.g. "Python language reference", "Penn Treebank (download)", "notes.txt (upload)"."""
    info = AVAILABLE.get(name)
    if info is not None:
        return info.title if info.offline else f"{info.title} (download)"
    if name.startswith(UPLOAD):
        return f"{name.removeprefix(UPLOAD)} (upload)"
    return f"{Path(name).name} (file)" if is_file(name) else f"{name} (data set, download)"


def describe_corpus(name: str) -> str:
    """One line about a corpus, as Markdown."""
    info = AVAILABLE.get(name)
    if info is not None:
        place = "Works offline." if info.offline else "Downloaded from the Hugging Face hub at its first use."
        return f"{info.description} {place}"
    if name.startswith(UPLOAD):
        return "A text that was pasted or uploaded here. It stays on the machine that serves this page."
    if is_file(name):
        return f"The file {plain(name)}, divided into parts for calibration, probes and evaluation."
    return f"The data set {plain(name)}, downloaded from the Hugging Face hub at its first use."


def is_file(name: str) -> bool:
    """Whether a corpus name is the path of a text file, as opposed to a data set of the hub."""
    return Path(name).suffix.lower() in SUFFIXES or name.startswith(("/", "~", "."))


def check_source(name: str) -> str:
    """The name of a file or data set that can be used, cleaned.

    Raises:
        CorpusError: a file that cannot be read as text, or a name that is neither file nor hub id.
    """
    name = name.strip()
    if is_file(name):
        load_corpus(name)  # read now, so that what is wrong with it is said here
    elif name not in AVAILABLE and not HUB_ID.match(name):
        raise CorpusError(
            f"{name!r} is neither a text file nor a data set.",
            "Give the path of a .txt or .jsonl file, or an id such as owner/name or owner/name:config."
            if name
            else "Type one first.",
        )
    return name


def choose_corpus(name: str) -> str:
    """A select box that starts at `name`, and ways to use other text; the result is what it says now."""
    st.session_state.setdefault(CORPUS, name)
    options = corpus_options(name, st.session_state[CORPUS])
    if st.session_state[CORPUS] not in options:
        st.session_state[CORPUS] = options[0]
    corpus = st.selectbox(
        "Text",
        options,
        key=CORPUS,
        format_func=corpus_label,
        help="Where calibration and probe samples come from. They are drawn from separate documents of it.",
    )
    st.caption(describe_corpus(corpus))
    if not state.public_demo():
        own_text()
    return corpus


def own_text() -> None:
    """Text of the user's own: named, pasted or uploaded."""
    with st.expander("Use a text of your own", icon=":material/upload_file:", key="calibration.own"):
        named, pasted, uploaded = st.tabs(["File or data set", "Paste", "Upload"], key="calibration.own.tabs")
        with named:
            st.text_input(
                "Path of a .txt or .jsonl file on the machine that serves this page, or id of a data set",
                key="calibration.path",
                placeholder="~/texts/novel.txt or Salesforce/wikitext:wikitext-2-raw-v1",
                max_chars=1000,
                help="A .jsonl file has one record a line, with a text field. A data set's id may name a config.",
            )
            st.button("Use this", key="calibration.use_path", on_click=_use_path)
        with pasted:
            st.text_area(
                "Text",
                key="calibration.paste",
                height=160,
                placeholder="Some pages of text, with blank lines between paragraphs",
                help="Paragraphs are shared out between calibration, probes and evaluation, so it takes several.",
            )
            st.text_input("Name", key="calibration.paste_name", value="pasted", max_chars=48)
            st.button("Use this text", key="calibration.use_paste", on_click=_use_paste)
        with uploaded:
            st.file_uploader(
                "A .txt or .jsonl file in UTF-8",
                type=[suffix.removeprefix(".") for suffix in SUFFIXES],
                key="calibration.upload",
            )
            st.button("Use this file", key="calibration.use_upload", on_click=_use_upload)
    show_error(st.session_state.pop(PROBLEM, None))


def _use_path() -> None:
    try:
        st.session_state[CORPUS] = check_source(str(st.session_state.get("calibration.path") or ""))
    except NirvanaError as error:
        st.session_state[PROBLEM] = error


def _use_paste() -> None:
    _keep(str(st.session_state.get("calibration.paste_name") or ""), st.session_state.get("calibration.paste") or "")


def _use_upload() -> None:
    file = st.session_state.get("calibration.upload")
    if file is None:
        st.session_state[PROBLEM] = CorpusError("No file is chosen.", "Choose a .txt or .jsonl file first.")
    else:
        _keep(file.name, file.getvalue())


def _keep(name: str, content: str | bytes) -> None:
    try:
        if state.public_demo():  # the controls are hidden, but a browser can send anything
            raise CorpusError("This demo keeps no texts.", "Choose one from the list.")
        st.session_state[CORPUS] = save_upload(name, content)
    except NirvanaError as error:
        st.session_state[PROBLEM] = error
