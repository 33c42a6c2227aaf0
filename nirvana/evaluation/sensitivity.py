"""Loss curves of sites: KL to the dense model when one site is pruned, compensated, and all others stay whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation import REGULARISATION, Compensation
from nirvana.compensation.compensator import Compensator
from nirvana.compensation.statistics import Statistics
from nirvana.errors import PlanError
from nirvana.evaluation.divergence import dense_reference, divergence_of
from nirvana.evaluation.masking import Masks
from nirvana.evaluation.replay_work import ReplayWork
from nirvana.forward.chunks import input_batches
from nirvana.forward.replay import Replay
from nirvana.layout import Layout, Site
from nirvana.loss_curves import Sensitivity, Shift, removed_counts
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback
from nirvana.saliency.scores import Saliency


def sensitivity(
    lm: LM,
    saliency: Saliency,
    probe: CalibrationSet,
    *,
    levels: Sequence[float] = (0.2,),
    compensation: Compensation = "none",
    statistics: Statistics | None = None,
    regularisation: float = REGULARISATION,
    known: Sensitivity | None = None,
    keep: Callable[[Sensitivity], None] | None = None,
    progress: ProgressCallback | None = None,
) -> Sensitivity:
    """Measure the loss curve of each site: KL on the probe at each level, all other sites whole.

    The lowest-scored units are removed. They are zero columns of the output projection in place, whose other columns
    are compensated, so nothing is copied, and `lm` is restored afterwards. Blocks below the site are computed once.

    Args:
        saliency: scores of the units of `lm`.
        probe: windows (N, T) without padding.
        levels: shares of a site's units, in (0, 1); each is rounded to whole units, at least one, and one stays.
        compensation, statistics, regularisation: as in `nirvana.prune`.
        known: curves of an interrupted call with the same arguments, which are not measured again.
        keep: called with the curves so far, once the sites of each block are measured.
        progress: called after every few hundred tokens; may raise `Cancelled`. Reports count floating-point
            operations, since blocks near the output are cheaper to measure.

    Raises:
        PlanError: a level is out of range, the scores are of a model of another shape, or `known` is of other
            arguments.
        CompensationError: the statistics are missing or of another model.
        CorpusError: the probe has padding, or is for another kind of model.
        ModelError: the weights are not in memory, the probes are too long, or an output is not a number.
    """
    if saliency.layout.sites != lm.layout.sites:
        raise PlanError("The scores are of a model of another shape.", "Score this model.")
    counts = removed_counts(lm.layout, tuple(levels))
    compensator = Compensator(lm, compensation, statistics, regularisation)
    masks = Masks(lm, saliency, compensator)
    samples, length = probe.outputs.shape
    protocol = {
        "levels": sorted(map(float, levels)),
        "criterion": saliency.criterion,
        "scores": saliency.hash,
        "model": lm.hash,
        "compensation": compensator.record() or {},
        "samples": samples,
        "length": length,
        "probe": probe.hash,
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
    }
    found = dict(known.curves) if known is not None else {}
    if known is not None and known.protocol != protocol:
        raise PlanError("The earlier curves have another protocol.", "Measure all curves again, without them.")
    passes = {site: len(levels_of) for site, levels_of in counts.items() if site not in found}
    work = ReplayWork(lm, passes, "Sensitivity", progress)
    reference = dense_reference(lm, probe, progress=work.opening(0, 1))
    head = lm.family.head(lm.module())
    with Replay(lm, input_batches(lm, probe.tokens, probe.decoder_tokens)) as replay:
        work.batches = replay.batches
        for place in replay.places:
            todo = work.sites[place]
            for site in todo:
                curve = []
                for count in counts[site]:
                    masked = masks.projection(site, count)
                    work.begin(place, site)
                    with masks.applied({site: masked}):
                        states = work.watched(replay.hidden_states())
                        kl = divergence_of(states, head, reference, (samples, length), name=lm.source.name)
                    curve.append(Shift(kl.mean, kl.standard_error, count, lm.layout[site].units))
                found[site] = tuple(curve)
            if todo and keep is not None:
                keep(_in_order(lm.layout, found, protocol))
            if place == work.last:
                break
            work.begin(place)
            replay.advance(work.tick)
    return _in_order(lm.layout, found, protocol)


def _in_order(layout: Layout, found: dict[Site, tuple[Shift, ...]], protocol: dict[str, Any]) -> Sensitivity:
    return Sensitivity({site: found[site] for site in layout if site in found}, protocol)
