"""Floating-point operations of a model's matrix products, from its layout alone: the ideal speed of a pruned model.

A product of (m, k) with (k, n) counts 2 m k n. Counted are

- every linear layer of a block: 2 x its weights for each token that it reads,
- attention: 4 x query heads x head_dim for each pair of a query and a key (scores, and their product with the values),
  masked pairs included, as the library multiplies them,
- the output head, 2 x hidden x vocabulary, for the last position only in generation, else for each.

Embeddings, norms, activations, softmax and rotary positions are excluded: they are not matrix products, or small. A
sliding window is not deducted.
"""

from __future__ import annotations

from collections.abc import Mapping

from nirvana.layout import CROSS_ATTENTION, KV_GROUP, Layout, Site

ENCODER = "encoder"
Geometry = Mapping[str, int]  # as `Family.geometry` gives it


def prefill_flops(layout: Layout, geometry: Geometry, *, batch: int, prompt: int) -> int:
    """Operations until the first new token: read the prompt of `prompt` tokens and predict one position.

    An encoder-decoder reads the prompt with its encoder, and its decoder the start token.
    """
    own = 1 if ENCODER in layout.stacks else prompt
    return batch * (_blocks(layout, geometry, prompt, own) + _head(geometry))


def window_flops(layout: Layout, geometry: Geometry, length: int) -> int:
    """Operations of one forward pass over a window of `length` tokens, with the logits of every position.

    An encoder-decoder reads as many tokens with its encoder as with its decoder.
    """
    return _blocks(layout, geometry, length, length) + length * _head(geometry)


def decode_flops(layout: Layout, geometry: Geometry, *, batch: int, prompt: int, new_tokens: int) -> int:
    """Operations after the first new token: `new_tokens` - 1 steps of one token with a cache."""
    before = 1 if ENCODER in layout.stacks else prompt
    total = 0
    for step in range(1, new_tokens):
        total += _head(geometry)
        for site in layout:
            if site.stack != ENCODER:
                keys = prompt if site.module == CROSS_ATTENTION else before + step
                total += _linear(layout, geometry, site, 1, 0) + _attention(layout, geometry, site, 1, keys)
    return batch * total


def cache_bytes(layout: Layout, geometry: Geometry, *, batch: int, prompt: int, new_tokens: int, itemsize: int) -> int:
    """Bytes of the cache of keys and values for a text of that length."""
    own = (1 if ENCODER in layout.stacks else prompt) + new_tokens - 1
    total = 0
    for site in layout.pool(KV_GROUP):
        if site.stack != ENCODER:
            positions = prompt if site.module == CROSS_ATTENTION else own
            total += 2 * layout[site].units * geometry["head_dim"] * positions
    return batch * total * itemsize


def _blocks(layout: Layout, geometry: Geometry, read: int, own: int) -> int:
    """Operations of all blocks for a window: `own` tokens, and in an encoder `read`."""
    total = 0
    for site in layout:
        tokens = read if site.stack == ENCODER else own
        keys = read if site.module == CROSS_ATTENTION else tokens
        total += _linear(layout, geometry, site, tokens, read) + _attention(layout, geometry, site, tokens, keys)
    return total


def _head(geometry: Geometry) -> int:
    return 2 * geometry["hidden"] * geometry["vocabulary"]


def _linear(layout: Layout, geometry: Geometry, site: Site, tokens: int, read: int) -> int:
    """Operations of the linear layers of a site; cross-attention computes keys and values of the encoder's `read`
    tokens.
    """
    weights = layout[site].parameters
    if site.module != CROSS_ATTENTION:
        return 2 * weights * tokens
    keys = 2 * layout[site].units * geometry["head_dim"] * geometry["hidden"]
    return 2 * (weights - keys) * tokens + 2 * keys * read


def _attention(layout: Layout, geometry: Geometry, site: Site, queries: int, keys: int) -> int:
    if layout[site].kind != KV_GROUP:
        return 0
    heads = layout[site].units * (geometry["heads"] // geometry["kv_heads"])
    return 4 * heads * geometry["head_dim"] * queries * keys
