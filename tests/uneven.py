"""Models pruned as unevenly as possible: other KV groups and widths in every layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nirvana.layout import KV_GROUP, Site
from nirvana.models.weights import layer_places, linear_layer, output_part
from nirvana.plan import PruningPlan
from tests.conftest import TINY, byte_tokenizer

if TYPE_CHECKING:
    from nirvana.models.lm import LM


def uneven_plan(lm: LM, *, seed: int = 1, removed_layers: tuple[tuple[str, int], ...] = ()) -> PruningPlan:
    """1, 2, ... KV groups and a random width in every layer that stays."""
    draw = np.random.default_rng(seed)
    kept: dict[Site, np.ndarray] = {}
    for site, place in lm.layout.items():
        if (site.stack, site.layer) not in removed_layers:
            count = 1 + site.layer % place.units
            if place.kind != KV_GROUP:
                count = int(draw.integers(place.units // 2, place.units))
            kept[site] = np.sort(draw.choice(place.units, count, replace=False))
    return PruningPlan(kept, lm.layout, requested=0.3, gamma=1.0, removed_layers=removed_layers)


def equal_plan(lm: LM, *, groups: int | None = 1, width: int = 20, seed: int = 0) -> PruningPlan:
    """`groups` KV groups, or all of them, and `width` neurons in every layer, other ones in each."""
    draw = np.random.default_rng(seed)
    counts = {site: (groups or place.units) if place.kind == KV_GROUP else width for site, place in lm.layout.items()}
    kept = {site: np.sort(draw.choice(lm.layout[site].units, counts[site], replace=False)) for site in lm.layout}
    return PruningPlan(kept, lm.layout, requested=0.5, gamma=1.0)


def with_output_biases(lm: LM, *, seed: int = 2) -> LM:
    """`lm`, changed in place, with random biases on some output projections of each kind."""
    import torch

    generator, places, sites = torch.Generator().manual_seed(seed), layer_places(lm.layout), dict(lm.layout.sites)
    for site in {*list(sites)[::5], list(sites)[-1]}:
        layer = lm.family.blocks(lm.weights())[site.stack][places[site.stack, site.layer]]
        linear = linear_layer(layer, output_part(lm, site))
        values = 0.3 * torch.randn(linear.out_features, generator=generator)
        linear.bias = torch.nn.Parameter(values.to(linear.weight), requires_grad=False)
        sites[site] = sites[site]._replace(output_bias=len(values))
    return replace(lm, layout=replace(lm.layout, sites=sites))


def write_family_model(folder: Path, library: str, **changes: Any) -> Path:
    """Save a random model of a library's family, e.g. "Qwen3", with a byte tokenizer."""
    import torch
    import transformers

    tokenizer = byte_tokenizer()
    config = getattr(transformers, f"{library}Config")(
        **{"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, **TINY, **changes}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = getattr(transformers, f"{library}ForCausalLM")(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # which start as zeros and ones
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
