"""The trained copy of a pruned model: its batches, steps, adapters and best weights."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.errors import RecoveryError
from nirvana.models.limits import SHARE, available_memory
from nirvana.models.lm import LM
from nirvana.recovery.batches import AllWindows, Batch, Batches, DrawnWindows
from nirvana.recovery.budget import checkpoints
from nirvana.recovery.history import Step
from nirvana.recovery.instructions import Instructions
from nirvana.recovery.memory import checkpoint_blocks, checkpointing_mode
from nirvana.recovery.objectives import distillation, language_modelling
from nirvana.recovery.options import RecoveryOptions

BETAS = (0.9, 0.95)


class Trainer:
    """A float32 copy of a model in training.

    Attributes:
        batches: the batches of each step.
        steps: optimiser steps that are done.
        tokens: tokens that were read in them.
        trained: name -> weight in training; those of the adapters where there are any.
        optimiser: AdamW over `trained`.
        best: weights of the best measurement, as `trained`.
        bfloat16: whether matrix products are in bfloat16.
        checkpointing: whether activations are computed again in the backward pass.
    """

    def __init__(self, small: LM, text: Corpus, teacher: LM | None, options: RecoveryOptions) -> None:
        self._small, self._teacher, self._options = small, teacher, options
        self.batches = batches_of(small, text, options)
        copied: nn.Module = copy.deepcopy(small.weights())
        self.model: Any = nn.Module.to(copied, torch.float32).eval().requires_grad_(not options.adapter_rank)
        self._peft: Any = None
        if options.adapter_rank:
            self._peft = self._add_adapters()
        self.trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.optimiser = torch.optim.AdamW(self.trained.values(), betas=BETAS, weight_decay=0.0, fused=True)
        self.best = self._copied()
        self.steps, self.tokens, self.bfloat16 = 0, 0, options.autocast == "bfloat16"
        self._read = 0  # tokens of the step whose gradient is accumulated
        free = int(available_memory(str(small.device)) * SHARE)
        self.checkpointing = checkpoints(small.sizes, options, free, self.batches.longest)
        if self.checkpointing:
            checkpoint_blocks(self.model, True)

    @property
    def epochs(self) -> float:
        """Passes over the text that are done."""
        return self.steps / self.batches.steps

    def _add_adapters(self) -> Any:
        """Adapters beside every linear layer that belongs to units: the seven projections of Llama."""
        from peft import LoraConfig, get_peft_model

        family, names = self._small.family, set[str]()
        for site in self._small.layout:
            names |= {part.module.rpartition(".")[2] for part in family.slices(self._small.settings, site)}
        config = LoraConfig(
            r=self._options.adapter_rank,
            lora_alpha=self._options.alpha,
            lora_dropout=self._options.dropout,
            target_modules=sorted(names),
            bias="none",
        )
        torch.manual_seed(self._options.seed)
        wrapped: Any = get_peft_model(self.model, config)
        self.model = wrapped.get_base_model()
        return wrapped

    def choose_precision(self) -> None:
        """Take bfloat16 products where a pass with gradients is faster with them; both are tried once."""
        if self._options.autocast != "auto" or self.steps:
            return
        self._training_mode()
        batch, seconds = next(self.batches.of_step(0)).to(self._small.device), {}
        for choice in (False, True):
            self.bfloat16 = choice
            for _ in range(2):  # the first one warms up
                start = time.perf_counter()
                self._backward(batch, 1.0)
                seconds[choice] = time.perf_counter() - start
        self.optimiser.zero_grad(set_to_none=True)
        self.bfloat16 = seconds[True] < seconds[False]

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of forward passes, in the chosen precision."""
        return torch.autocast(self._small.device.type, torch.bfloat16, enabled=self.bfloat16)

    def step(self, rate: float, report: Callable[[], None]) -> Step:
        """Accumulate and clip the gradient of the next step; `update` takes it."""
        self._training_mode()
        self.optimiser.zero_grad(set_to_none=True)
        batches = list(self.batches.of_step(self.steps))
        total, counted = 0.0, sum(batch.positions(self._options.method) for batch in batches)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._options.seed * 1_000_003 + self.steps)  # of dropout
            for batch in batches:
                report()
                total += self._backward(batch.to(self._small.device), 1 / counted)
        norm = float(nn.utils.clip_grad_norm_(self.trained.values(), self._options.clip))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self._read = sum(batch.tokens for batch in batches)
        return Step(self.steps + 1, self.tokens + self._read, 0.0, total / counted, rate, norm)

    def update(self) -> None:
        """Change the weights by the gradient of the last step."""
        self.optimiser.step()
        self.steps += 1
        self.tokens += self._read

    def evaluated(self) -> LM:
        """The model as it is now, for measurements."""
        return replace(self._small, model=self.model.eval(), dtype=torch.float32)

    def keep_best(self) -> None:
        """Note the weights as the best so far."""
        self.best = self._copied()

    def save_adapter(self, folder: Path) -> None:
        """Write the best adapters alone, as peft reads them."""
        self._restore_best()
        self._peft.save_pretrained(folder)

    def finish(self) -> Any:
        """The transformers module with the best weights, adapters merged, in the dtype of the small model."""
        self._restore_best()
        if self._peft is not None:
            self.model = self._peft.merge_and_unload()
        self.optimiser.zero_grad(set_to_none=True)
        if self.checkpointing:
            checkpoint_blocks(self.model, False)
        return self.model.to(self._small.dtype).eval().requires_grad_(False)

    def _restore_best(self) -> None:
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(self.best[name])

    def _copied(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self.trained.items()}

    def _training_mode(self) -> None:
        for name, module in self.model.eval().named_modules():
            if "lora_dropout" in name:  # the model's own dropout stays off
                module.train()
        if self.checkpointing:
            checkpointing_mode(self.model)

    def _backward(self, batch: Batch, scale: float) -> float:
        small, model = self._small, self.model
        inputs = batch.input_ids, batch.attention_mask, batch.decoder_input_ids
        with self.autocast():
            states = small.family.hidden_states(model, *inputs)
            head = small.family.head(model)
            counts = slice(None) if batch.counted is None else batch.counted.flatten().nonzero().flatten()
            states = states.flatten(0, 1)[counts]
            if self._options.method != "distill":
                return language_modelling(head, states, batch.labels.flatten()[counts], scale)
            assert self._teacher is not None
            with torch.inference_mode():
                taught = self._teacher.family.hidden_states(self._teacher.weights(), *inputs)
            teacher_head = self._teacher.family.head(self._teacher.weights())
            return distillation(head, states, teacher_head, taught.flatten(0, 1)[counts], scale)


def batches_of(lm: LM, text: Corpus, options: RecoveryOptions) -> Batches:
    split = text.split("calibration")
    parts = split.parts or (split,)
    instructed = [bool(part.prompts) for part in parts]
    if all(instructed):
        return Instructions(lm, parts, options)
    if any(instructed):
        raise RecoveryError("Instructions cannot be mixed with other text.", "Recover with one of the two.")
    return AllWindows(lm, text, options) if options.epochs else DrawnWindows(lm, text, options)
