"""Tasks of an encoder-decoder on a window of text: fill in missing spans, or continue a prefix.

Span corruption is what T5, T5 v1.1, mT5 and ByT5 were trained on (arXiv 1910.10683): 15 % of the tokens, in spans of 3
on average (20 bytes for ByT5, arXiv 2105.13626), each span replaced by a sentinel in the encoder's input; the decoder
predicts each sentinel and the text it replaces. Continuation suits models tuned on instructions, such as Flan-T5: the
encoder reads the first half of the window, the decoder predicts the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nirvana.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nirvana.models.lm import LM

SPANS, CONTINUATION = "span corruption", "continuation"
TASKS = (SPANS, CONTINUATION)
NOISE = 0.15  # share of the tokens that are masked
SPAN, BYTE_SPAN = 3, 20  # mean length of a masked span
FIRST_BYTE = 3  # ByT5's token of byte 0
# ByT5 counts its sentinels down from the last byte, and the highest bytes never occur in UTF-8.
BYTE_SENTINELS = tuple(range(258, 247, -1))
TUNED = ("flan", "t0", "tk-instruct")  # names of models that were tuned to answer


class Examples(NamedTuple):
    """N examples, each from one window of text: inputs and labels.

    `decoder_inputs` is None without an encoder. `origin` is the position in its window of each label that is a token
    of the text, and -1 for sentinels and ends.
    """

    inputs: np.ndarray  # int64 (N, S)
    decoder_inputs: np.ndarray | None  # int64 (N, T)
    labels: np.ndarray  # int64 (N, T)
    origin: np.ndarray  # int64 (N, T)


def task_of(lm: LM, task: str = "auto") -> str:
    """The task to use: `task`, or for "auto" the one that the model was trained on; "" without an encoder.

    Raises:
        CorpusError: unknown task, a model without an encoder, or a tokenizer without sentinels.
    """
    if task not in ("auto", *TASKS):
        raise CorpusError(f"There is no task {task!r}.", f"Use auto, {' or '.join(TASKS)}.")
    if not lm.family.encoder_decoder:
        if task != "auto":
            raise CorpusError(f"{lm.source.name} has no encoder, so there is no task to choose.", "Leave it at auto.")
        return ""
    if task == SPANS and not sentinels(lm):
        raise CorpusError(f"The tokenizer of {lm.source.name} has no sentinels.", f"Use the task {CONTINUATION}.")
    if task != "auto":
        return task
    name = f"{lm.source.base} {lm.source.name}".lower()
    return CONTINUATION if any(word in name for word in TUNED) or not sentinels(lm) else SPANS


def sentinels(lm: LM) -> tuple[int, ...]:
    """Tokens that replace masked spans, in the order of use."""
    if is_bytes(lm.tokenizer):
        return BYTE_SENTINELS
    vocabulary = lm.tokenizer.get_vocab()
    for form in ("<extra_id_{}>", "▁<extra_id_{}>"):  # mT5 has them as pieces of its vocabulary
        found: list[int] = []
        while form.format(len(found)) in vocabulary:
            found.append(vocabulary[form.format(len(found))])
        if found:
            embeddings = lm.family.geometry(lm.settings)["vocabulary"]
            return tuple(token for token in found if token < embeddings)
    return ()


def make_pairs(lm: LM, windows: np.ndarray, task: str, generator: np.random.Generator) -> Examples:
    """Examples for an encoder-decoder from windows of text, int64 (N, L).

    All examples of one task have the same lengths, so nothing is padded. The decoder's inputs are the labels shifted
    right, after the start token.
    """
    windows = np.asarray(windows, np.int64)
    end = np.full((len(windows), 1), _end(lm), np.int64)
    nowhere = np.full((len(windows), 1), -1, np.int64)
    if task == CONTINUATION:
        half = windows.shape[1] // 2
        inputs, labels = np.hstack([windows[:, :half], end]), windows[:, half:]
        origin = np.tile(np.arange(half, windows.shape[1]), (len(windows), 1))
    else:
        marks, mean = sentinels(lm), BYTE_SPAN if is_bytes(lm.tokenizer) else SPAN
        rows = [_corrupt(window, marks, mean, generator) for window in windows]
        inputs, labels, origin = (
            np.hstack([np.stack([row[part] for row in rows]), last]) for part, last in enumerate((end, end, nowhere))
        )
    begin = np.full((len(windows), 1), start_token(lm), np.int64)
    return Examples(inputs, np.hstack([begin, labels[:, :-1]]), np.ascontiguousarray(labels), origin)


def readable(lm: LM, rows: np.ndarray) -> list[str]:
    """Inputs or labels of examples, int64 (N, T), as text, with a numbered gap such as "[1]" for each sentinel."""
    marks = {token: f"[{number}]" for number, token in enumerate(sentinels(lm), start=1)}
    texts = []
    for row in rows.tolist():
        pieces: list[str] = []
        run: list[int] = []
        for token in [*row, None]:
            if token is None or token in marks:
                pieces.append(str(lm.tokenizer.decode(run, skip_special_tokens=True)))
                pieces.append("" if token is None else marks[token])
                run = []
            else:
                run.append(token)
        texts.append("".join(pieces))
    return texts


def start_token(lm: LM) -> int:
    """The token that the decoder's input begins with."""
    for value in (getattr(lm.config, "decoder_start_token_id", None), lm.tokenizer.pad_token_id):
        if value is not None:
            return int(value)
    return 0


def _end(lm: LM) -> int:
    return int(lm.tokenizer.eos_token_id if lm.tokenizer.eos_token_id is not None else 1)


def is_bytes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether tokens are the bytes of UTF-8, counted from `FIRST_BYTE`."""
    return type(tokenizer).__name__.startswith("ByT5")


def _corrupt(
    window: np.ndarray, marks: tuple[int, ...], mean: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, labels and the labels' origin. Text and masked spans alternate, text first."""
    length = len(window)
    missing = min(max(round(length * NOISE), 1), length - 1)
    spans = min(max(round(missing / mean), 1), missing, length - missing, len(marks))
    gone = np.repeat(np.arange(2 * spans) % 2 == 1, _segments(length, missing, spans, generator))
    starts = np.flatnonzero(np.diff(gone.astype(np.int8), prepend=0) == 1)  # (spans,)
    stops = np.flatnonzero(np.diff(gone.astype(np.int8), append=0) == -1) + 1
    inputs, labels, origin = ([np.empty(0, np.int64)] for _ in range(3))
    position = 0
    for mark, start, stop in zip(marks, starts.tolist(), stops.tolist(), strict=False):
        inputs += [window[position:start], np.array([mark])]
        labels += [np.array([mark]), window[start:stop]]
        origin += [np.array([-1]), np.arange(start, stop)]
        position = stop
    return np.concatenate(inputs), np.concatenate(labels), np.concatenate(origin)


def _segments(length: int, missing: int, spans: int, generator: np.random.Generator) -> np.ndarray:
    """Lengths of text, masked, text, masked ...: each kind cut at random into `spans` non-empty parts."""

    def cut(total: int) -> np.ndarray:
        places = np.sort(generator.choice(total - 1, spans - 1, replace=False)) + 1
        return np.diff(np.concatenate([[0], places, [total]]))

    return np.stack([cut(length - missing), cut(missing)], axis=1).ravel()
