"""Ablation of single units: the change of f and of the predictions, beside the first-order prediction.

A unit is removed in place, as zero columns of its output projection, which gives the outputs of the model without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation.compensator import Compensator
from nirvana.errors import PlanError
from nirvana.evaluation.ablation_results import Ablation, Ablations, in_model_order
from nirvana.evaluation.divergence import dense_reference, divergence_of
from nirvana.evaluation.masking import Masks
from nirvana.evaluation.replay_work import ReplayWork
from nirvana.evaluation.tangent_kernel import backward_passes
from nirvana.forward.bounds import CHUNK_LOGITS
from nirvana.forward.chunks import input_batches
from nirvana.forward.projections import output_projection
from nirvana.forward.replay import Replay
from nirvana.layout import Site
from nirvana.models.lm import LM
from nirvana.progress import Progress, ProgressCallback
from nirvana.saliency.scores import Saliency

COUNT = 300
OPENINGS = 5  # forward passes' worth before the ablations: gradients 3, dense predictions 1, f of the dense model 1


def ablate_unit(
    lm: LM,
    saliency: Saliency,
    site: Site,
    unit: int,
    x: CalibrationSet,
    *,
    progress: ProgressCallback | None = None,
) -> Ablation:
    """Measure the removal of one unit; see `ablate_units`."""
    return ablate_units(lm, saliency, x, units=[(site, unit)], progress=progress).items[0]


def ablate_units(
    lm: LM,
    saliency: Saliency,
    x: CalibrationSet,
    *,
    count: int = COUNT,
    seed: int = 0,
    units: Iterable[tuple[Site, int]] | None = None,
    progress: ProgressCallback | None = None,
) -> Ablations:
    """Remove single units one by one, and measure the change of NIRVANA's f and KL on `x` beside the prediction.

    `lm` is restored after each. Blocks below the unit are computed once.

    Args:
        saliency: scores of the units of `lm`, the prediction; measured with the same f if it is NIRVANA's.
        x: windows (N, T) without padding, the same for f, its gradient and KL.
        count: units to draw; see `draw_units`.
        seed: of the draw.
        units: these units instead of a draw.
        progress: called after every few hundred tokens; may raise `Cancelled`.

    Raises:
        PlanError: the scores are of a model of another shape, there is no such unit, or no unit is wanted.
        CorpusError: `x` has padding, or is for another kind of model.
        SaliencyError: `x` does not suit the model.
        ModelError: the weights are not in memory, or an output is not a number.
    """
    if saliency.layout.sites != lm.layout.sites:
        raise PlanError("The scores are of a model of another shape.", "Score this model.")
    drawn = draw_units(saliency, count, seed) if units is None else in_model_order(lm.layout, units)
    if not drawn:
        raise PlanError("There is no unit to remove.", "Name one, or draw one or more.")
    by_site: dict[Site, list[int]] = {}
    for site, unit in drawn:
        by_site.setdefault(site, []).append(unit)
    work = ReplayWork(lm, {site: len(each) for site, each in by_site.items()}, "Ablation", progress, OPENINGS)
    reference = dense_reference(lm, x, progress=work.opening(0, 1))
    predicted = _first_order(lm, x, list(by_site), work.opening(1, 3))
    masks, head = Masks(lm, saliency, Compensator(lm, "none", None, 0.0)), lm.family.head(lm.weights())
    found: list[Ablation] = []
    samples, length = x.outputs.shape
    with Replay(lm, input_batches(lm, x.tokens, x.decoder_tokens)) as replay:
        work.batches = replay.batches
        dense = float(np.mean(list(_outputs(head, replay.hidden_states()))))
        if (opened := work.opening(4, 1)) is not None:
            opened(Progress("Ablation", 1, 1))
        for place in replay.places:
            for site in work.sites[place]:
                for unit in by_site[site]:
                    work.begin(place, site)
                    others = np.delete(np.arange(lm.layout[site].units), unit)
                    values = list[float]()
                    with masks.applied({site: masks.of(site, others)}):
                        states = _with_outputs(head, work.watched(replay.hidden_states()), values)
                        kl = divergence_of(states, head, reference, (samples, length), name=lm.source.name)
                    score, kind = float(saliency[site][unit]), lm.layout[site].kind
                    change, first = float(np.mean(values)) - dense, float(predicted[site][unit])
                    found.append(Ablation(site, unit, kind, score, first, change, kl.mean, kl.standard_error))
            if place == work.last:
                break
            work.begin(place)
            replay.advance(work.tick)
    protocol = {
        "model": lm.hash,
        "criterion": saliency.criterion,
        "scores": saliency.hash,
        "output": dense,
        "samples": samples,
        "length": length,
        "inputs": x.hash,
        **({"count": count, "seed": seed} if units is None else {}),
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
    }
    by_unit = {(item.site, item.unit): item for item in found}
    return Ablations(tuple(by_unit[each] for each in drawn), protocol)


def draw_units(saliency: Saliency, count: int, seed: int) -> list[tuple[Site, int]]:
    """Draw `count` units at random, in model order: one from each of equal strata of a kind's ranks over all layers.

    The kinds share the count equally; one with fewer units gives all of them, and the others more.
    """
    generator, drawn = np.random.default_rng(seed), set[tuple[Site, int]]()
    pools = {kind: saliency.layout.pool(kind) for kind in {place.kind for place in saliency.layout.values()}}
    sizes = {kind: sum(saliency.layout[site].units for site in sites) for kind, sites in pools.items()}
    left = max(0, count)
    for place, kind in enumerate(sorted(pools, key=lambda kind: (sizes[kind], kind))):
        share = min(left // (len(pools) - place), sizes[kind])
        left -= share
        edges = np.linspace(0, sizes[kind], share + 1).astype(np.int64)
        ranks = [generator.integers(low, high) for low, high in pairwise(edges)]
        for site in pools[kind]:
            drawn |= {(site, int(unit)) for unit in np.flatnonzero(np.isin(saliency.ranks[site], ranks))}
    return in_model_order(saliency.layout, drawn)


def _first_order(
    lm: LM, x: CalibrationSet, sites: Sequence[Site], progress: ProgressCallback | None
) -> dict[Site, np.ndarray]:
    """Site -> float64 (units,): -sum of W * df/dW over each unit's columns of the output projection."""
    weights: dict[torch.Tensor, Site] = {output_projection(lm, site).weight: site for site in sites}
    sums = {site: np.zeros(lm.layout[site].units) for site in sites}
    samples = len(x.tokens)

    def visit(weight: nn.Parameter, gradient: torch.Tensor) -> None:
        site = weights[weight]
        columns = torch.linalg.vecdot(weight.detach().float(), gradient.float(), dim=0)
        units = columns.view(lm.layout[site].units, -1).sum(dim=1, dtype=torch.float64)
        sums[site] -= units.cpu().numpy() / samples

    for done, _ in enumerate(backward_passes(lm, x, visit, list(weights)), start=1):
        if progress is not None:
            progress(Progress("Gradients", done, samples))
    return sums


def _with_outputs(head: nn.Linear, states: Iterable[torch.Tensor], values: list[float]) -> Iterator[torch.Tensor]:
    """Yield batches (B, T, H), and append f of each sample to `values`."""
    for batch in states:
        values += _outputs(head, [batch])
        yield batch


def _outputs(head: nn.Linear, states: Iterable[torch.Tensor]) -> Iterator[float]:
    """f of each sample of batches (B, T, H): the mean over vocabulary entries of the maximum over positions."""
    vocabulary = head.weight.shape[0]
    for batch in states:
        rows = max(1, CHUNK_LOGITS // batch.shape[1])
        for sample in batch:  # (T, H)
            total = 0.0
            with torch.inference_mode():
                for start in range(0, vocabulary, rows):
                    bias = None if head.bias is None else head.bias[start : start + rows]
                    logits = nn.functional.linear(sample, head.weight[start : start + rows], bias)  # (T, C)
                    total += float(logits.max(dim=0).values.sum(dtype=torch.float64))
            yield total / vocabulary
