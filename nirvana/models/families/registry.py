"""Registry of the supported model families. A new family is one file in this folder and one entry in `FAMILIES`."""

from __future__ import annotations

from nirvana.errors import ModelError
from nirvana.models.families.base import Config, Family
from nirvana.models.families.llama import LlamaFamily, MistralFamily
from nirvana.models.families.qwen import Qwen2Family, Qwen3Family
from nirvana.models.families.t5 import MT5Family, T5Family

FAMILIES: tuple[Family, ...] = (
    LlamaFamily(),
    MistralFamily(),
    Qwen2Family(),
    Qwen3Family(),
    T5Family(),
    MT5Family(),
)
# How configs count experts. Their blocks have several MLPs instead of one.
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "expert_count")


def family_of(config: Config) -> Family:
    """The adapter for a config.json dictionary, by its `model_type`.

    Raises:
        ModelError: the architecture is not supported, or its sizes make no sense.
    """
    model_type = config.get("model_type")
    supported = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
    if "moe" in str(model_type) or any(config.get(name) for name in EXPERT_COUNTS):
        raise ModelError(
            f"Models of type {model_type!r} are mixtures of experts, which are not supported.",
            f"Supported model types: {supported}.",
        )
    for family in FAMILIES:
        if isinstance(model_type, str) and model_type in family.model_types:
            family.check(config)
            return family
    raise ModelError(f"Models of type {model_type!r} are not supported.", f"Supported model types: {supported}.")
