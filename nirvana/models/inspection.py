"""Description of a model from its config alone: no weights, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nirvana.layout import Layout
from nirvana.models.families.registry import family_of
from nirvana.models.sources import locate

STORED_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}


@dataclass(frozen=True)
class ModelPreview:
    """A model before it is loaded."""

    name: str
    origin: str
    note: str
    family: str
    layout: Layout
    geometry: dict[str, int]
    stored_dtype: str

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of the weights once loaded, for "float32", "bfloat16", "float16" or "auto" on a CPU (float32)."""
        return self.layout.parameters * STORED_BITS.get(dtype, 32) // 8


def inspect_model(name: str) -> ModelPreview:
    """Describe a model by built-in name, hub id, folder or .gguf file without reading its weights.

    A pruned checkpoint is described with its pruned widths.

    Raises:
        ModelError: it cannot be found, or its architecture is not supported.
    """
    from nirvana.models.pruning_record import find_record

    located = locate(name)
    family = family_of(located.config)
    record = find_record(located.path, family, located.config)
    config = located.config if record is None else record.dense_config(family, located.config)
    layout = family.layout(config) if record is None else record.layout(family, config)
    return ModelPreview(
        name=located.name,
        origin=located.origin,
        note=located.note if record is None else record.note,
        family=family.name,
        layout=layout,
        geometry=family.geometry(config),
        stored_dtype=str(located.config.get("dtype") or located.config.get("torch_dtype") or "float32"),
    )


def describe_config(config: Mapping[str, Any], name: str = "") -> ModelPreview:
    """Describe the dense model of a config.json dictionary; there need be no weights.

    Raises:
        ModelError: its architecture is not supported, or its sizes make no sense.
    """
    family = family_of(config)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    layout = family.layout(config)
    return ModelPreview(name or layout.architecture, "config", "", family.name, layout, family.geometry(config), stored)
