"""KL of plans of one model, measured in place."""

from __future__ import annotations

from collections.abc import Mapping

from nirvana.calibration.kl import Divergence
from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation.compensator import Compensator
from nirvana.evaluation.divergence import DenseReference, dense_reference, divergence
from nirvana.evaluation.masking import Masked, Masks
from nirvana.layout import Site
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, within
from nirvana.saliency.scores import Saliency


class PlanDivergence:
    """KL( dense || pruned ) of widths of `lm`, whose best-scored units stay, compensated.

    A plan is measured as zero columns of the output projections (see `masking`), whose differences between two calls
    are all that is computed again, so plans that differ at a few sites cost little more than a forward pass.

    Attributes:
        base: widths whose projections are kept in memory besides those of the last call.
    """

    def __init__(self, lm: LM, saliency: Saliency, compensator: Compensator) -> None:
        lm.weights()  # masks of all sites are kept, which take as much memory as the model
        self._lm, self._masks = lm, Masks(lm, saliency, compensator)
        self._masked: dict[tuple[Site, int], Masked] = {}
        self._references: dict[str, DenseReference] = {}
        self.base: Mapping[Site, int] = {}

    def measure(
        self, widths: Mapping[Site, int], probe: CalibrationSet, progress: ProgressCallback | None = None
    ) -> Divergence:
        """The divergence of a plan with `widths` kept units on a probe.

        Raises:
            CompensationError: the statistics do not determine the weights.
            CorpusError: the probe has padding.
            ModelError: an output is not a number.
        """
        lm = self._lm
        if probe.hash not in self._references:
            first = within(progress, "Dense predictions", 0, 2)
            self._references[probe.hash] = dense_reference(lm, probe, progress=first)
            progress = within(progress, "Divergence", 1, 2)
        pruned = {site: width for site, width in widths.items() if width < lm.layout[site].units}
        wanted = {*pruned.items(), *self.base.items()}
        self._masked = {key: masked for key, masked in self._masked.items() if key in wanted}
        for site, width in pruned.items():
            if (site, width) not in self._masked:
                self._masked[site, width] = self._masks.projection(site, lm.layout[site].units - width)
        with self._masks.applied({site: self._masked[site, width] for site, width in pruned.items()}):
            return divergence(lm, lm, probe, reference=self._references[probe.hash], progress=progress)
