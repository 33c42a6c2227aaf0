"""Peak memory of the steps of a recipe, as its run performs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nirvana.errors import SaliencyError
from nirvana.estimation import memory as bytes_of
from nirvana.estimation import steps
from nirvana.estimation.estimate import predicted
from nirvana.estimation.results import Memory, StepEstimate
from nirvana.estimation.steps import Found, Subject
from nirvana.estimation.work import Work
from nirvana.saliency.budget import RECOMPUTE

TIMED = 512  # tokens of the passes that measure a loaded model's pace


def step_estimates(step: str, subject: Subject) -> list[StepEstimate]:
    """The parts of a recipe's step ("model", "calibration" ... "evaluate"), one after another.

    Scoring that fits in no way is estimated with recomputation, the way that needs least.
    """
    return [predicted(subject, name, found) for name, found in _parts(step, subject)]


def peak_of(todo: Iterable[str], subject: Subject) -> StepEstimate | None:
    """The part of some steps of a recipe that needs most memory; None where there are no steps."""
    found = [each for step in todo for each in step_estimates(step, subject)]
    return max(found, key=lambda each: each.memory.peak, default=None)


def _parts(step: str, subject: Subject) -> Iterator[tuple[str, Found]]:
    recipe = subject.recipe
    compensation = recipe.prune.compensation
    if step == "model":
        yield from _named("load", steps.load(subject))
        if not subject.sizes.lazy:
            measured = bytes_of.measuring(subject.sizes, subject.device, TIMED, 1)
            yield "load", Found("pace", subject.peak(measured), Work())
    elif step == "calibration":
        yield from _named("calibrate", _fitting(subject, steps.calibrate))
    elif step == "saliency":
        yield from _named("score", _fitting(subject, _scored))
    elif step == "allocation":
        if recipe.allocation.method == "measured":
            yield from _named("sensitivity", steps.sensitivity(subject))
        if recipe.allocation.rounds > 1:
            yield from _named("score", _fitting(subject, _scored))
        yield from _named("allocate", steps.allocate(subject))
    elif step == "prune":
        if compensation != "none":
            yield from _named("statistics", steps.statistics(subject, [compensation]))
        yield from _named("prune", steps.prune(subject, [compensation]))
    elif step == "recover" and recipe.recovery.method != "none":
        yield from _named("recover", steps.recover(subject, [recipe.recovery.method]))
    elif step == "evaluate":
        yield from _evaluation(subject)


def _evaluation(subject: Subject) -> Iterator[tuple[str, Found]]:
    """All models are in memory at once."""
    copies = 2 if "recover" in subject.recipe.steps else 1
    others = Memory(weights=0 if subject.sizes.lazy else copies * subject.small.weight_bytes)
    windows, length = subject.probe
    kept = bytes_of.reference(subject.sizes, windows * length, subject.free)
    compared = subject.peak(kept + bytes_of.comparing(subject.sizes, subject.device, length, windows))
    parts = [*_named("perplexity", steps.perplexity(subject)), ("divergence", Found("", compared, Work()))]
    if subject.recipe.evaluation.zero_shot:
        parts += _named("zero-shot", steps.zero_shot(subject))
    for name, found in parts:
        yield name, found._replace(memory=found.memory + others)


def _named(name: str, found: Iterable[Found]) -> list[tuple[str, Found]]:
    return [(name, each) for each in found]


def _scored(subject: Subject) -> Iterator[Found]:
    return steps.score(subject, [subject.recipe.saliency.criterion], chosen=True)


def _fitting(subject: Subject, step: Callable[[Subject], Iterator[Found]]) -> list[Found]:
    """The variants of a step; where no strategy fits the free memory, with recomputation."""
    try:
        return list(step(subject))
    except SaliencyError:
        roomy = subject._replace(free=steps.UNBOUNDED, strategy=RECOMPUTE)
        return list(step(roomy))
