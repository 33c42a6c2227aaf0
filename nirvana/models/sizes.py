"""Sizes of a model from its layout alone: the numbers that all estimates of memory and time are made of. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from nirvana.layout import KV_GROUP, NEURON, Layout, Site

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32 = 4
PAGED = 1 << 22  # weights of a tensor; larger ones are pages of a file where weights stay on disk
ENCODER = "encoder"


@dataclass(frozen=True)
class ModelSizes:
    """Counts of values, and bytes, of a model in memory.

    `geometry` is that of `Family.geometry`, `item` the bytes of a weight, and `lazy` whether the weights of the blocks
    stay on disk.
    """

    layout: Layout
    geometry: Mapping[str, int]
    item: int = FLOAT32
    lazy: bool = False

    @property
    def hidden(self) -> int:
        return self.geometry["hidden"]

    @property
    def vocabulary(self) -> int:
        return self.geometry["vocabulary"]

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.hidden * self.vocabulary

    @property
    def encoder_decoder(self) -> bool:
        return ENCODER in self.layout.stacks

    @property
    def blocks(self) -> int:
        """Number of blocks of all stacks."""
        return len(self._block_weights)

    @property
    def largest_block(self) -> int:
        """Prunable weights of the largest block."""
        return max(self._block_weights.values())

    @property
    def largest_site(self) -> int:
        """Weights of the largest site."""
        return max(place.parameters for place in self.layout.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.layout.parameters * self.item

    def resident(self, device: str, blocks: int = 2) -> int:
        """Bytes of the weights on a device while the model computes, with as many `blocks` of those on disk.

        With weights on disk these are two blocks, of which one is read ahead, and all other weights on an accelerator;
        on a CPU large ones are pages of a file, which the system can reclaim.
        """
        if not self.lazy:
            return self.weight_bytes
        rest = [count for count in self.layout.other.values() if device != "cpu" or count <= PAGED]
        return (blocks * self.largest_block + sum(rest)) * self.item

    def needed_at_once(self, device: str) -> int:
        """Bytes without which the model cannot compute: its weights, or those in memory and a block's gradients."""
        return self.resident(device) + (self.largest_block * self.item if self.lazy else 0)

    @cached_property
    def input_widths(self) -> dict[Site, int]:
        """Site -> d, the input features of its output projection."""
        shared = self.geometry["heads"] // self.geometry["kv_heads"] * self.geometry["head_dim"]
        return {site: place.units * (shared if place.kind == KV_GROUP else 1) for site, place in self.layout.items()}

    @cached_property
    def neurons(self) -> int:
        """Units of the widest MLP."""
        return max((place.units for place in self.layout.values() if place.kind == NEURON), default=0)

    @cached_property
    def projected(self) -> int:
        """Rows of q, k, v and columns of o in the attention of a block: of both attentions where it has two."""
        attention = max((place.parameters for place in self.layout.values() if place.kind == KV_GROUP), default=0)
        attentions = Counter(site[:2] for site, place in self.layout.items() if place.kind == KV_GROUP)
        return max(attentions.values(), default=0) * attention // self.hidden

    @property
    def kept_by_block(self) -> int:
        """Values per token that one block keeps for its backward pass (measured on Llama blocks, fused attention).

        A decoder block with cross-attention keeps more than an encoder block; all are counted as the larger.
        """
        return 5 * self.neurons + 6 * self.hidden + 2 * self.projected

    @property
    def passed_by_block(self) -> int:
        """Most values per token that a block holds at once in a forward pass without autograd.

        In the MLP: gate, its activation, up, their product, with the hidden states that are added to its output.
        """
        return max(3 * self.neurons, self.projected) + 4 * self.hidden

    @property
    def adapter_inputs(self) -> int:
        """Input features of all linear layers that belong to units."""
        return sum(inputs for inputs, _ in self._linears())

    def adapter_weights(self, rank: int) -> int:
        """Weights of adapters of a rank beside all linear layers that belong to units."""
        return rank * sum(inputs + outputs for inputs, outputs in self._linears())

    def resized(self, sparsity: float) -> ModelSizes:
        """The sizes after pruning to a sparsity, about: every site loses the same share of its units."""
        sites = {site: place._replace(units=_kept(place.units, sparsity)) for site, place in self.layout.items()}
        layout = Layout(sites, self.layout.other, self.layout.architecture, self.layout.plain)
        return ModelSizes(layout, self.geometry, self.item, self.lazy)

    @cached_property
    def _block_weights(self) -> Counter[tuple[str, int]]:
        weights = Counter[tuple[str, int]]()
        for site, place in self.layout.items():
            weights[site.stack, site.layer] += place.parameters
        return weights

    def _linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer that belongs to units."""
        found, hidden, head_dim = list[tuple[int, int]](), self.hidden, self.geometry["head_dim"]
        for site, place in self.layout.items():
            width = self.input_widths[site]
            if place.kind == KV_GROUP:
                found += [(hidden, width), *2 * [(hidden, place.units * head_dim)]]
            else:
                found += (place.cost // hidden - 1) * [(hidden, width)]
            found.append((width, hidden))
        return found


def _kept(units: int, sparsity: float) -> int:
    return max(1, round(units * (1 - sparsity)))
