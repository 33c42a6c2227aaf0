"""Measured speed of prefill and decoding, with models in turns so that load on the machine affects all alike."""

from __future__ import annotations

import inspect
import platform
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from nirvana.calibration.tasks import start_token
from nirvana.errors import ModelError
from nirvana.evaluation.flops import cache_bytes, decode_flops, prefill_flops
from nirvana.evaluation.speed_report import ModelSpeed, SpeedReport, Spread
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report

STAGE = "Timing"
SEED = 0  # of the prompt, whose tokens do not affect the time
clock = time.perf_counter


class State(NamedTuple):
    """A text that is being generated: arguments of the next forward with its cache, and the newest tokens, (B, 1)."""

    inputs: dict[str, Any]
    newest: torch.Tensor


class Turn(NamedTuple):
    """One timed generation of one model: seconds to the first token, seconds for the others, peak bytes."""

    first: float
    others: float
    peak: int | None  # None where the device does not count them


def measure_speed(
    models: Mapping[str, LM],
    *,
    batch: int = 1,
    prompt: int = 128,
    new_tokens: int = 32,
    repeats: int = 5,
    progress: ProgressCallback | None = None,
) -> SpeedReport:
    """Tokens a second of each model, in turns A B A B, after a warm-up turn of each.

    A turn reads `batch` prompts of random tokens at once and decodes `new_tokens` tokens greedily with the library's
    own forward and cache. An encoder-decoder reads the prompt with its encoder. The time to the first token is that of
    the prefill, without tokenisation.

    Args:
        models: names and models; the first is the baseline.
        batch: prompts at once.
        prompt: tokens of each.
        new_tokens: generated after each, at least 2.
        repeats: turns of each model after the warm-up.
        progress: called after every token; may raise `Cancelled`.

    Raises:
        ModelError: no models, a number out of range, a text longer than a model's positions, or models on different
            devices.
    """
    check(models, batch, prompt, new_tokens, repeats)
    turns: dict[str, list[Turn]] = {name: [] for name in models}
    total, done = (repeats + 1) * len(models) * new_tokens, 0

    def step() -> None:
        nonlocal done
        done += 1
        report(progress, stage, done, total)

    for repeat in range(repeats + 1):
        for name, lm in models.items():
            stage = f"{STAGE} {name}" + (f", turn {repeat} of {repeats}" if repeat else ", warming up")
            report(progress, stage, done, total)
            turn = take_turn(lm, prompt_tokens(lm, batch, prompt), new_tokens, step)
            if repeat:
                turns[name].append(turn)
    any_lm = next(iter(models.values()))
    return SpeedReport(
        {name: _summary(lm, turns[name], batch, prompt, new_tokens) for name, lm in models.items()},
        batch,
        prompt,
        new_tokens,
        repeats,
        device_name(any_lm.device),
        torch.get_num_threads(),
    )


def prompt_tokens(lm: LM, batch: int, length: int) -> torch.Tensor:
    """(batch, length) random token ids, the same for every model of that vocabulary."""
    draw = torch.Generator().manual_seed(SEED)
    vocabulary = lm.family.geometry(lm.settings)["vocabulary"]
    return torch.randint(0, vocabulary, (batch, length), generator=draw).to(lm.device)


def take_turn(lm: LM, tokens: torch.Tensor, new_tokens: int, step: Any) -> Turn:
    """Read `tokens`, (B, T), and generate `new_tokens` after them; `step()` is called after each."""
    cuda = lm.device.type == "cuda"
    held = 0
    if cuda:
        torch.cuda.reset_peak_memory_stats(lm.device)
        held = torch.cuda.memory_allocated(lm.device)
    with torch.inference_mode():
        start = now(lm.device)
        state = prefill(lm, tokens)
        first = now(lm.device)
        step()
        for _ in range(new_tokens - 1):
            state = decode(lm, state)
            step()
        end = now(lm.device)
    peak = torch.cuda.max_memory_allocated(lm.device) - held + lm.weight_bytes if cuda else None
    return Turn(first - start, end - first, peak)


def prefill(lm: LM, tokens: torch.Tensor) -> State:
    """Read `tokens`, (B, T), with the encoder where there is one, and predict the next one."""
    model: Any = lm.weights()
    inputs: dict[str, Any] = {"input_ids": tokens, "logits_to_keep": 1}
    if lm.family.encoder_decoder:
        begin = tokens.new_full((len(tokens), 1), start_token(lm))
        inputs = {"encoder_outputs": model.get_encoder()(input_ids=tokens), "decoder_input_ids": begin}
    output = model(**inputs, use_cache=True)
    return State(inputs | cached(lm, output), output.logits[:, -1:].argmax(-1))


def decode(lm: LM, state: State) -> State:
    """Read the newest tokens and predict the next ones; the library extends the cache in place."""
    model: Any = lm.weights()
    name = "decoder_input_ids" if lm.family.encoder_decoder else "input_ids"
    inputs = {**state.inputs, name: state.newest}
    return State(inputs, model(**inputs, use_cache=True).logits[:, -1:].argmax(-1))


def cached(lm: LM, output: Any) -> dict[str, Any]:
    """The argument that passes the cache of an earlier `output` to a forward; transformers renamed both."""
    name = "cache" if "cache" in inspect.signature(lm.weights().forward).parameters else "past_key_values"
    return {name: getattr(output, name)}


def _summary(lm: LM, turns: list[Turn], batch: int, prompt: int, new_tokens: int) -> ModelSpeed:
    geometry = lm.family.geometry(lm.settings)
    sizes = {"batch": batch, "prompt": prompt, "new_tokens": new_tokens}
    measured = [turn.peak for turn in turns if turn.peak is not None]
    cache = cache_bytes(lm.layout, geometry, **sizes, itemsize=lm.dtype.itemsize)
    return ModelSpeed(
        prefill=Spread.of([batch * prompt / turn.first for turn in turns]),
        decode=Spread.of([batch * (new_tokens - 1) / turn.others for turn in turns]),
        first_token=Spread.of([turn.first for turn in turns]),
        memory_bytes=max(measured) if measured else lm.weight_bytes + cache,
        memory_measured=bool(measured),
        file_bytes=lm.weight_bytes,
        parameters=lm.layout.parameters,
        prefill_flops=prefill_flops(lm.layout, geometry, batch=batch, prompt=prompt),
        decode_flops=decode_flops(lm.layout, geometry, **sizes),
        dtype=str(lm.dtype).removeprefix("torch."),
        note=lm.source.note,
    )


def now(device: torch.device) -> float:
    """The time after the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return clock()


def device_name(device: torch.device) -> str:
    """E.g. "cpu (x86_64)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"


def check(models: Mapping[str, LM], batch: int, prompt: int, new_tokens: int, repeats: int) -> None:
    if not models:
        raise ModelError("There is no model to time.", "Give one or more, by name.")
    if min(batch, prompt, repeats) < 1 or new_tokens < 2:
        raise ModelError(
            f"Batch {batch}, prompt {prompt}, {new_tokens} new tokens and {repeats} turns cannot be timed.",
            "Use 1 or more of each, and 2 or more new tokens.",
        )
    if len({lm.device for lm in models.values()}) > 1:
        raise ModelError("The models are on different devices.", "Load them on the same one.")
    for lm in models.values():
        if not lm.family.generates_with_cache(lm.settings):
            raise ModelError(
                f"{lm.source.name} has more decoder than encoder layers, for which transformers has no cache.",
                "Its speed cannot be measured; remove it from the models.",
            )
        positions = lm.family.geometry(lm.settings).get("positions", prompt + new_tokens)
        if prompt + new_tokens > positions:
            raise ModelError(
                f"{prompt + new_tokens:,} tokens are more than the {positions:,} positions of {lm.source.name}.",
                "Use a shorter prompt, or fewer new tokens.",
            )
