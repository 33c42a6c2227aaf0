"""Choice of texts: from the list, a file, a data set of the hub, or pasted or uploaded text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from nirvana.calibration.corpora.files import SUFFIXES, UPLOAD, save_upload, uploads
from nirvana.calibration.corpora.hub import HUB_ID
from nirvana.calibration.corpora.mixture import PLUS, part_names
from nirvana.calibration.corpora.registry import AVAILABLE, load_corpus
from nirvana.dashboard import state
from nirvana.dashboard.panels.messages import show_error
from nirvana.errors import CorpusError, NirvanaError
from nirvana.reporting.text import plain

CORPUS, MORE = "calibration.corpus", "calibration.more"
TOGETHER, MIXTURES = "calibration.together", "calibration.mixtures"
MIX, CHOOSE = "mix", "choose"
WAYS = {MIX: "Mix", CHOOSE: "Choose by KL"}
PROBLEM = "calibration.problem"


def corpus_options(*chosen: str) -> list[str]:
    """Options: built-in corpora, data sets, uploads, and those in `chosen`."""
    if state.public_demo():
        return [name for name, info in AVAILABLE.items() if info.offline]
    return list(dict.fromkeys([*AVAILABLE, *uploads(), *chosen]))


def corpus_label(name: str) -> str:
    """E.g. "Python language reference", "Penn Treebank (download)", "notes.txt (upload)"."""
    info = AVAILABLE.get(name)
    if info is not None:
        return info.title if info.offline else f"{info.title} (download)"
    parts = part_names(name)
    if len(parts) > 1:
        return PLUS.join(map(corpus_label, parts))
    if name.startswith(UPLOAD):
        return f"{name.removeprefix(UPLOAD)} (upload)"
    return f"{Path(name).name} (file)" if is_file(name) else f"{name} (data set, download)"


def describe_corpus(name: str) -> str:
    """One line about a corpus, as Markdown."""
    info = AVAILABLE.get(name)
    if info is not None:
        place = "Works offline." if info.offline else "Downloaded from the Hugging Face hub at its first use."
        return f"{info.description} {place}"
    if len(part_names(name)) > 1:
        return "A uniform mixture of these texts."
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
        load_corpus(name)  # read now, to show its errors here
    elif name not in AVAILABLE and not HUB_ID.match(name):
        raise CorpusError(
            f"{name!r} is neither a text file nor a data set.",
            "Give the path of a .txt, .jsonl or .json file, or an id such as owner/name or owner/name:config."
            if name
            else "Type one first.",
        )
    return name


def choose_texts(texts: Sequence[str], mixtures: bool) -> tuple[tuple[str, ...], bool]:
    """Controls of texts, starting from a recipe; returns the texts for the choice by KL, and whether to try mixtures.

    A select box for one text, and further texts to mix or to choose from.
    """
    names = list(texts) if len(texts) > 1 else part_names(texts[0])
    st.session_state.setdefault(CORPUS, names[0])
    st.session_state.setdefault(MORE, names[1:])
    options = corpus_options(*names, st.session_state[CORPUS], *st.session_state[MORE])
    if st.session_state[CORPUS] not in options:
        st.session_state[CORPUS] = options[0]
    first = st.selectbox(
        "Text",
        options,
        key=CORPUS,
        format_func=corpus_label,
        help="Source of calibration and probe samples, which are drawn from separate documents.",
    )
    others = [name for name in options if name != first]
    st.session_state[MORE] = [name for name in st.session_state[MORE] if name in others]
    more = st.multiselect(
        "More texts",
        others,
        key=MORE,
        format_func=corpus_label,
        placeholder="None",
        help="A model for several kinds of text may prune better with some of each.",
    )
    more = [name for name in more if name in others]  # a browser can send any value
    st.caption(describe_corpus(first))
    chosen: tuple[tuple[str, ...], bool] = ((first,), mixtures)
    if more:
        st.session_state.setdefault(TOGETHER, CHOOSE if len(texts) > 1 else MIX)
        st.session_state.setdefault(MIXTURES, mixtures)
        chosen = _together(first, more)
    if not state.public_demo():
        own_text()
    return chosen


def _together(first: str, more: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        way = st.segmented_control(
            "Several texts",
            list(WAYS),
            key=TOGETHER,
            wrap=True,
            format_func=WAYS.__getitem__,
            required=True,
            help=(
                "A mixture draws equal numbers of samples from each text. Otherwise sets are drawn from each text "
                "alone, and KL on probe samples from all texts chooses the best."
            ),
        )
        mixtures = st.toggle(
            "Also try mixtures",
            key=MIXTURES,
            disabled=way == MIX,
            help="Uniform mixtures: of all texts, and of each pair if there are three.",
        )
    if way == CHOOSE:
        return (first, *more), mixtures
    parts = [part for name in (first, *more) for part in part_names(name)]
    return (PLUS.join(dict.fromkeys(parts)),), mixtures


def own_text() -> None:
    """The user's own text: path, data set, pasted or uploaded."""
    with st.expander("Use a text of your own", icon=":material/upload_file:", key="calibration.own"):
        named, pasted, uploaded = st.tabs(["File or data set", "Paste", "Upload"], key="calibration.own.tabs")
        with named:
            st.text_input(
                "Path of a .txt, .jsonl or .json file on the machine that serves this page, or id of a data set",
                key="calibration.path",
                placeholder="~/texts/novel.txt or Salesforce/wikitext:wikitext-2-raw-v1",
                max_chars=1000,
                help="A .jsonl file has one record a line, a .json file a list of them: with a text field, or with "
                "instruction, input and output. A data set's id may name a config.",
            )
            _buttons("Use this", "calibration.use_path", "calibration.add_path", _use_path)
        with pasted:
            st.text_area(
                "Text",
                key="calibration.paste",
                height=160,
                placeholder="Some pages of text, with blank lines between paragraphs",
                help="Paragraphs are divided between calibration, probes and evaluation, so several are needed.",
            )
            st.text_input("Name", key="calibration.paste_name", value="pasted", max_chars=48)
            _buttons("Use this text", "calibration.use_paste", "calibration.add_paste", _use_paste)
        with uploaded:
            st.file_uploader(
                "A .txt, .jsonl or .json file in UTF-8",
                type=[suffix.removeprefix(".") for suffix in SUFFIXES],
                key="calibration.upload",
            )
            _buttons("Use this file", "calibration.use_upload", "calibration.add_upload", _use_upload)
    show_error(st.session_state.pop(PROBLEM, None))


def _buttons(label: str, key: str, beside: str, use: Callable[[bool], None]) -> None:
    with st.container(horizontal=True):
        st.button(label, key=key, on_click=use, args=(False,))
        st.button(
            "Use it with the others",
            key=beside,
            on_click=use,
            args=(True,),
            help="Adds it to the texts chosen above.",
        )


def _use_path(add: bool) -> None:
    try:
        _refuse_in_demo()
        _take(check_source(str(st.session_state.get("calibration.path") or "")), add)
    except NirvanaError as error:
        st.session_state[PROBLEM] = error


def _use_paste(add: bool) -> None:
    name, text = (st.session_state.get(f"calibration.{key}") or "" for key in ("paste_name", "paste"))
    _keep(str(name), text, add)


def _use_upload(add: bool) -> None:
    file = st.session_state.get("calibration.upload")
    if file is None:
        st.session_state[PROBLEM] = CorpusError("No file is chosen.", "Choose a .txt, .jsonl or .json file first.")
    else:
        _keep(file.name, file.getvalue(), add)


def _keep(name: str, content: str | bytes, add: bool) -> None:
    try:
        _refuse_in_demo()
        _take(save_upload(name, content), add)
    except NirvanaError as error:
        st.session_state[PROBLEM] = error


def _refuse_in_demo() -> None:
    """The controls are hidden in a public demo, but a browser can send any value."""
    if state.public_demo():
        raise CorpusError("This demo reads and stores no texts of visitors.", "Choose one from the list.")


def _take(name: str, add: bool) -> None:
    """Choose a text instead of the first one, or in addition to the chosen ones."""
    if not add:
        st.session_state[CORPUS] = name
    elif name != st.session_state[CORPUS]:
        st.session_state[MORE] = list(dict.fromkeys([*st.session_state[MORE], name]))
