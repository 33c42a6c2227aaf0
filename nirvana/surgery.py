"""Surgery: slice the removed units out of the weights. The library's own forward runs unchanged on the rest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from nirvana.compensation import REGULARISATION, Compensation
from nirvana.compensation.compensator import Compensator
from nirvana.compensation.statistics import Statistics
from nirvana.errors import PlanError
from nirvana.files import content_hash, json_hash
from nirvana.layout import Layout, Site
from nirvana.models.families.base import Family, WeightSlice
from nirvana.models.lazy import Place, Source
from nirvana.models.limits import give_back_free_memory
from nirvana.models.lm import LM
from nirvana.models.weights import layer_places, linear_layer, refresh_sizes, unit_rows
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, track

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prune(
    lm: LM,
    plan: PruningPlan,
    *,
    compensation: Compensation = "none",
    statistics: Statistics | None = None,
    regularisation: float = REGULARISATION,
    progress: ProgressCallback | None = None,
) -> LM:
    """A new LM without the units that `plan` removes, on the same device; `lm` is unchanged and shares no weights.

    With weights on disk, the new LM reads its own from the same files, but for compensated ones, which are kept in a
    temporary file.

    A pruned model can be pruned again with a plan made for it.

    Args:
        compensation: of the output projections (o_proj, down_proj; T5's o and wo) for removed inputs: "none"; "bias",
            their mean contribution becomes a bias (FLAP, arXiv 2312.11983); "least_squares", the weights are fitted to
            the outputs of `lm`, each projection on its inputs in `lm`. Removed layers are not compensated.
        statistics: `collect_statistics(lm, ...)` of this `lm`, needed for a compensation.
        regularisation: lambda of least squares, as a multiple of the mean square of the kept inputs.
        progress: called after each site; may raise `Cancelled`.

    Raises:
        PlanError: the plan was made for a model of another shape, or removes a layer that others depend on.
        CompensationError: the statistics are missing, of another model, or do not determine the weights.
        ModelError: the weights are not in memory.
    """
    if plan.layout.sites != lm.layout.sites:
        raise PlanError(
            "The plan was made for a model of another shape.", "Score this model and allocate with its own scores."
        )
    fixed = [f"{stack}.{layer}" for stack, layer in plan.removed_layers if (stack, layer) in lm.family.fixed_layers]
    if fixed:
        raise PlanError(f"Other layers depend on {', '.join(fixed)}, which cannot be removed.", "Keep those layers.")
    dense = lm.module()
    lm.release()
    compensator = Compensator(lm, compensation, statistics, regularisation)
    places = layer_places(lm.layout)
    sliced: dict[int, nn.Parameter] = {}  # id of a dense parameter -> its replacement in the copy
    biases: dict[Site, torch.Tensor] = {}  # of output projections, in place of theirs
    sources: dict[Place, Source] = {}  # with weights on disk: of the replaced parameters
    with torch.no_grad():
        for site, kept in track(plan.items(), progress, compensator.stage, len(plan)):
            if len(kept) == lm.layout[site].units:
                continue
            layer = lm.family.blocks(dense)[site.stack][places[site.stack, site.layer]]
            units = torch.from_numpy(kept)
            for part in lm.family.slices(lm.settings, site):
                linear = linear_layer(layer, part)
                _slice_linear(lm, linear, part, units, sliced, sources)
                if part.dim == 1:
                    update = compensator.update(site, _read(lm, linear.weight), unit_rows(units, part.size))
                    if update is not None:
                        weight = nn.Parameter(update.weight, requires_grad=linear.weight.requires_grad)
                        if lm.disk is not None:
                            give_back_free_memory()  # of the matrices of every site, which would add up
                            slot = lm.disk.spill.put(weight)
                            sources[linear, "weight"] = partial(lm.disk.spill.get, slot)
                            weight = nn.Parameter(weight.to("meta"), requires_grad=False)
                        sliced[id(linear.weight)] = weight
                        if update.bias is not None:
                            own = linear.bias
                            biases[site] = update.bias if own is None else _read(lm, own).detach() + update.bias
                            sources[linear, "bias"] = partial(torch.clone, biases[site].cpu())
    # deepcopy asks the memo first, so each sliced weight is copied once and the dense one not at all.
    memo = dict[int, object](sliced)
    with nullcontext() if lm.disk is None else lm.disk.detached():
        if lm.disk is not None:  # embeddings and head are shared, as nothing writes to them
            memo |= {id(weight): weight for weight in dense.parameters() if not weight.is_meta}
        model = copy.deepcopy(dense, memo=memo)
    _drop_layers(model, lm, plan, places)
    for site in plan:
        layer = lm.family.blocks(model)[site.stack][layer_places(plan.pruned_layout)[site.stack, site.layer]]
        for part in lm.family.slices(lm.settings, site):
            linear = linear_layer(layer, part)
            refresh_sizes(linear)
            if part.dim == 1 and site in biases:
                bias = biases[site] if lm.disk is None else biases[site].to("meta")
                linear.bias = nn.Parameter(bias, requires_grad=linear.weight.requires_grad)
    kept_units = {site: lm.kept[site][kept] for site, kept in plan.items()}
    lm.family.adapt(model, kept_units)
    layout = pruned_layout(lm.family, lm, plan)
    grown = {site: layout[site]._replace(output_bias=len(bias)) for site, bias in biases.items()}
    base_hash, plan_hash, record = lm.compute_hash, json_hash(plan.to_json()), compensator.record()
    changes = [plan_hash] if record is None else [plan_hash, json_hash(record)]
    disk = None
    if lm.disk is not None:
        blocks = [block for blocks in lm.family.blocks(model).values() for block in blocks]
        disk = lm.disk.copied(memo, blocks, sources)
    return replace(
        lm,
        model=model,
        disk=disk,
        config=model.config,
        layout=replace(layout, sites=layout.sites | grown),
        kept=kept_units,
        compute_hash=lambda: content_hash(base_hash(), *changes),
        plans=(*lm.plans, plan_hash),
        compensations=lm.compensations if record is None else (*lm.compensations, record),
    )


def pruned_layout(family: Family, lm: LM, plan: PruningPlan) -> Layout:
    """The layout of the pruned model, without the other parameters of removed layers."""
    if not plan.removed_layers:
        return plan.pruned_layout
    pruned = plan.pruned_layout
    other = family.layout(lm.settings, {stack: pruned.layers(stack) for stack in lm.layout.stacks}).other
    return replace(pruned, other=other)


def _read(lm: LM, weight: torch.Tensor) -> torch.Tensor:
    """The values of a weight of a block on the model's device."""
    return weight if lm.disk is None else lm.disk.source(weight)().to(lm.device)


def _slice_linear(
    lm: LM,
    linear: nn.Linear,
    part: WeightSlice,
    units: torch.Tensor,
    sliced: dict[int, nn.Parameter],
    sources: dict[Place, Source],
) -> None:
    for name, parameter in linear.named_parameters(recurse=False):
        if name == "weight" or part.dim == 0:  # the bias of an output projection belongs to no unit
            index = unit_rows(units, part.size).to(parameter.device)
            dim = part.dim if name == "weight" else 0
            values = parameter.index_select(dim, index)
            sliced[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            if lm.disk is not None:
                rows = unit_rows(units, part.size)
                sources[linear, name] = partial(_selected, lm.disk.source(parameter), dim, rows)


def _selected(source: Source, dim: int, index: torch.Tensor) -> torch.Tensor:
    return source().index_select(dim, index)


def _drop_layers(model: PreTrainedModel, lm: LM, plan: PruningPlan, places: Mapping[tuple[str, int], int]) -> None:
    """Delete removed layers from the copy and renumber the rest, as the cache requires."""
    for stack, layer in sorted(plan.removed_layers, reverse=True):
        del lm.family.blocks(model)[stack][places[stack, layer]]
    if plan.removed_layers:
        for stack, blocks in lm.family.blocks(model).items():
            removed = [places[name, layer] for name, layer in plan.removed_layers if name == stack]
            for index, block in enumerate(blocks):
                for module in block.modules():
                    if hasattr(module, "layer_idx"):
                        setattr(module, "layer_idx", index)  # noqa: B010 - mypy sees only tensors on a module
            types = getattr(model.config, "layer_types", None)
            if types:
                model.config.layer_types = [kind for i, kind in enumerate(types) if i not in removed]
            setattr(model.config, lm.family.layer_counts[stack], len(blocks))
