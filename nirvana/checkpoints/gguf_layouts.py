"""llama.cpp's architectures that can hold a model, with logits that were compared: `make test-interop`.

| architecture | models | layers |
|---|---|---|
| `llama`, `qwen2`, `qwen3` | Llama and Mistral, Qwen2, Qwen3 | of equal sizes |
| `deci` | Llama and Mistral | each with its own heads and width |
| `openelm` | Qwen3 with tied embeddings | each with its own heads and width |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nirvana.errors import CheckpointError
from nirvana.layout import KV_GROUP, NEURON, Layout

if TYPE_CHECKING:
    from nirvana.models.families.base import Family
    from nirvana.models.lm import LM

EQUAL = {"Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3"}  # by family
UNEVEN = {"Llama": "deci", "Mistral": "deci", "Qwen3": "openelm"}
HINT = "Use the checkpoint or the uniform format."


def architecture_of(lm: LM) -> str:
    """llama.cpp's architecture for `lm`, e.g. "deci".

    Raises:
        CheckpointError: none was verified, naming the family or the setting.
    """
    name = lm.family.name
    refuse_unverified(lm.family, lm.settings)
    widths = layer_sizes(lm.layout)
    equal = all(len(set(counts)) == 1 for counts in widths.values())
    if not equal and name not in UNEVEN:
        raise CheckpointError(
            f"{name} models with layers of uneven sizes cannot be written as GGUF: no architecture of llama.cpp has "
            "biases on some queries of a layer.",
            "Allocate equal widths (--uniform), or use the checkpoint format.",
        )
    architecture = EQUAL[name] if equal else UNEVEN[name]
    geometry = lm.family.geometry(lm.settings)
    queries = widths["groups"][0] * (geometry["heads"] // geometry["kv_heads"]) * geometry["head_dim"]
    if architecture == "qwen2" and queries != geometry["hidden"]:
        raise CheckpointError(
            "A Qwen2 with fewer heads cannot be written as GGUF: llama.cpp's qwen2 has as many query rows as the "
            f"hidden size, {geometry['hidden']:,}, and this model has {queries:,}.",
            "Prune the MLPs only (--uniform --gamma inf), or use the checkpoint format.",
        )
    if architecture == "openelm" and not lm.settings.get("tie_word_embeddings"):
        raise CheckpointError(
            "A Qwen3 with layers of uneven sizes and an output head of its own cannot be written as GGUF: llama.cpp's "
            "openelm ties the head to the embeddings.",
            "Allocate equal widths (--uniform), or use the checkpoint format.",
        )
    biased = [site.key for site, place in lm.layout.items() if place.output_bias]
    if biased and architecture in ("qwen2", "qwen3", "openelm"):
        raise CheckpointError(
            f"Biases on output projections ({biased[0]}) cannot be written as GGUF: llama.cpp's {architecture} has "
            "none.",
            "Prune without biases, or use the checkpoint format.",
        )
    return architecture


def refuse_unverified(family: Family, config: Mapping[str, Any]) -> None:
    """Check that logits of this kind of model were compared with llama.cpp's.

    Raises:
        CheckpointError: naming the family or the setting.
    """
    if family.name not in EQUAL:
        raise CheckpointError(
            f"{family.name} models cannot be written as GGUF: they were not compared with llama.cpp.", HINT
        )
    rope = config.get("rope_parameters") or {}
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise CheckpointError(
            f"Rotary positions scaled by {kind!r} cannot be written as GGUF: llama.cpp needs stored factors, "
            "which were not verified.",
            HINT,
        )
    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(
            f"The activation {config['hidden_act']!r} cannot be written as GGUF: only silu was verified.", HINT
        )
    if family.name == "Qwen3" and config.get("attention_bias"):
        raise CheckpointError("A Qwen3 with biases in attention cannot be written as GGUF: llama.cpp has none.", HINT)
    windowed = config.get("use_sliding_window", family.name == "Mistral")
    if windowed and config.get("sliding_window"):
        raise CheckpointError(
            f"Attention within a window of {config['sliding_window']} positions cannot be written as GGUF: it was not "
            "verified.",
            HINT,
        )


def layer_sizes(layout: Layout) -> dict[str, list[int]]:
    """Sizes that differ between layers: "groups" (KV groups) and "widths" (of the MLP), in model order."""
    return {
        "groups": [layout[site].units for site in layout.pool(KV_GROUP)],
        "widths": [layout[site].units for site in layout.pool(NEURON)],
    }
