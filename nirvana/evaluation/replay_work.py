"""Progress of measurements that repeat the passes of a `Replay` with changes at one site after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from nirvana.forward.replay import Place
from nirvana.layout import Site
from nirvana.models.lm import LM
from nirvana.models.weights import layer_places
from nirvana.progress import Progress, ProgressCallback, report


class ReplayWork:
    """Floating-point operations of a whole measurement, the unit of its progress reports.

    Args:
        passes: site -> number of passes with changes at it; each starts at its block.
        stage: name of the measurement in reports.
        openings: full forward passes' worth of work before the first of them.

    Attributes:
        batches: of a pass; set it once the replay is open.
        sites: place of a block -> its sites that have passes.
        last: the last place with passes; None without any.
    """

    def __init__(
        self, lm: LM, passes: Mapping[Site, int], stage: str, progress: ProgressCallback | None, openings: int = 1
    ) -> None:
        self.batches, self._progress, self._name, self._stage = 1, progress, stage, stage
        places = layer_places(lm.layout)
        order = sorted(places.items(), key=lambda item: (lm.layout.stacks.index(item[0][0]), item[1]))
        self._block = {Place(stack, position): 0 for (stack, _), position in order}
        self.sites: dict[Place, list[Site]] = {place: [] for place in self._block}
        for site, layout in lm.layout.items():
            place = Place(site.stack, places[site.stack, site.layer])
            self._block[place] += layout.parameters
            if site in passes:
                self.sites[place].append(site)
        self._pass, above = dict[Place, int](), lm.family.head(lm.module()).weight.numel()
        for place in reversed(self._block):
            above += self._block[place]
            self._pass[place] = above
        self._whole = above
        used = [place for place, sites in self.sites.items() if sites]
        self.last = used[-1] if used else None
        self._total = openings * above
        for place, sites in self.sites.items():
            self._total += self._pass[place] * sum(passes[site] for site in sites)
        for place in self._block:
            if self.last is None or place == self.last:
                break
            self._total += self._block[place]  # of `Replay.advance`
        self._done, self._step = 0.0, 0.0

    def opening(self, start: int, passes: int) -> ProgressCallback | None:
        """Callback of the work that is worth `passes` forward passes, after `start` of them."""
        if self._progress is None:
            return None

        def nested(inner: Progress) -> None:
            self._done = (start + inner.fraction * passes) * self._whole
            self._report()

        return nested

    def begin(self, place: Place, site: Site | None = None) -> None:
        """A pass from `place` upwards begins, or one over that block alone."""
        self._step = (self._block if site is None else self._pass)[place] / self.batches
        self._stage = self._stage if site is None else f"{self._name}, {site.key}"
        self._report()

    def tick(self) -> None:
        """Count a finished batch."""
        self._done += self._step
        self._report()

    def watched(self, states: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the states, counting each batch when the next is requested."""
        for batch in states:
            yield batch
            self.tick()

    def _report(self) -> None:
        report(self._progress, self._stage, round(self._done / self._total * 100_000), 100_000)
