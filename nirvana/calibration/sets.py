"""Calibration sets and the record of how one was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nirvana.calibration.kl import Divergence
from nirvana.errors import CorpusError
from nirvana.files import content_hash, pack, unpack, well_formed, whole_number

if TYPE_CHECKING:
    import torch

    from nirvana.calibration.corpora.corpus import Text
    from nirvana.saliency.scores import Saliency


class CalibrationSet:
    """Token windows that a criterion reads, e.g. 32 windows of 128 tokens.

    Also used for probe text. Tokens are kept as NumPy, so that a set travels without torch; `input_ids`,
    `attention_mask` and the decoder's are the torch views of them.

    Args:
        input_ids: (N, T) token ids: a torch tensor, an array, or nested lists; the encoder's input in an
            encoder-decoder.
        attention_mask: (N, T) of 0 and 1, or None where every token counts.
        decoder_input_ids: (N, U) token ids of the decoder's input, for an encoder-decoder.
        labels: (N, U) token ids to predict from them, -100 where none.
        task: how inputs and labels were made from text, e.g. "span corruption".
        source: name of the corpus, e.g. `python-docs`.
        source_hash: content hash of that corpus.
        seed: of the draw, where there was one.
        texts: the N samples as text, for display; with an encoder, its input.
        target_texts: the labels of an encoder-decoder as text, for display.

    Raises:
        CorpusError: the ids are not a non-empty 2-D integer array, or arrays that belong together differ in shape.
    """

    def __init__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        decoder_input_ids: Any = None,
        labels: Any = None,
        task: str = "",
        source: str = "",
        source_hash: str = "",
        seed: int | None = None,
        texts: Sequence[str] = (),
        target_texts: Sequence[str] = (),
    ) -> None:
        self.tokens = _integers(input_ids, "input_ids")
        self.mask = None if attention_mask is None else _integers(attention_mask, "attention_mask")
        if self.mask is not None and self.mask.shape != self.tokens.shape:
            raise CorpusError(
                f"attention_mask has shape {self.mask.shape}, input_ids {self.tokens.shape}.",
                "Give both the same shape.",
            )
        self.decoder_tokens = None if decoder_input_ids is None else _integers(decoder_input_ids, "decoder_input_ids")
        self.targets = None if labels is None else _integers(labels, "labels")
        if self.decoder_tokens is not None or self.targets is not None:
            if self.decoder_tokens is None or self.targets is None or self.decoder_tokens.shape != self.targets.shape:
                raise CorpusError("decoder_input_ids and labels do not match.", "Give both, of the same shape.")
            if len(self.decoder_tokens) != len(self.tokens):
                raise CorpusError("The encoder and the decoder have different numbers of samples.", "Pair them.")
        self.task = task
        self.source = source
        self.source_hash = source_hash
        self.seed = seed
        self.texts = tuple(texts)
        self.target_texts = tuple(target_texts)

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
    def decoder_input_ids(self) -> torch.Tensor | None:
        """(N, U) int64, on the CPU, or None without an encoder."""
        import torch

        return None if self.decoder_tokens is None else torch.from_numpy(self.decoder_tokens)

    @property
    def labels(self) -> torch.Tensor | None:
        """(N, U) int64, on the CPU, or None without an encoder."""
        import torch

        return None if self.targets is None else torch.from_numpy(self.targets)

    @property
    def outputs(self) -> np.ndarray:
        """The tokens after which the model predicts: the decoder's (N, U), or (N, T) without an encoder."""
        return self.tokens if self.decoder_tokens is None else self.decoder_tokens

    @property
    def counted(self) -> np.ndarray | None:
        """Which positions of `outputs` count, as booleans, or None where all do."""
        if self.targets is not None:
            counted = self.targets != -100
            return None if counted.all() else counted
        return None if self.mask is None else self.mask.astype(bool)

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
        parts: list[bytes | str] = [str(self.tokens.shape), self.tokens.tobytes(), mask]
        if self.decoder_tokens is not None and self.targets is not None:
            parts += [str(self.targets.shape), self.decoder_tokens.tobytes(), self.targets.tobytes()]
        return content_hash(*parts)

    def part(self, rows: slice) -> CalibrationSet:
        """The samples of `rows`, e.g. every second one."""
        return CalibrationSet(
            self.tokens[rows],
            None if self.mask is None else self.mask[rows],
            decoder_input_ids=None if self.decoder_tokens is None else self.decoder_tokens[rows],
            labels=None if self.targets is None else self.targets[rows],
            task=self.task,
            source=self.source,
            source_hash=self.source_hash,
            seed=self.seed,
            texts=self.texts[rows],
            target_texts=self.target_texts[rows],
        )

    def __repr__(self) -> str:
        origin = f" from {self.source}" if self.source else ""
        return f"CalibrationSet({self.samples} x {self.length} tokens{origin})"

    def to_bytes(self) -> bytes:
        return pack(self.describe(), self.arrays())

    @classmethod
    def from_bytes(cls, content: bytes) -> CalibrationSet:
        """Read what `to_bytes` wrote.

        Raises:
            CorpusError: it is something else.
        """
        with well_formed("This is not a saved calibration set", CorpusError, "Draw it again."):
            meta, arrays = unpack(content)
            return cls.from_arrays(meta, arrays)

    def describe(self) -> dict[str, Any]:
        """Metadata of a set, without its tokens, as JSON values."""
        return {
            "source": self.source,
            "source_hash": self.source_hash,
            "seed": self.seed,
            "task": self.task,
            "texts": self.texts,
            "target_texts": self.target_texts,
        }

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """The token arrays, for saving."""
        stored = {
            "tokens": self.tokens,
            "mask": self.mask,
            "decoder_tokens": self.decoder_tokens,
            "labels": self.targets,
        }
        return {f"{prefix}{name}": values.astype(np.int32) for name, values in stored.items() if values is not None}

    @classmethod
    def from_arrays(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], prefix: str = "") -> CalibrationSet:
        """The set with this `describe` and `arrays`."""
        return cls(
            arrays[f"{prefix}tokens"],
            arrays.get(f"{prefix}mask"),
            decoder_input_ids=arrays.get(f"{prefix}decoder_tokens"),
            labels=arrays.get(f"{prefix}labels"),
            **meta,
        )


def _integers(values: Any, name: str) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise CorpusError(f"{name} has rows of different lengths.", "Cut or pad the windows to one length.") from error
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise CorpusError(
            f"{name} must be a non-empty 2-D array of integers, not {array.dtype} of shape {array.shape}.",
            "Pass tokens of shape (samples, length).",
        )
    return np.array(array, dtype=np.int64, order="C")  # a copy: the caller may change its own


@dataclass(frozen=True)
class Candidate:
    """One candidate calibration set and the divergence of the model pruned with it.

    `saliency` are the scores from this set and `text` is its source; both stay in memory for the next steps and are not
    saved.
    """

    calibration: CalibrationSet
    divergence: Divergence
    sparsity: float  # achieved by its plan
    saliency: Saliency | None = field(default=None, repr=False, compare=False)
    text: Text | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class CalibrationSelection:
    """Candidates in the order drawn, and the index of the best (paper: KL-based calibration choice).

    Behaves as its winner where a calibration set is expected: `nv.score(lm, selection)` works.
    """

    candidates: tuple[Candidate, ...]
    winner: int
    probe: CalibrationSet
    criterion: str
    sparsity: float  # requested of every candidate's plan
    gamma: float
    method: str = "shared"
    protected: tuple[int, ...] = ()
    normalisation: float = 0.0

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
    def decoder_input_ids(self) -> torch.Tensor | None:
        return self.calibration.decoder_input_ids

    @property
    def labels(self) -> torch.Tensor | None:
        return self.calibration.labels

    @property
    def counted(self) -> np.ndarray | None:
        return self.calibration.counted

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
        arrays = self.probe.arrays("probe.")
        records = []
        for index, candidate in enumerate(self.candidates):
            arrays |= candidate.calibration.arrays(f"{index}.")
            arrays[f"{index}.per_token"] = candidate.divergence.per_token.astype(np.float32)
            records.append(candidate.calibration.describe() | {"sparsity": candidate.sparsity})
        meta = {
            "version": 1,
            "candidates": records,
            "winner": self.winner,
            "probe": self.probe.describe(),
            "criterion": self.criterion,
            "sparsity": self.sparsity,
            "gamma": str(self.gamma),  # "inf" is not JSON
            "method": self.method,
            "protected": list(self.protected),
            "normalisation": self.normalisation,
        }
        return pack(meta, arrays)

    @classmethod
    def from_bytes(cls, content: bytes) -> CalibrationSelection:
        """Read what `to_bytes` wrote.

        Raises:
            CorpusError: it is something else.
        """
        with well_formed("This is not a saved choice of calibration sets", CorpusError, "Choose again."):
            return cls._read(*unpack(content))

    @classmethod
    def _read(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> CalibrationSelection:
        candidates = []
        for index, record in enumerate(meta["candidates"]):
            sparsity = record.pop("sparsity")
            calibration = CalibrationSet.from_arrays(record, arrays, f"{index}.")
            candidates.append(Candidate(calibration, Divergence(arrays[f"{index}.per_token"]), sparsity))
        return cls(
            tuple(candidates),
            whole_number(meta["winner"], len(candidates) - 1),
            CalibrationSet.from_arrays(meta["probe"], arrays, "probe."),
            meta["criterion"],
            meta["sparsity"],
            float(meta["gamma"]),
            meta.get("method", "shared"),
            tuple(meta.get("protected", ())),
            meta.get("normalisation", 0.0),
        )
