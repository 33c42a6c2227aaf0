"""First and second moments of the inputs of output projections, for closed-form compensation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.errors import CompensationError
from nirvana.files import content_hash, pack, unpack, well_formed, whole_number
from nirvana.layout import Site
from nirvana.models.limits import available_memory
from nirvana.progress import ProgressCallback

if TYPE_CHECKING:
    import torch

    from nirvana.models.lm import LM

SHARE = 0.8  # of the free memory for moments; the forward passes need the rest
STAGE = "Collecting statistics"


class Moments(NamedTuple):
    """Moments of one output projection's inputs x: `mean` float64 (d,), `second` E[x x^T] float32 (d, d) or None."""

    mean: np.ndarray
    second: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Statistics(Mapping[Site, Moments]):
    """Site -> moments of its output projection's inputs, e.g. for an MLP of 1536 neurons d = 1536.

    Attributes:
        tokens: stack -> number of tokens.
        model_hash: `LM.hash` of the model that read them.
        sets: description of each calibration set, as JSON values: source, source_hash, seed, task, samples, length,
            hash.
        seconds: how long the collection took.

    Raises:
        CompensationError: a moment is not finite.
    """

    moments: dict[Site, Moments]
    tokens: dict[str, int]
    model_hash: str
    sets: tuple[dict[str, Any], ...] = ()
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for site, moments in self.moments.items():
            if not all(np.isfinite(values).all() for values in moments if values is not None):
                raise CompensationError(
                    f"The inputs of {site.key} are not finite.",
                    "Check the weights for NaN or infinity, or load the model with dtype float32.",
                )

    def __getitem__(self, site: Site) -> Moments:
        return self.moments[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.moments)

    def __len__(self) -> int:
        return len(self.moments)

    def __add__(self, other: Statistics) -> Statistics:
        """Moments over the tokens of both.

        Raises:
            CompensationError: the statistics are of different models, or one has means only.
        """
        if self.model_hash != other.model_hash or list(self) != list(other):
            raise CompensationError("The statistics are of different models.", "Collect both with one model.")
        if self.has_second != other.has_second:
            raise CompensationError("One of the statistics has means only.", "Collect both with second moments.")
        moments = {}
        for site, mine in self.items():
            ours, theirs = self.tokens[site.stack], other.tokens[site.stack]
            share, others = ours / (ours + theirs), other[site]
            second = None
            if mine.second is not None and others.second is not None:
                second = mine.second * np.float32(share) + others.second * np.float32(1 - share)
            moments[site] = Moments(mine.mean * share + others.mean * (1 - share), second)
        tokens = {stack: count + other.tokens[stack] for stack, count in self.tokens.items()}
        return Statistics(moments, tokens, self.model_hash, self.sets + other.sets, self.seconds + other.seconds)

    @property
    def has_second(self) -> bool:
        """Whether second moments are present."""
        return all(moments.second is not None for moments in self.moments.values())

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return sum(values.nbytes for moments in self.moments.values() for values in moments if values is not None)

    @cached_property
    def hash(self) -> str:
        """Hash of the moments and the model."""
        hashes = [content_hash(*(v.tobytes() for v in each if v is not None)) for each in self.moments.values()]
        return content_hash(self.model_hash, *hashes)

    def to_bytes(self) -> bytes:
        """Serialise; of each symmetric second moment only one triangle is stored."""
        meta = {
            "version": 1,
            "tokens": self.tokens,
            "model_hash": self.model_hash,
            "sets": list(self.sets),
            "seconds": self.seconds,
            "sites": [site.key for site in self.moments],
        }
        arrays = {}
        for site, moments in self.moments.items():
            arrays[f"{site.key}.mean"] = moments.mean
            if moments.second is not None:
                arrays[f"{site.key}.second"] = moments.second[_upper(len(moments.mean))]
        return pack(meta, arrays, compress=False)

    @classmethod
    def from_bytes(cls, content: bytes) -> Statistics:
        """Read what `to_bytes` wrote.

        Raises:
            CompensationError: it is something else.
        """
        with well_formed("These are no saved statistics", CompensationError, "Collect them again."):
            meta, arrays = unpack(content)
            moments = {
                Site.from_key(key): _whole(arrays[f"{key}.mean"], arrays.get(f"{key}.second")) for key in meta["sites"]
            }
            tokens = {stack: whole_number(count) for stack, count in meta["tokens"].items()}
            if not {site.stack for site in moments} <= set(tokens):
                raise ValueError("a stack has no count of tokens")
            sets = tuple(map(dict, meta["sets"]))
            return cls(moments, tokens, str(meta["model_hash"]), sets, float(meta["seconds"]))


def collect_statistics(
    lm: LM,
    calibration: CalibrationSet | CalibrationSelection | Sequence[CalibrationSet | CalibrationSelection],
    *,
    second_moments: bool = True,
    progress: ProgressCallback | None = None,
) -> Statistics:
    """Mean and E[x x^T] of the inputs of every output projection of `lm`, over all tokens that count.

    Args:
        lm: the model that will be pruned, dense or already pruned, with its weights in memory. It is not changed.
        calibration: one set or several, accumulated in turn, so the number of tokens is not bounded by memory. Of an
            encoder-decoder, encoder sites count the tokens that the encoder reads and decoder sites those that are
            predicted.
        second_moments: whether to keep E[x x^T], float32 (d, d) a site: 4 d^2 bytes. The compensation "bias" needs
            means only, which take little memory.
        progress: called often; may raise `Cancelled`.

    Raises:
        CompensationError: the moments do not fit in memory, or are not finite.
        SaliencyError: a calibration set does not suit the model.
        ModelError: the weights are not in memory.
    """
    import torch

    from nirvana.forward.projections import visit_inputs

    lm.module()
    sets = [calibration] if isinstance(calibration, CalibrationSet | CalibrationSelection) else list(calibration)
    if not sets:
        raise CompensationError("There is no calibration set to collect statistics from.", "Give at least one.")
    started = time.perf_counter()
    widths = input_widths(lm)
    if second_moments:
        check_memory(lm)
    sums = {site: np.zeros(width) for site, width in widths.items()}
    products = {site: torch.zeros(width, width, device=lm.device) for site, width in widths.items() if second_moments}
    counts = dict.fromkeys(widths, 0)

    def visit(site: Site, inputs: torch.Tensor) -> None:
        counts[site] += len(inputs)
        sums[site] += inputs.sum(dim=0).cpu().numpy()
        if second_moments:
            products[site].addmm_(inputs.T, inputs)

    visit_inputs(lm, sets, visit, stage=STAGE, progress=progress)
    moments = {}
    for site, count in counts.items():
        second = None
        if second_moments:
            half = products.pop(site).div_(count).triu_()  # rounding leaves the product slightly asymmetric
            second = half.add_(half.triu(1).T).cpu().numpy()  # in place: no second copy of all moments
        moments[site] = Moments(sums[site] / count, second)
    tokens = {site.stack: count for site, count in counts.items()}
    return Statistics(moments, tokens, lm.hash, tuple(map(_describe, sets)), time.perf_counter() - started)


def input_widths(lm: LM) -> dict[Site, int]:
    """Site -> d, the input features of its output projection."""
    from nirvana.models.weights import output_part

    return {site: place.units * output_part(lm, site).size for site, place in lm.layout.items()}


def statistics_bytes(widths: Iterable[int]) -> int:
    """Bytes of the second moments of projections of these widths."""
    return sum(4 * width * width for width in widths)


def check_memory(lm: LM) -> None:
    """Check that the second moments fit in the memory of the device and the CPU.

    Raises:
        CompensationError: naming their size in bytes.
    """
    needed = statistics_bytes(input_widths(lm).values())
    for device in {"cpu", str(lm.device)}:  # moments are summed on the model's device and kept on the CPU
        free = available_memory(device)
        if needed > free * SHARE:
            raise CompensationError(
                f"The statistics of {lm.source.name} take {needed:,} bytes ({needed / 2**30:.1f} GiB); "
                f"{device} has {free / 2**30:.1f} GiB free.",
                'Use the compensation "bias", which needs means only, a smaller model, or close other programs.',
            )


def _describe(calibration: CalibrationSet | CalibrationSelection) -> dict[str, Any]:
    chosen = calibration.calibration if isinstance(calibration, CalibrationSelection) else calibration
    names = ("source", "source_hash", "seed", "task", "samples", "length", "hash")
    return {name: getattr(chosen, name) for name in names}


def _whole(mean: np.ndarray, half: np.ndarray | None) -> Moments:
    """The moments of a site, checked before d^2 numbers are allocated."""
    if mean.dtype != np.float64 or mean.ndim != 1:
        raise ValueError(f"a mean is {mean.dtype} of shape {mean.shape}")
    if half is None:
        return Moments(mean, None)
    width = len(mean)
    if half.dtype != np.float32 or half.shape != (width * (width + 1) // 2,):
        raise ValueError(f"a second moment of {width:,} inputs is {half.dtype} of shape {half.shape}")
    upper = _upper(width)
    second = np.empty(upper.shape, np.float32)
    second[upper] = half
    second.T[upper] = half
    return Moments(mean, second)


def _upper(width: int) -> np.ndarray:
    """Booleans (width, width): the upper triangle with the diagonal."""
    return ~np.tri(width, k=-1, dtype=bool)
