"""Engine calls whose results are kept by the hash of what goes in: weights, dtype, text or tokens, parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.mixture import all_of, load_parts, with_mixtures
from nirvana.calibration.corpora.registry import SELF_GENERATED, load_corpus
from nirvana.calibration.generation import generate_corpus
from nirvana.calibration.sampling import sample_calibration, sample_probe
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.errors import CorpusError
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback
from nirvana.runs.folder import FORMATS
from nirvana.runs.models import numerics
from nirvana.runs.recipe import CalibrationChoice
from nirvana.runs.step_cache import cache_key, read_cached, write_cached
from nirvana.saliency.score import score
from nirvana.saliency.scores import Saliency
from nirvana.selection import select_calibration

Origin = dict[str, Any]  # "cached": whether it was there; "seconds": how long it took when it was computed


def open_corpus(name: str, lm: LM, progress: ProgressCallback | None) -> Corpus:
    """A corpus by name; self-generated text is written by `lm`, and kept like the others.

    Raises:
        CorpusError: nothing is found by that name, or it is empty, too short or malformed.
    """

    def load(part: str) -> Corpus:
        return generate_corpus(lm, progress=progress) if part == SELF_GENERATED.name else load_corpus(part)

    return load_parts(name, load)


def calibration_text(
    choice: CalibrationChoice, chosen: CalibrationSelection | CalibrationSet | None, load: Callable[[str], Corpus]
) -> Corpus:
    """The text that the `chosen` set was drawn from; without alternatives, it is the only one there is.

    Raises:
        CorpusError: it is not among the texts of `choice` any more, or one of them cannot be read.
    """
    corpora = [load(name) for name in choice.texts]
    if len(corpora) == 1:
        return corpora[0]
    calibration = chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen
    for corpus in with_mixtures(corpora, choice.mixtures):
        if calibration is not None and corpus.hash == calibration.source_hash:
            return corpus
    raise CorpusError("The text that the calibration set was drawn from has changed.", "Choose the set again.")


def draw_probe(choice: CalibrationChoice, lm: LM, corpora: Sequence[Corpus]) -> CalibrationSet:
    """The probe that `choice` describes, in equal shares of its texts."""
    drawn = {"samples": choice.probe_samples, "length": choice.probe_length, "seed": choice.probe_seed}
    return sample_probe(lm, all_of(corpora), task=choice.task, **drawn)


def choose_calibration(
    choice: CalibrationChoice, lm: LM, corpora: Sequence[Corpus], progress: ProgressCallback | None
) -> tuple[CalibrationSelection | CalibrationSet, Origin]:
    """One calibration set, or several of which KL chooses, with what they were scored for that kept too.

    Args:
        corpora: the texts of `choice`.

    Raises:
        NirvanaError: see `sample_calibration` and `select_calibration`.
    """
    drawn: dict[str, Any] = {"samples": choice.samples, "length": choice.length, "seed": choice.seed}
    drawn["task"] = choice.task
    if choice.trials == 1:
        return sample_calibration(lm, corpora[0], **drawn), {}

    def select() -> CalibrationSelection:
        selection = select_calibration(
            lm,
            corpora,
            candidates=choice.candidates,
            mixtures=choice.mixtures,
            sparsity=choice.trial_sparsity,
            gamma=choice.trial_gamma,
            criterion=choice.trial_criterion,
            method=choice.trial_method,
            protected=choice.trial_protected,
            normalisation=choice.trial_normalisation,
            probe=draw_probe(choice, lm, corpora),
            progress=progress,
            **drawn,
        )
        for candidate in selection.candidates:  # the winner is scored next, and any other may be looked at
            if candidate.saliency is not None:
                seconds = candidate.saliency.details.get("seconds")
                key = _saliency_key(lm, candidate.calibration, choice.trial_criterion)
                write_cached(key, candidate.saliency.to_bytes(), seconds=seconds)
        return selection

    texts = [[corpus.name, corpus.hash] for corpus in corpora]
    key = cache_key("calibration", corpora=texts, choice=str(choice), **numerics(lm))
    return _kept("calibration", key, select)


def score_units(
    criterion: str, lm: LM, calibration: CalibrationSet, progress: ProgressCallback | None
) -> tuple[Saliency, Origin]:
    """Scores of every unit. A criterion that draws does so with the seed of the calibration set.

    Raises:
        NirvanaError: see `score`.
    """
    key, seed = _saliency_key(lm, calibration, criterion), calibration.seed or 0
    return _kept("saliency", key, lambda: score(lm, calibration, criterion=criterion, seed=seed, progress=progress))


def _saliency_key(lm: LM, calibration: CalibrationSet, criterion: str) -> str:
    drawn = {"calibration": calibration.hash, "seed": calibration.seed or 0}
    return cache_key("saliency", criterion=criterion, **drawn, **numerics(lm))


def _kept(step: str, key: str, compute: Callable[[], Any]) -> tuple[Any, Origin]:
    found = read_cached(key)
    if found is not None:
        meta, content = found
        try:
            return FORMATS[step].read(content), {"cached": True, "seconds": meta.get("seconds")}
        except (ValueError, KeyError, TypeError):
            pass  # written by other code than this: compute it again
    start = time.perf_counter()
    result = compute()
    seconds = time.perf_counter() - start
    write_cached(key, FORMATS[step].write(result), seconds=seconds)
    return result, {"cached": False, "seconds": seconds}
