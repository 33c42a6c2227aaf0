"""Greedy continuation of a prompt: what a model says, for reading beside another's."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from nirvana.calibration.tasks import SPANS, sentinels, start_token, task_of
from nirvana.errors import CorpusError, ModelError
from nirvana.models.generation_settings import own_settings
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report

STAGE = "Continuing"


class Reporting(StoppingCriteria):
    """Reports each new token; the callback stops the text by raising `Cancelled`."""

    def __init__(self, progress: ProgressCallback | None, prompt: int, total: int) -> None:
        self.progress, self.prompt, self.total = progress, prompt, total

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        report(self.progress, STAGE, input_ids.shape[1] - self.prompt, self.total)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def continue_prompt(
    lm: LM,
    prompt: str,
    *,
    chat: bool = False,
    max_new_tokens: int = 64,
    progress: ProgressCallback | None = None,
) -> str:
    """The most likely next tokens, one after the other, without the prompt.

    An encoder-decoder reads the prompt with its encoder. One that was trained on missing spans is asked for the span
    that is missing at the prompt's end.

    Args:
        prompt: some text; the continuation follows it directly.
        chat: give the prompt as a user's turn in the model's chat template instead, and return the answer.
        max_new_tokens: stop after this many, or where the model ends the text, or where its positions end.
        progress: called after each token; may raise `Cancelled`.

    Raises:
        CorpusError: the prompt is empty or fills the model's positions, or the number of tokens is below 1.
        ModelError: the model has no chat template, or its weights are not in memory.
    """
    if not prompt.strip():
        raise CorpusError("The prompt is empty.", "Write a few words for the model to continue.")
    if max_new_tokens < 1:
        raise CorpusError(f"{max_new_tokens} new tokens are none.", "Ask for 1 or more.")
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
        ends = [ends, *marks[1:]]  # the next sentinel: what follows is another span
    configure: Any = GenerationConfig  # the library leaves both untyped
    generate: Any = model.generate
    settings = configure(
        do_sample=False,
        max_new_tokens=total,
        eos_token_id=ends,
        decoder_start_token_id=start_token(lm) if lm.family.encoder_decoder else None,
        pad_token_id=lm.tokenizer.pad_token_id if lm.tokenizer.pad_token_id is not None else lm.tokenizer.eos_token_id,
    )
    report(progress, STAGE, 0, total)
    with torch.inference_mode(), own_settings(model):
        output = generate(
            **inputs,
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([Reporting(progress, written, total)]),
        )
    report(progress, STAGE, total, total)
    new = [token for token in output[0, written:].tolist() if token not in marks]
    return str(lm.tokenizer.decode(new, skip_special_tokens=True))


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
    return {name: encoded[name].to(lm.device) for name in ("input_ids", "attention_mask")}
