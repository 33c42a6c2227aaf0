"""Choice of calibration data by KL: prune with each of several sets, keep the one with the lowest divergence
(paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nirvana.allocation.allocate import allocate
from nirvana.calibration.corpora.corpus import Corpus, Text, as_corpus
from nirvana.calibration.corpora.mixture import all_of, with_mixtures
from nirvana.calibration.sampling import sample_calibration, sample_probe
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet, Candidate
from nirvana.errors import CorpusError, SaliencyError
from nirvana.evaluation.divergence import dense_reference, divergence
from nirvana.progress import ProgressCallback, within
from nirvana.saliency.criteria import available
from nirvana.saliency.score import score
from nirvana.saliency.scores import Saliency
from nirvana.surgery import prune

if TYPE_CHECKING:
    from nirvana.models.lm import LM


def select_calibration(
    lm: LM,
    text: Text | Sequence[Corpus],
    *,
    candidates: int = 8,
    mixtures: bool = False,
    sparsity: float = 0.2,
    gamma: float = 3.36,
    criterion: str = "nirvana",
    method: str = "shared",
    protected: tuple[int, ...] = (),
    normalisation: float = 0.0,
    samples: int = 32,
    length: int = 128,
    seed: int = 0,
    probe: CalibrationSet | None = None,
    multiple_of: int = 8,
    task: str = "auto",
    progress: ProgressCallback | None = None,
) -> CalibrationSelection:
    """Draw several calibration sets, prune with each, and rank them by KL( dense || pruned ) on the same probes.

    The sets are those of seeds `seed` .. `seed + candidates - 1`, of each text. The dense model runs over the probes
    once; memory holds it and one pruned copy at a time.

    Args:
        text: a corpus, whose probe split shares no text with its calibration split; or plain text, which is divided; or
            several corpora to choose from, named by the winner's `source`.
        candidates: number of sets of each text, 1 or more.
        mixtures: also try uniform mixtures: of all corpora, and of each pair if there are three.
        sparsity: of the trial prunings, with `gamma`, `criterion`, `method`, `protected`, `normalisation` and
            `multiple_of` (see `allocate` and `score`).
        samples: windows in each set, of `length` tokens.
        probe: the windows to measure on; by default 16 of 512 tokens from the probe split, a uniform mixture of several
            corpora. It should share no text with the calibration sets.
        task: of an encoder-decoder (see `sample_calibration`).
        progress: one bar over all candidates; may raise `Cancelled`.

    Raises:
        CorpusError: the text is too short, or a number makes no sense.
        PlanError: the sparsity, gamma or multiple is invalid or out of reach.
        SaliencyError: the criterion is unknown.
    """
    if candidates < 1:
        raise CorpusError(f"{candidates} calibration sets cannot be compared.", "Ask for 1 or more.")
    if criterion not in available():
        raise SaliencyError(f"There is no criterion {criterion!r}.", f"Criteria are {', '.join(available())}.")
    trial: dict[str, Any] = {"sparsity": sparsity, "gamma": gamma, "multiple_of": multiple_of}
    trial |= {"method": method, "protected": protected, "normalisation": normalisation}
    # Fail early: whether a rule accepts the sparsity does not depend on the scores.
    level = {site: np.ones(place.units, np.float32) for site, place in lm.layout.items()}
    allocate(Saliency(level, lm.layout, criterion), **trial)
    texts, probed = _texts(text, mixtures, divided=probe is None)
    if probe is None:
        probe = sample_probe(lm, probed, task=task)
    draws = [(each, number) for each in texts for number in range(seed, seed + candidates)]
    sets = [sample_calibration(lm, each, samples=samples, length=length, seed=n, task=task) for each, n in draws]

    parts = 1 + 2 * len(sets)  # scoring 32 x 128 tokens takes about as long as a forward of 16 x 512
    reference = dense_reference(lm, probe, progress=within(progress, "Probe", 0, parts))
    tried = []
    for index, calibration in enumerate(sets):
        label = f"Candidate {index + 1} of {len(sets)}" + (f", {calibration.source}" if len(texts) > 1 else "")
        scoring, comparing = (within(progress, label, 1 + 2 * index + part, parts) for part in (0, 1))
        saliency = score(lm, calibration, criterion=criterion, seed=calibration.seed or 0, progress=scoring)
        plan = allocate(saliency, **trial)
        pruned = prune(lm, plan)
        measured = divergence(lm, pruned, probe, reference=reference, progress=comparing)
        pruned.unload()
        tried.append(Candidate(calibration, measured, plan.sparsity, saliency, draws[index][0]))
    winner = min(range(len(sets)), key=lambda index: tried[index].divergence.mean)  # the first of equals
    how = (method, tuple(protected), float(normalisation))
    return CalibrationSelection(tuple(tried), winner, probe, criterion, float(sparsity), float(gamma), *how)


def _texts(text: Text | Sequence[Corpus], mixtures: bool, *, divided: bool) -> tuple[list[Text], Text]:
    """The texts to draw sets from, and the one to draw probes from."""
    items: Sequence[Any] = text if isinstance(text, list | tuple) else ()
    several = [item for item in items if isinstance(item, Corpus)]
    if several:
        if len(several) < len(items):
            raise CorpusError("Some of the texts are corpora and some are not.", "Give what load_corpus returns.")
        return [*with_mixtures(several, mixtures)], all_of(several)
    single = as_corpus(cast(Text, text)) if divided else cast(Text, text)
    return [single], single
