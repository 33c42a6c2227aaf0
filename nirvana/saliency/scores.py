"""Saliency: one score per prunable unit, and the order of removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nirvana.errors import SaliencyError
from nirvana.files import content_hash, pack, unpack, well_formed
from nirvana.layout import Layout, Site


@dataclass(frozen=True, eq=False)
class Saliency(Mapping[Site, np.ndarray]):
    """Site -> float32 (units,), e.g. `saliency[Site("decoder", 5, "mlp")]` of shape (1536,); higher is kept longer.

    `details` of the computation: `strategy`, `seconds`, `micro_batch` ...

    Raises:
        SaliencyError: a score is not finite, or the scores do not fit the layout.
    """

    scores: dict[Site, np.ndarray]
    layout: Layout
    criterion: str
    calibration_hash: str = ""
    details: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if list(self.scores) != list(self.layout):
            raise SaliencyError("The scores cover other sites than the layout.", "Score the model again.")
        for site, values in self.scores.items():
            if values.shape != (self.layout[site].units,) or values.dtype != np.float32:
                raise SaliencyError(
                    f"{site.key}: expected float32 scores of shape ({self.layout[site].units},), "
                    f"found {values.dtype} {values.shape}.",
                    "Score the model again.",
                )
            if not np.isfinite(values).all():
                raise SaliencyError(
                    f"The scores of {site.key} are not finite.",
                    "Check the weights for NaN or infinity, or load the model with dtype float32.",
                )

    def __getitem__(self, site: Site) -> np.ndarray:
        return self.scores[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def hash(self) -> str:
        return content_hash(*(self.scores[site].tobytes() for site in self.scores), self.criterion)

    def flat(self, kind: str) -> np.ndarray:
        """All scores of one kind of unit, in model order, float32."""
        sites = self.layout.pool(kind)
        return np.concatenate([self.scores[site] for site in sites]) if sites else np.empty(0, np.float32)

    @cached_property
    def ranks(self) -> dict[Site, np.ndarray]:
        """Site -> int64 (units,): each unit's place in the ascending order of its kind over all layers.

        Equal scores rank in model order (lower layer, then lower index), so the order is unique. Cached, so replanning
        after a slider move sorts nothing.
        """
        ranks: dict[Site, np.ndarray] = {}
        for kind in {site.kind for site in self.layout.values()}:
            place = rank_ascending(self.flat(kind))
            start = 0
            for site in self.layout.pool(kind):
                units = self.layout[site].units
                ranks[site] = place[start : start + units]
                start += units
        return ranks

    @cached_property
    def sorted_ranks(self) -> dict[Site, np.ndarray]:
        """Site -> its units' ranks in ascending order, for a binary search of a cut."""
        return {site: np.sort(ranks) for site, ranks in self.ranks.items()}

    @cached_property
    def sorted_scores(self) -> dict[Site, np.ndarray]:
        """Site -> its scores in ascending order."""
        return {site: np.sort(values) for site, values in self.scores.items()}

    def to_bytes(self) -> bytes:
        meta = {
            "version": 1,
            "layout": self.layout.to_json(),
            "criterion": self.criterion,
            "calibration_hash": self.calibration_hash,
            "details": self.details,
        }
        return pack(meta, {site.key: values for site, values in self.scores.items()})

    @classmethod
    def from_bytes(cls, content: bytes) -> Saliency:
        """Read what `to_bytes` wrote.

        Raises:
            SaliencyError: it is something else.
        """
        with well_formed("These are no saved scores", SaliencyError, "Score the model again."):
            meta, arrays = unpack(content)
            layout = Layout.from_json(meta["layout"])
            scores = {site: arrays[site.key] for site in layout}
            names = str(meta["criterion"]), str(meta["calibration_hash"])
            return cls(scores, layout, *names, dict(meta["details"]))


def rank_ascending(scores: np.ndarray) -> np.ndarray:
    """int64 rank of each float32 score; ties by position.

    Score and position share one 64-bit key, which NumPy sorts several times faster than a stable argsort.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # adding 0 makes -0 equal 0
    sign = np.uint32(0x80000000)
    ordered = np.where(bits & sign, ~bits, bits | sign)  # unsigned order = order of the floats
    keys = (ordered.astype(np.uint64) << np.uint64(32)) | np.arange(len(scores), dtype=np.uint64)
    keys.sort()
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[keys & np.uint64(0xFFFFFFFF)] = np.arange(len(scores))
    return ranks
