"""Floating-point operations of a model's matrix products, from its layout alone: the speed that pruning could give.

A product of (m, k) with (k, n) counts 2 m k n. Counted are

- every linear layer of a block: 2 x its weights for each token that it reads,
- attention: 4 x query heads x head_dim for each pair of a query and a key (scores, and their product with the values),
  masked pairs included, as the library multiplies them,
- the output head, 2 x hidden x vocabulary, for the last position only, which is all that generation asks for.

Embeddings, norms, activations, softmax and rotary positions are left out: they are no products of matrices, or small
ones. A sliding window is not taken off.
"""

from __future__ import annotations

from collections.abc import Mapping

from nirvana.layout import CROSS_ATTENTION, KV_GROUP, Layout, Site

ENCODER = "encoder"
Geometry = Mapping[str, int]  # as `Family.geometry` gives it


def prefill_flops(layout: Layout, geometry: Geometry, *, batch: int, prompt: int) -> int:
    """Until the first new token: the prompt of `prompt` tokens is read, and one position is predicted.

    An encoder-decoder reads the prompt with its encoder, and its decoder the token that starts every text.
    """
    own = 1 if ENCODER in layout.stacks else prompt
    total = _head(geometry)
    for site in layout:
        tokens = prompt if site.stack == ENCODER else own
        keys = prompt if site.module == CROSS_ATTENTION else tokens
        total += _linear(layout, geometry, site, tokens, prompt) + _attention(layout, geometry, site, tokens, keys)
    return batch * total


def decode_flops(layout: Layout, geometry: Geometry, *, batch: int, prompt: int, new_tokens: int) -> int:
    """From the first new token to the last: `new_tokens` - 1 steps of one token, with everything before it cached."""
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
    """Bytes of the keys and values that are kept while a text of that length is written."""
    own = (1 if ENCODER in layout.stacks else prompt) + new_tokens - 1
    total = 0
    for site in layout.pool(KV_GROUP):
        if site.stack != ENCODER:
            positions = prompt if site.module == CROSS_ATTENTION else own
            total += 2 * layout[site].units * geometry["head_dim"] * positions
    return batch * total * itemsize


def _head(geometry: Geometry) -> int:
    return 2 * geometry["hidden"] * geometry["vocabulary"]


def _linear(layout: Layout, geometry: Geometry, site: Site, tokens: int, read: int) -> int:
    """Linear layers of a site; cross-attention's keys and values are those of the `read` tokens of the encoder."""
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
