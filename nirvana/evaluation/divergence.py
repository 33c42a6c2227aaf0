"""KL( dense || pruned ): the change of the model's predictions by pruning (paper: KL-based choice of calibration
data).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nirvana.calibration.kl import Divergence
from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import CorpusError, ModelError
from nirvana.forward.bounds import chunk_positions
from nirvana.forward.chunks import hidden_batches
from nirvana.models.limits import available_memory
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report, within

MOST_BYTES = 2 << 30  # of log-probabilities that a reference keeps ...
MEMORY_SHARE = 0.125  # ... and at most this share of what is free


@dataclass(frozen=True, eq=False)
class DenseReference:
    """The dense side of a divergence, computed once for any number of pruned models.

    Log-probabilities (N T, V) are kept where they fit: 16 probes of 512 tokens with 49152 words take 1.6 GB. Otherwise
    the hidden states (N T, H) are kept, here 19 MB, and the head is applied again for each comparison: also exact, and
    a fifth slower for a small model, less for a large one. One of the two is None.
    """

    probe_hash: str
    head: nn.Linear
    log_probabilities: torch.Tensor | None
    hidden: torch.Tensor | None

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """float32 (stop - start, V) log-probabilities of positions, counted over all probes."""
        if self.log_probabilities is not None:
            return self.log_probabilities[start:stop]
        assert self.hidden is not None
        return torch.log_softmax(self.head(self.hidden[start:stop]).float(), dim=-1)


def dense_reference(
    dense: LM,
    probe: CalibrationSet,
    *,
    keep_bytes: int | None = None,
    progress: ProgressCallback | None = None,
) -> DenseReference:
    """Run the dense model over the probes, (N, T), once: with an encoder, over the decoder's inputs.

    Args:
        keep_bytes: the most that log-probabilities may take; by default 2 GiB or an eighth of the free memory.
        progress: called after every few hundred tokens; may raise `Cancelled`.

    Raises:
        CorpusError: the probe has padding.
        ModelError: the probes are longer than the model's positions.
    """
    _check(dense, probe)
    head = dense.family.head(dense.module())
    vocabulary, width = head.weight.shape
    total, chunk = probe.outputs.size, chunk_positions(vocabulary)
    if keep_bytes is None:
        keep_bytes = min(MOST_BYTES, int(MEMORY_SHARE * available_memory(str(dense.device))))
    keep = total * vocabulary * 4 <= keep_bytes
    shape, dtype = ((total, vocabulary), torch.float32) if keep else ((total, width), head.weight.dtype)
    store = torch.empty(shape, dtype=dtype, device=dense.device)
    stage, done = "Dense predictions", 0
    report(progress, stage, done, total)
    for _, hidden in hidden_batches(dense, probe.tokens, probe.decoder_tokens, stage=stage, progress=progress):
        states = hidden.reshape(-1, width)
        for start in range(0, len(states), chunk):
            report(progress, stage, done, total)
            part = states[start : start + chunk]
            with torch.inference_mode():
                store[done : done + len(part)] = torch.log_softmax(head(part).float(), dim=-1) if keep else part
            done += len(part)
    report(progress, stage, done, total)
    return DenseReference(probe.hash, head, store if keep else None, None if keep else store)


def divergence(
    dense: LM,
    pruned: LM,
    probe: CalibrationSet,
    *,
    reference: DenseReference | None = None,
    progress: ProgressCallback | None = None,
) -> Divergence:
    """KL( dense || pruned ) = sum_v p log(p / q) at each position of each probe, in nats.

    Over the full vocabulary, in float32, a few hundred positions at a time.

    Args:
        probe: windows (N, T) without padding.
        reference: `dense_reference(dense, probe)`, to compare several models with one dense model.
        progress: called after every few hundred tokens; may raise `Cancelled`.

    Raises:
        CorpusError: the probe has padding, or the reference is of another probe.
        ModelError: the vocabularies differ, the probes are too long, or an output is not a number.
    """
    _check(pruned, probe)
    head = pruned.family.head(pruned.module())
    vocabulary = head.weight.shape[0]
    if reference is None:
        reference = dense_reference(dense, probe, progress=within(progress, "Probe", 0, 2))
        progress = within(progress, "Probe", 1, 2)
    elif reference.probe_hash != probe.hash:
        raise CorpusError("The dense reference is of another probe.", "Compute it for this one.")
    if reference.head.weight.shape[0] != vocabulary:
        raise ModelError("The two models have different vocabularies.", "Compare a model with one pruned from it.")
    batches = hidden_batches(pruned, probe.tokens, probe.decoder_tokens, stage="Divergence", progress=progress)
    states = (hidden for _, hidden in batches)
    return divergence_of(states, head, reference, probe.outputs.shape, name=pruned.source.name, progress=progress)


def divergence_of(
    states: Iterable[torch.Tensor],
    head: nn.Linear,
    reference: DenseReference,
    shape: tuple[int, int],
    *,
    name: str,
    progress: ProgressCallback | None = None,
) -> Divergence:
    """KL of the predictions that `head` makes from hidden states, batch after batch of (B, T, H).

    Args:
        shape: (N, T) of the probe that the reference and the states are of.
        name: of the model, in errors.

    Raises:
        ModelError: an output is not a number.
    """
    total, chunk = shape[0] * shape[1], chunk_positions(head.weight.shape[0])
    flat, done, stage = np.empty(total, np.float32), 0, "Divergence"
    report(progress, stage, done, total)
    for batch in states:
        positions = batch.reshape(-1, batch.shape[-1])
        for start in range(0, len(positions), chunk):
            report(progress, stage, done, total)
            part = positions[start : start + chunk]
            with torch.inference_mode():
                log_p = reference.rows(done, done + len(part)).to(part.device)
                log_q = torch.log_softmax(head(part).float(), dim=-1)
                kl = torch.linalg.vecdot(log_p.exp(), torch.sub(log_p, log_q, out=log_q))
            # KL is not negative, but rounding of 50000 cancelling terms can make it about -1e-7.
            flat[done : done + len(part)] = kl.clamp(min=0).cpu().numpy()
            done += len(part)
    report(progress, stage, done, total)
    if not np.isfinite(flat).all():
        raise ModelError(
            f"{name} or its pruned form gives outputs that are not numbers.",
            "Load the model with dtype float32, or prune less.",
        )
    return Divergence(flat.reshape(shape))


def _check(lm: LM, probe: CalibrationSet) -> None:
    if (probe.decoder_tokens is None) == lm.family.encoder_decoder:
        raise CorpusError(f"The probe is for another kind of model than {lm.source.name}.", "Draw it with this model.")
    if (probe.mask is not None and not probe.mask.all()) or (probe.targets is not None and (probe.targets < 0).any()):
        raise CorpusError("Divergence needs full windows; the probe has padding.", "Cut it to length.")
    positions = lm.family.geometry(lm.settings).get("positions", probe.length)
    if probe.length > positions:
        raise ModelError(
            f"Probes of {probe.length} tokens are longer than the {positions} positions of {lm.source.name}.",
            f"Use probes of {positions} tokens or fewer.",
        )
    vocabulary = lm.family.geometry(lm.settings)["vocabulary"]
    ids = np.concatenate([probe.tokens.ravel(), probe.outputs.ravel()])
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise CorpusError(
            f"The probe has token ids outside the {vocabulary} of {lm.source.name}.", "Draw it with this tokenizer."
        )
