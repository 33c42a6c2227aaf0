"""The supported model families. A new one is one file here and one entry in `FAMILIES`."""

from __future__ import annotations

from nirvana.errors import ModelError
from nirvana.models.families.base import Config, Family, WeightSlice
from nirvana.models.families.llama import LlamaFamily

__all__ = ["FAMILIES", "Config", "Family", "WeightSlice", "family_of"]

FAMILIES: tuple[Family, ...] = (LlamaFamily(),)


def family_of(config: Config) -> Family:
    """The adapter for a config.json dictionary, by its `model_type`.

    Raises:
        ModelError: the architecture is not supported, or its sizes make no sense.
    """
    model_type = config.get("model_type")
    for family in FAMILIES:
        if model_type in family.model_types:
            family.check(config)
            return family
    supported = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
    raise ModelError(f"Models of type {model_type!r} are not supported.", f"Supported model types: {supported}.")
