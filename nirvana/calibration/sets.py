"""Calibration sets and the record of how one was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nirvana.errors import CorpusError
from nirvana.evaluation.results import Divergence
from nirvana.files import content_hash, pack, unpack

if TYPE_CHECKING:
    import torch

    from nirvana.saliency.scores import Saliency


class CalibrationSet:
    """Token windows that a criterion looks at, e.g. 32 windows of 128 tokens.

    Also used for probe text. Tokens are kept as NumPy, so that a set travels without torch; `input_ids` and
    `attention_mask` are the torch views of them.

    Args:
        input_ids: (N, T) token ids: a torch tensor, an array, or nested lists.
        attention_mask: (N, T) of 0 and 1, or None where every token counts.
        source: where the text came from, e.g. `python-docs`.
        source_hash: content hash of that corpus.
        seed: the seed that drew the windows, where there was one.
        texts: the N windows as text, for display.

    Raises:
        CorpusError: the ids are not a non-empty 2-D integer array, or the mask has another shape.
    """

    def __init__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        source: str = "",
        source_hash: str = "",
        seed: int | None = None,
        texts: Sequence[str] = (),
    ) -> None:
        self.tokens = _integers(input_ids, "input_ids")
        self.mask = None if attention_mask is None else _integers(attention_mask, "attention_mask")
        if self.mask is not None and self.mask.shape != self.tokens.shape:
            raise CorpusError(
                f"attention_mask has shape {self.mask.shape}, input_ids {self.tokens.shape}.",
                "Give both the same shape.",
            )
        self.source = source
        self.source_hash = source_hash
        self.seed = seed
        self.texts = tuple(texts)

    @property
    def input_ids(self) -> torch.Tensor:
        """(N, T) int64, on the CPU."""
        import torch

        return torch.from_numpy(self.tokens)

    @property
    def attention_mask(self) -> torch.Tensor | None:
        """(N, T) int64, on the CPU, or None where every token counts."""
        import torch

        return None if self.mask is None else torch.from_numpy(self.mask)

    @property
    def samples(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def length(self) -> int:
        return int(self.tokens.shape[1])

    @cached_property
    def hash(self) -> str:
        """Hash of the tokens and the mask alone: equal sets from different places are equal."""
        mask = b"" if self.mask is None else self.mask.tobytes()
        return content_hash(str(self.tokens.shape), self.tokens.tobytes(), mask)

    def __repr__(self) -> str:
        origin = f" from {self.source}" if self.source else ""
        return f"CalibrationSet({self.samples} x {self.length} tokens{origin})"

    def to_bytes(self) -> bytes:
        arrays = {"tokens": self.tokens.astype(np.int32)}
        if self.mask is not None:
            arrays["mask"] = self.mask.astype(np.int8)
        meta = {"source": self.source, "source_hash": self.source_hash, "seed": self.seed, "texts": self.texts}
        return pack(meta, arrays)

    @classmethod
    def from_bytes(cls, content: bytes) -> CalibrationSet:
        meta, arrays = unpack(content)
        return cls(
            arrays["tokens"],
            arrays.get("mask"),
            source=meta["source"],
            source_hash=meta["source_hash"],
            seed=meta["seed"],
            texts=meta["texts"],
        )


def _integers(values: Any, name: str) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise CorpusError(
            f"{name} must be a non-empty 2-D array of integers, not {array.dtype} of shape {array.shape}.",
            "Pass tokens of shape (samples, length).",
        )
    return np.ascontiguousarray(array, dtype=np.int64)


@dataclass(frozen=True)
class Candidate:
    """One candidate calibration set and the divergence of the model that was pruned with it.

    `saliency` are the scores it was pruned by: kept in memory for the step after, not written with the candidate.
    """

    calibration: CalibrationSet
    divergence: Divergence
    sparsity: float  # achieved by its plan
    saliency: Saliency | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class CalibrationSelection:
    """Candidates in the order they were drawn, and which one prunes best (paper: KL-based calibration choice).

    Behaves as its winner where a calibration set is expected: `nv.score(lm, selection)` works.
    """

    candidates: tuple[Candidate, ...]
    winner: int
    probe: CalibrationSet
    criterion: str
    sparsity: float  # requested of every candidate's plan
    gamma: float

    @property
    def calibration(self) -> CalibrationSet:
        return self.candidates[self.winner].calibration

    @property
    def input_ids(self) -> torch.Tensor:
        return self.calibration.input_ids

    @property
    def attention_mask(self) -> torch.Tensor | None:
        return self.calibration.attention_mask

    @property
    def hash(self) -> str:
        return self.calibration.hash

    @property
    def ranking(self) -> list[int]:
        """Candidate indices from the lowest mean divergence to the highest."""
        means = [candidate.divergence.mean for candidate in self.candidates]
        return sorted(range(len(means)), key=lambda index: (means[index], index))

    def margin(self, other: int) -> tuple[float, float]:
        """How much higher candidate `other` is than the winner on the same probes: (mean, standard error), in nats."""
        difference = self.candidates[other].divergence.per_sample - self.candidates[self.winner].divergence.per_sample
        count = len(difference)
        error = float(difference.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
        return float(difference.mean()), error

    def to_bytes(self) -> bytes:
        arrays: dict[str, np.ndarray] = {"probe.tokens": self.probe.tokens.astype(np.int32)}
        records = []
        for index, candidate in enumerate(self.candidates):
            calibration = candidate.calibration
            arrays[f"{index}.tokens"] = calibration.tokens.astype(np.int32)
            if calibration.mask is not None:
                arrays[f"{index}.mask"] = calibration.mask.astype(np.int8)
            arrays[f"{index}.per_token"] = candidate.divergence.per_token.astype(np.float32)
            records.append(
                {
                    "seed": calibration.seed,
                    "source": calibration.source,
                    "source_hash": calibration.source_hash,
                    "texts": calibration.texts,
                    "sparsity": candidate.sparsity,
                }
            )
        meta = {
            "version": 1,
            "candidates": records,
            "winner": self.winner,
            "probe": {
                "seed": self.probe.seed,
                "source": self.probe.source,
                "source_hash": self.probe.source_hash,
                "texts": self.probe.texts,
            },
            "criterion": self.criterion,
            "sparsity": self.sparsity,
            "gamma": str(self.gamma),  # "inf" is not JSON
        }
        return pack(meta, arrays)

    @classmethod
    def from_bytes(cls, content: bytes) -> CalibrationSelection:
        meta, arrays = unpack(content)
        candidates = []
        for index, record in enumerate(meta["candidates"]):
            sparsity = record.pop("sparsity")
            calibration = CalibrationSet(arrays[f"{index}.tokens"], arrays.get(f"{index}.mask"), **record)
            candidates.append(Candidate(calibration, Divergence(arrays[f"{index}.per_token"]), sparsity))
        return cls(
            tuple(candidates),
            meta["winner"],
            CalibrationSet(arrays["probe.tokens"], **meta["probe"]),
            meta["criterion"],
            meta["sparsity"],
            float(meta["gamma"]),
        )
