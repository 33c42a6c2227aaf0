"""pruning.json: the record of a pruned checkpoint, beside its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nirvana.errors import CheckpointError
from nirvana.files import parse_json, read_text, well_formed, whole_number
from nirvana.layout import Layout, Site, kept_units
from nirvana.models.families.base import MOST_LAYERS, Config, Family
from nirvana.models.gguf_own import own_files
from nirvana.models.sources import PRUNING_FILE

FILE = PRUNING_FILE
OUTPUT_BIASES = "output_biases"  # in the record of a layer: linear layers with a bias that the library does not build
VERSION = 1


@dataclass(frozen=True)
class PruningRecord:
    """Which units of the dense model a checkpoint still holds.

    `kept` has original unit indices; a layer without sites was removed. `base` and `base_hash` name the dense model,
    which had `base_layers` layers in each stack; `note` is its source's, e.g. "4-bit origin". `plans` are the hashes of
    the pruning plans that were applied to it, in order. `output_biases` are the sites whose output projection gained a
    bias; `compensations` and `recoveries` as in `LM`. `dense_sizes` are settings of the dense model that config.json
    has otherwise, because all layers of the checkpoint have the same sizes.
    """

    base: str
    base_hash: str
    note: str
    base_layers: dict[str, int]
    kept: dict[Site, np.ndarray]
    plans: tuple[str, ...]
    output_biases: tuple[Site, ...] = ()
    compensations: tuple[dict[str, Any], ...] = ()
    recoveries: tuple[dict[str, Any], ...] = ()
    dense_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def layers(self) -> dict[str, list[int]]:
        """Stack -> original indices of the remaining layers."""
        return {stack: sorted({site.layer for site in self.kept if site.stack == stack}) for stack in self.base_layers}

    def dense_layout(self, family: Family, config: Config) -> Layout:
        """The layout of the dense model; `config` is the checkpoint's, with the dense model's layer sizes."""
        return family.layout(config, {stack: range(count) for stack, count in self.base_layers.items()})

    def layout(self, family: Family, config: Config) -> Layout:
        """The layout of the checkpoint, in original layer indices.

        Raises:
            CheckpointError: the record does not fit the config.
        """
        if set(self.base_layers) != set(family.layer_counts):
            raise CheckpointError(f"{FILE} is of another kind of model than config.json.", "Save the model again.")
        dense = self.dense_layout(family, config)
        for site, kept in self.kept.items():
            if site not in dense or kept.ndim != 1 or len(kept) == 0:
                raise CheckpointError(f"{FILE} and config.json disagree about {site.key}.", "Save the model again.")
            if kept[0] < 0 or kept[-1] >= dense[site].units or (np.diff(kept) <= 0).any():
                raise CheckpointError(f"{FILE} lists impossible units of {site.key}.", "Save the model again.")
        layout = family.layout(config, self.layers)
        present = family.layout(config)
        counts = [(stack, len(present.layers(stack))) for stack in present.stacks]
        if list(layout) != list(self.kept) or counts != [(stack, len(left)) for stack, left in self.layers.items()]:
            raise CheckpointError(f"{FILE} and config.json disagree about the layers.", "Save the model again.")
        sites = {site: place._replace(units=len(self.kept[site])) for site, place in layout.items()}
        for site in self.output_biases:
            if site not in sites or sites[site].output_bias:
                raise CheckpointError(
                    f"{FILE} adds an output bias to {site.key}, which is not in the model or has one already.",
                    "Save the model again.",
                )
            sites[site] = sites[site]._replace(output_bias=family.geometry(config)["hidden"])
        self._check_layer_records(family, config)
        return replace(layout, sites=sites)

    def dense_config(self, family: Family, config: Config) -> Config:
        """`config`, which is the checkpoint's, with the dense model's layer sizes.

        Raises:
            CheckpointError: the record has other settings than sizes.
        """
        if not set(self.dense_sizes) <= set(family.uniform_config(config, 1, 1)):
            raise CheckpointError(f"{FILE} has sizes that are not of layers.", "Save the model again.")
        return {**config, **self.dense_sizes}

    def _check_layer_records(self, family: Family, config: Config) -> None:
        """Check that config.json records the same sizes, heads and biases."""
        written = config.get(_layers_key(family))
        if written is None:
            return
        for stack, expected in layer_records(family, config, self.kept, self.output_biases).items():
            found = written.get(stack, {}) if family.encoder_decoder and isinstance(written, Mapping) else written
            layers = _by_number(found) if isinstance(found, Mapping) else {"": found}
            right = _by_number(expected)
            wrong = [place for place in {**right, **layers} if layers.get(place) != right.get(place)]
            if wrong:
                raise CheckpointError(
                    f"{FILE} and config.json disagree about layer {wrong[0]} of the {stack}: its sizes, its heads, or "
                    "which output projections have biases.",
                    "Save the model again.",
                )

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "base": self.base,
            "base_hash": self.base_hash,
            "note": self.note,
            "base_layers": self.base_layers,
            "plans": list(self.plans),
            "output_biases": [site.key for site in self.output_biases],
            "compensations": list(self.compensations),
            **({"recoveries": list(self.recoveries)} if self.recoveries else {}),
            **({"dense_sizes": self.dense_sizes} if self.dense_sizes else {}),
            "kept": {site.key: kept.tolist() for site, kept in self.kept.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruningRecord:
        if data["version"] != VERSION:
            raise ValueError(f"it has version {data['version']}; version {VERSION} is supported")
        return cls(
            base=str(data["base"]),
            base_hash=str(data["base_hash"]),
            note=str(data["note"]),
            base_layers={str(stack): whole_number(count, MOST_LAYERS) for stack, count in data["base_layers"].items()},
            kept=kept_units(data["kept"]),
            plans=tuple(str(plan) for plan in data["plans"]),
            output_biases=tuple(Site.from_key(key) for key in data.get("output_biases", ())),
            compensations=tuple(dict(record) for record in data.get("compensations", ())),
            recoveries=tuple(dict(record) for record in data.get("recoveries", ())),
            dense_sizes={str(name): whole_number(size) for name, size in data.get("dense_sizes", {}).items()},
        )


def layer_records(
    family: Family, config: Config, kept: Mapping[Site, np.ndarray], output_biases: Iterable[Site]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Stack -> place of a layer -> settings that differ from `config`, for layers with any."""
    biased = list(output_biases)
    stacks: dict[str, dict[str, dict[str, Any]]] = {}
    for stack in family.layer_counts:
        layers, stacks[stack] = sorted({site.layer for site in kept if site.stack == stack}), {}
        for place, layer in enumerate(layers):
            record = family.layer_config(config, kept, stack, layer)
            sites = [site for site in biased if (site.stack, site.layer) == (stack, layer)]
            parts = [part for site in sites for part in family.slices(config, site)]
            if sites:
                record[OUTPUT_BIASES] = [part.module for part in parts if part.dim == 1]
            if record:
                stacks[stack][str(place)] = record
    return stacks


def record_in_config(family: Family, config: Config) -> PruningRecord | None:
    """The record of a pruned checkpoint that another program wrote again, so that it has no pruning.json; None for a
    dense model. Its base is unknown: the dense model is taken to have its layers, at the sizes of `config`.

    Raises:
        CheckpointError: the sizes of the layers in config.json are impossible.
    """
    written = config.get(_layers_key(family))
    if not written:
        return None
    kept: dict[Site, np.ndarray] = {}
    biased: list[Site] = []
    counts = {stack: len(family.layout(config).layers(stack)) for stack in family.layer_counts}
    with well_formed("config.json has impossible sizes of layers", CheckpointError, "Save the model again."):
        for stack, count in counts.items():
            records = _by_number(written.get(stack, {}) if family.encoder_decoder else written)
            for layer in range(count):
                record = records.get(layer, {})
                for module, units in family.units_of(config, record, stack).items():
                    site = Site(stack, layer, module)
                    kept[site] = units
                    outputs = {part.module for part in family.slices(config, site) if part.dim == 1}
                    if outputs & set(record.get(OUTPUT_BIASES, ())):
                        biased.append(site)
    return PruningRecord("", "", "", counts, kept, (), tuple(biased))


def _layers_key(family: Family) -> str:
    return "per_stack_config" if family.encoder_decoder else "per_layer_config"


def _by_number(records: Mapping[str, Any]) -> dict[Any, Any]:
    """Records by layer number: transformers rewrites the keys with leading zeros."""
    return {int(place) if place.isdigit() else place: record for place, record in records.items()}


def find_record(folder: Path, family: Family, config: Config) -> PruningRecord | None:
    """The record of a pruned checkpoint, from its file or else from its config, or None for a dense model.

    Raises:
        CheckpointError: the file or the config is damaged.
    """
    return read_record(folder) or record_in_config(family, config)


def _text_of(place: Path) -> str | None:
    """The text of the record in a folder or a GGUF file of this project; None where there is none."""
    if place.suffix == ".gguf" and place.is_file():
        return own_files(place).get(FILE)
    return read_text(place / FILE) if (place / FILE).is_file() else None


def read_record(folder: Path) -> PruningRecord | None:
    """The record in the file of a pruned checkpoint, or None where there is no such file.

    Raises:
        CheckpointError: the file is there but cannot be read.
    """
    with well_formed(f"{FILE} cannot be read", CheckpointError, "Save the pruned model again."):
        try:
            text = _text_of(folder)
            return None if text is None else PruningRecord.from_json(parse_json(text))
        except OSError as error:
            raise ValueError(error.strerror or str(error)) from error
