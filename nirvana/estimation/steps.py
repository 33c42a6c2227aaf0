"""The steps and their variants: memory and work of each for one model on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from nirvana.estimation import memory as bytes_of
from nirvana.estimation import work as work_of
from nirvana.estimation.results import Memory
from nirvana.estimation.work import Work
from nirvana.forward.bounds import BUDGET, batch_tokens
from nirvana.models.sizes import FLOAT32, PAGED, ModelSizes
from nirvana.recovery.options import METHODS
from nirvana.runs.recipe import Recipe
from nirvana.saliency.budget import MICRO_BATCHES, RECOMPUTE
from nirvana.saliency.criteria import available, find_criterion

UNBOUNDED = 1 << 62
ZERO_SHOT_LENGTH = 64  # tokens of a request, about


class Found(NamedTuple):
    """A variant of a step. `paced` is the recipe's step whose measured pace applies; empty for none."""

    variant: str
    memory: Memory
    work: Work
    paced: str = ""
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Subject(NamedTuple):
    """A model on a device, with the settings of its steps."""

    sizes: ModelSizes
    device: str
    free: int  # bytes above the loaded model that work may take
    recipe: Recipe
    strategy: str = "auto"  # of scoring
    stored: int = 4  # bytes of a weight in the model's files

    @property
    def base(self) -> Memory:
        return bytes_of.resident(self.sizes, self.device)

    @property
    def small(self) -> ModelSizes:
        """The pruned model."""
        return self.sizes.resized(self.recipe.allocation.sparsity)

    @property
    def probe(self) -> tuple[int, int]:
        choice = self.recipe.calibration
        return choice.probe_samples, choice.probe_length

    def peak(self, *phases: Memory) -> Memory:
        """The highest phase above the loaded model."""
        return bytes_of.peaks(self.base, phases)

    def reading(self, windows: int, length: int, passes: float = 1.0) -> Work:
        """Passes over windows of text."""
        return work_of.reading(self.sizes, windows, length, batch_tokens(self.device), passes=passes)


def load(subject: Subject) -> Iterator[Found]:
    sizes = subject.sizes
    passing = bytes_of.PARSED * sizes.vocabulary if subject.device == "cpu" else 0
    converted = FLOAT32 * PAGED if sizes.lazy else 0  # a piece of an embedding
    read = 0 if sizes.lazy else sizes.weight_bytes
    loaded = bytes_of.resident(sizes, subject.device, blocks=0)
    yield Found("", loaded + Memory(other=passing + converted), Work(moved=read, read=read))


def calibrate(subject: Subject) -> Iterator[Found]:
    """The draw of a set, or the choice by KL of several: each is scored, pruned with and compared."""
    sizes, choice, (windows, length) = subject.sizes, subject.recipe.calibration, subject.probe
    if choice.trials == 1:
        yield Found("one set", subject.base, Work())
        return
    kept = bytes_of.reference(sizes, windows * length, subject.free)
    comparing = bytes_of.comparing(sizes, subject.device, length, windows)
    made = bytes_of.pruning(sizes, choice.trial_sparsity, compensation="none")
    scored, chosen = bytes_of.scoring(
        sizes, subject.device, choice.trial_criterion, choice.samples, choice.length, subject.free, subject.strategy
    )
    strategy = chosen.strategy if chosen else ""
    passes = work_of.gradient_passes(choice.trial_criterion, strategy)
    work = subject.reading(windows, length)
    for _ in range(choice.trials):
        work += subject.reading(choice.samples, choice.length, passes) + subject.reading(windows, length)
    settings = {"strategy": strategy, "micro_batch": chosen.micro_batch if chosen else 0}
    peak = subject.peak(kept + scored, kept + made + comparing)
    yield Found(f"{choice.trials} sets by KL", peak, work, "calibration", settings)


def score(subject: Subject, criteria: Iterable[str] = (), *, chosen: bool = False) -> Iterator[Found]:
    """Each criterion with each strategy that it has; with `chosen`, with the one that is taken in the free memory.

    Raises:
        SaliencyError: `chosen`, and none fits.
    """
    sizes, choice = subject.sizes, subject.recipe.calibration
    for criterion in criteria or available():
        every = (RECOMPUTE,) if sizes.lazy else (MICRO_BATCHES, RECOMPUTE)
        if find_criterion(criterion).reads != "gradients" or criterion == "second-order":
            every = every[:1]
        elif chosen:
            every = (subject.strategy,)
        for strategy in every:
            args = criterion, choice.samples, choice.length, subject.free if chosen else UNBOUNDED, strategy
            found, how = bytes_of.scoring(sizes, subject.device, *args)
            passes = work_of.gradient_passes(criterion, how.strategy if how else "")
            work = subject.reading(choice.samples, choice.length, passes)
            if criterion == "second-order":
                tokens = choice.samples * choice.length
                work += subject.reading(choice.samples, choice.length)
                work += work_of.moments(sizes, tokens) + work_of.removing(sizes)
            settings = {"strategy": how.strategy, "micro_batch": how.micro_batch} if how else {}
            name = f"{criterion}, {how.strategy}" if how else criterion
            yield Found(name, subject.peak(found), work, "saliency", {"criterion": criterion, **settings})


def statistics(subject: Subject, compensations: Iterable[str] = ("bias", "least_squares")) -> Iterator[Found]:
    """Moments of the inputs of output projections: means, or second moments too."""
    choice = subject.recipe.prune
    for compensation in compensations:
        second = compensation == "least_squares"
        phases = bytes_of.collecting(subject.sizes, subject.device, choice.samples, choice.length, second=second)
        work = subject.reading(choice.samples, choice.length)
        work += work_of.moments(subject.sizes, choice.samples * choice.length) if second else Work()
        yield Found(
            "second moments" if second else "means", subject.peak(*phases), work, "", {"compensation": compensation}
        )


def sensitivity(subject: Subject) -> Iterator[Found]:
    """Loss curves at one level: half of all passes are spared, since blocks below the site are computed once."""
    sizes, (windows, length) = subject.sizes, subject.probe
    kept = bytes_of.reference(sizes, windows * length, subject.free)
    states = 2 * windows * length * sizes.hidden * sizes.item
    replayed = Memory(hidden_states=min(states, BUDGET) if sizes.lazy else states)
    comparing = bytes_of.comparing(sizes, subject.device, length, windows)
    work = subject.reading(windows, length, len(sizes.layout) / 2 + 1)
    yield Found("", subject.peak(kept + replayed + comparing), work)


def allocate(subject: Subject) -> Iterator[Found]:
    """The ranking of the units, with the model in memory."""
    units = sum(place.units for place in subject.sizes.layout.values())
    base = bytes_of.resident(subject.sizes, subject.device, blocks=0)
    yield Found("", base + Memory(other=8 * 8 * units), Work())


def prune(subject: Subject, compensations: Iterable[str] = ("none", "bias", "least_squares")) -> Iterator[Found]:
    """The pruned copy beside the dense model."""
    sizes, sparsity = subject.sizes, subject.recipe.allocation.sparsity
    for compensation in compensations:
        found = bytes_of.pruning(sizes, sparsity, compensation=compensation)
        work = Work(moved=subject.small.weight_bytes)
        work += work_of.solving(sizes, sparsity) if compensation == "least_squares" else Work()
        base = subject.base if compensation != "none" else bytes_of.resident(sizes, subject.device, blocks=1)
        yield Found(compensation.replace("_", " "), base + found, work, "", {"compensation": compensation})


def recover(subject: Subject, methods: Iterable[str] = METHODS) -> Iterator[Found]:
    """The training of the pruned model beside the dense one, by objective."""
    if subject.sizes.lazy:
        return  # training needs all weights in memory
    base, small = Memory(weights=subject.small.weight_bytes), subject.small
    for method in methods:
        recipe = subject.recipe.change("recovery", method=method)
        options = recipe.recovery.options
        found, again = bytes_of.training(
            small, subject.device, options, teacher=subject.sizes, free=subject.free - small.weight_bytes
        )
        windows = -(-options.tokens // options.length)
        passes = 1 + work_of.BACKWARD + int(again)
        batch = options.micro_batch * options.length
        work = work_of.reading(small, windows, options.length, batch, passes=passes)
        if method == "distill":
            work += work_of.reading(subject.sizes, windows, options.length, batch)
        name = method + (", activations computed again" if again else "")
        yield Found(name, subject.peak(base + found), work, "recover", {"method": method, "checkpointing": again})


def perplexity(subject: Subject) -> Iterator[Found]:
    choice = subject.recipe.evaluation
    windows = max(1, choice.max_tokens // choice.window)
    found = bytes_of.measuring(subject.sizes, subject.device, choice.window, windows)
    work = subject.reading(windows * max(1, len(choice.corpora)), choice.window)
    yield Found(f"windows of {choice.window}", subject.peak(found), work)


def zero_shot(subject: Subject) -> Iterator[Found]:
    found = bytes_of.answering(subject.sizes, subject.device, ZERO_SHOT_LENGTH)
    yield Found("", subject.peak(found), Work())


def save(subject: Subject) -> Iterator[Found]:
    sizes = subject.sizes
    work = Work(moved=sizes.weight_bytes, read=sizes.weight_bytes)
    base = bytes_of.resident(sizes, subject.device, blocks=1)
    yield Found("", base + bytes_of.saving(sizes, min(sizes.item, subject.stored)), work)


STEPS: dict[str, Callable[[Subject], Iterator[Found]]] = {
    "load": load,
    "calibrate": calibrate,
    "score": score,
    "statistics": statistics,
    "sensitivity": sensitivity,
    "allocate": allocate,
    "prune": prune,
    "recover": recover,
    "perplexity": perplexity,
    "zero-shot": zero_shot,
    "save": save,
}
