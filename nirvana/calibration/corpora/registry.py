"""Registry of corpora, and `load_corpus`: built-in text, data sets of the hub, files and uploads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from nirvana.calibration.corpora import docstrings, mixture, python_docs, stdlib_code
from nirvana.calibration.corpora.corpus import Corpus, CorpusInfo
from nirvana.calibration.corpora.files import SUFFIXES, UPLOAD, load_file, load_upload
from nirvana.calibration.corpora.hub import ALIASES, HUB_ID, load_alias, load_hub
from nirvana.calibration.corpora.mixture import load_parts
from nirvana.errors import CorpusError
from nirvana.files import local_path

SELF_GENERATED = CorpusInfo(
    name="self-generated",
    title="Self-generated text",
    description="Text that the dense model itself writes (seeded sampling). Needs no data, for any language model.",
    offline=True,
)

_BUILT_IN: dict[str, tuple[CorpusInfo, Callable[[], Corpus]]] = {
    module.INFO.name: (module.INFO, module.load) for module in (python_docs, docstrings, stdlib_code)
}

AVAILABLE: dict[str, CorpusInfo] = {
    **{name: info for name, (info, _) in _BUILT_IN.items()},
    SELF_GENERATED.name: SELF_GENERATED,
    **{name: info for name, (info, _) in ALIASES.items()},
}


def load_corpus(name: str | os.PathLike[str]) -> Corpus:
    """Read a corpus; its three splits share no text.

    Args:
        name: a name of `AVAILABLE`, a .txt or .jsonl file, a data set of the hub as `owner/name[:config]`, or
            `upload:<name>` as `save_upload` returned it. Several, joined by " + ", are a mixture (see `mix`).

    Raises:
        CorpusError: nothing is found by that name, or it is empty, too short or malformed.
    """
    return load_parts(os.fspath(name).strip(), _load)


def mix(corpora: Sequence[str | os.PathLike[str] | Corpus]) -> Corpus:
    """One corpus of several: see `mixture.mix`. Names and paths are read as `load_corpus` does.

    Raises:
        CorpusError: there are fewer than two, one comes twice, or one is not found.
    """
    return mixture.mix([each if isinstance(each, Corpus) else load_corpus(each) for each in corpora])


def _load(text: str) -> Corpus:
    if text in _BUILT_IN:
        return _BUILT_IN[text][1]()
    if text in ALIASES:
        return load_alias(text)
    if text == SELF_GENERATED.name:
        raise CorpusError("Self-generated text needs a model to write it.", "Call generate_corpus(lm).")
    if text.startswith(UPLOAD):
        return load_upload(text)
    path = local_path(text, CorpusError)
    if path.suffix.lower() in SUFFIXES or path.is_file():
        return load_file(path)
    if HUB_ID.match(text):
        return load_hub(text)
    raise CorpusError(
        f"There is no corpus {text!r}.",
        f"Built-in: {', '.join(AVAILABLE)}. Or give a .txt or .jsonl file, or a hub data set such as owner/name.",
    )
