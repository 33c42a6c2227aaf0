"""Greedy continuation of a prompt by a model, and its token probabilities under another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from nirvana.calibration.tasks import SPANS, sentinels, start_token, task_of
from nirvana.errors import CorpusError, ModelError
from nirvana.models.generation_progress import STAGE, Reporting
from nirvana.models.generation_settings import own_settings
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DECODING: dict[str, Any] = {"skip_special_tokens": True}
BROKEN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, eq=False)
class ContinuedText:
    """Text that a model generated after a prompt.

    Attributes:
        text: without the prompt and without special tokens.
        pieces: text that each token adds.
        inputs: of the model: "input_ids" and "attention_mask", (1, S).
        sequence: (1, T) ids of the decoder, read and generated.
        places: positions in `sequence` of the tokens of `pieces`.
    """

    text: str
    pieces: tuple[str, ...]
    inputs: dict[str, torch.Tensor]
    sequence: torch.Tensor
    places: tuple[int, ...]


def continue_prompt(
    lm: LM,
    prompt: str,
    *,
    chat: bool = False,
    max_new_tokens: int = 64,
    progress: ProgressCallback | None = None,
) -> ContinuedText:
    """Greedy continuation of a prompt.

    An encoder-decoder reads the prompt with its encoder. One that was trained on span corruption predicts the span
    masked at the prompt's end.

    Args:
        prompt: some text; the continuation follows it directly.
        chat: use the prompt as a user's turn in the model's chat template, and return the answer.
        max_new_tokens: limit of new tokens; also ends at the model's end token or last position.
        progress: called after each token, with the text so far; may raise `Cancelled`.

    Raises:
        CorpusError: the prompt is empty or fills the model's positions, or the number of tokens is below 1.
        ModelError: the model has no chat template, or its weights are not in memory.
    """
    if not prompt.strip():
        raise CorpusError("The prompt is empty.", "Write a few words for the model to continue.")
    if max_new_tokens < 1:
        raise CorpusError(f"{max_new_tokens} new tokens cannot be generated.", "Ask for 1 or more.")
    model = lm.weights()
    inputs = _encoded(lm, prompt, chat)
    marks = list(sentinels(lm)[:2]) if task_of(lm) == SPANS else []
    if marks:
        inputs = _with_missing_end(inputs, marks[0])
    length = int(inputs["input_ids"].shape[1])
    positions = lm.family.geometry(lm.settings).get("positions", length + max_new_tokens)
    if length >= positions:
        raise CorpusError(
            f"The prompt has {length:,} tokens; {lm.source.name} has {positions:,} positions.", "Shorten the prompt."
        )
    total = min(max_new_tokens, positions - length)
    written = 1 if lm.family.encoder_decoder else length  # where new tokens begin in the output
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if ends is not None else lm.tokenizer.eos_token_id
    if marks:
        ends = [ends, *marks[1:]]  # the next sentinel begins another span
    configure: Any = GenerationConfig  # the library leaves both untyped
    generate: Any = model.generate
    settings = configure(
        do_sample=False,
        use_cache=lm.family.generates_with_cache(lm.settings),
        max_new_tokens=total,
        eos_token_id=ends,
        decoder_start_token_id=start_token(lm) if lm.family.encoder_decoder else None,
        pad_token_id=lm.tokenizer.pad_token_id if lm.tokenizer.pad_token_id is not None else lm.tokenizer.eos_token_id,
    )

    def shown(ids: torch.Tensor) -> str:
        return str(lm.tokenizer.decode([token for token in ids.tolist() if token not in marks], **DECODING))

    report(progress, STAGE, 0, total)
    with torch.inference_mode(), own_settings(model):
        output = generate(
            **inputs,
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([Reporting(progress, written, total, shown)]),
        )
    text = shown(output[0, written:])
    report(progress, STAGE, total, total, text)
    hidden = {*marks, *lm.tokenizer.all_special_ids}
    ids = output[0].tolist()
    places = [place for place in range(written, len(ids)) if ids[place] not in hidden]
    pieces = token_texts(lm.tokenizer, [ids[place] for place in places], text)
    return ContinuedText(text, pieces, inputs, output, tuple(places))


def token_probabilities(lm: LM, written: ContinuedText) -> tuple[float, ...]:
    """Probability under `lm` of each generated token given all before it, from one forward over the whole text.

    Raises:
        ModelError: the two models have different vocabularies, or the weights are not in memory.
    """
    sequence, inputs = written.sequence.to(lm.device), {name: ids.to(lm.device) for name, ids in written.inputs.items()}
    head = lm.family.head(lm.weights())
    if int(max(sequence.max(), inputs["input_ids"].max())) >= len(head.weight):
        raise ModelError("The two models have different vocabularies.", "Compare a model with one pruned from it.")
    if not written.places:
        return ()
    with torch.inference_mode():
        if lm.family.encoder_decoder:
            hidden = lm.family.hidden_states(
                lm.weights(), inputs["input_ids"], inputs["attention_mask"], sequence[:, :-1]
            )
        else:
            hidden = lm.family.hidden_states(lm.weights(), sequence[:, :-1], None)
        places = torch.tensor(written.places, device=lm.device)
        scores = torch.log_softmax(head(hidden[0, places - 1]).float(), dim=-1)  # (tokens, V)
        chosen = scores.gather(1, sequence[0, places][:, None])[:, 0].exp()
    return tuple(chosen.tolist())


def token_texts(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str, *, special: bool = False
) -> tuple[str, ...]:
    """Text that each token adds; a token that ends within a letter or changes earlier text adds none.

    Args:
        text: the tokens decoded, with the text of special tokens if `special`.
    """
    pieces, emitted = [], 0
    for count in range(1, len(ids) + 1):
        so_far = (
            text if count == len(ids) else str(tokenizer.decode(list(ids[:count]), skip_special_tokens=not special))
        )
        whole = text.startswith(so_far) and not (so_far.endswith(BROKEN) and count < len(ids))
        pieces.append(text[emitted : len(so_far)] if whole else "")
        emitted = max(emitted, len(so_far)) if whole else emitted
    return tuple(pieces)


def _with_missing_end(inputs: dict[str, torch.Tensor], mark: int) -> dict[str, torch.Tensor]:
    """The encoder's input with a sentinel before the token that ends it."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    sentinel = ids.new_full((len(ids), 1), mark)
    return {
        "input_ids": torch.cat([ids[:, :-1], sentinel, ids[:, -1:]], dim=1),
        "attention_mask": torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1),
    }


def _encoded(lm: LM, prompt: str, chat: bool) -> dict[str, torch.Tensor]:
    if not chat:
        encoded = lm.tokenizer(prompt, return_tensors="pt", verbose=False)
    elif not lm.tokenizer.chat_template:
        raise ModelError(f"{lm.source.name} has no chat template.", "Turn the chat template off.")
    else:
        encoded = lm.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    lm.check_tokens(encoded["input_ids"].numpy())
    return {name: encoded[name].to(lm.device) for name in ("input_ids", "attention_mask")}
