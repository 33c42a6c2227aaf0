"""Rules of a public demo: built-in models and texts, and limits of the work of one job.

Pages offer nothing else, but a browser can send any value, so `VisitorJobs.submit` applies the rules to every job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nirvana.calibration.corpora.mixture import PLUS, part_names
from nirvana.errors import RunError
from nirvana.jobs.tasks.ablation import AblationRequest, Inputs, UnitChoice, UnitRequest
from nirvana.jobs.tasks.continuation import ContinueRequest
from nirvana.jobs.tasks.export import ExportRequest
from nirvana.jobs.tasks.measurements import LOSS_CURVES, ScanRequest
from nirvana.jobs.tasks.run import RunRequest
from nirvana.runs.costs import CostRequest
from nirvana.runs.recipe import AllocationChoice, Recipe
from nirvana.runs.run import Run
from nirvana.runs.speed import SizesRequest, SpeedRequest
from nirvana.schema import Schema
from nirvana.studies.allocation_search import SearchRequest as AllocationSearchRequest
from nirvana.studies.kernel import KernelRequest
from nirvana.studies.matrix import MatrixRequest
from nirvana.studies.search import SearchRequest
from nirvana.studies.sweep_grid import Grid

MINUTES = 10  # of all time limits of a job together
POINTS = 60  # of a study that names its points
TOKENS = 1 << 21  # read in a job, by all models of all points
WINDOW = 2_048  # tokens in a window or a prompt, whose memory grows with it
STEP = 1 << 15  # tokens in a training step or a batch of prompts, which no time limit interrupts
GENERATED = 4_096  # tokens generated one after another in a job
CHECKS = 32  # measurements within a training
COST_SIZES = 24  # of a module whose costs are measured
UNCHANGED_PASSES = 5  # of an ablation, in forward passes: gradients, and twice the dense model
SITES = 64  # more than a built-in model has, for one that was not loaded yet
LIMITED: tuple[type[Schema], ...] = (  # a request whose work has no limit here is refused
    RunRequest,
    ExportRequest,
    ContinueRequest,
    SpeedRequest,
    SizesRequest,
    CostRequest,
    ScanRequest,
    Grid,
    SearchRequest,
    AllocationSearchRequest,
    MatrixRequest,
    KernelRequest,
    AblationRequest,
    UnitRequest,
    UnitChoice,
    AllocationChoice,
)
HINT = "Choose less, or install the program to compute without limits."


class Amount(NamedTuple):
    """One kind of work of a job, in words and as a number, and the limit of that number."""

    words: str
    value: float
    most: float


def check_choices(recipe: Recipe, texts: Sequence[str] = ()) -> None:
    """Check that the model, the texts and the zero-shot tasks of a recipe are built in.

    Args:
        texts: further texts, those of a study.

    Raises:
        RunError: one is not.
    """
    from nirvana.calibration.corpora.registry import AVAILABLE
    from nirvana.evaluation.zero_shot.tasks import MINIMAL_PAIRS
    from nirvana.models.sources import BUILT_IN

    trained = [recipe.recovery.corpus] if recipe.recovery.corpus else []
    asked = (*recipe.calibration.texts, *recipe.evaluation.corpora, *trained, *texts)
    names = {part for name in asked for part in part_names(name)}
    built_in = {name for name, corpus in AVAILABLE.items() if corpus.offline}
    tasks = set(recipe.evaluation.zero_shot) - {MINIMAL_PAIRS}
    if recipe.model.name not in BUILT_IN or tasks or not names <= built_in:
        raise RunError("This demo runs the built-in model on built-in texts.", "Install the program to use your own.")


def check_job(run: Run | None, recipe: Recipe, request: Schema) -> None:
    """Validate a job for a public demo: its choices, its time limits and the amount of its work.

    Args:
        run: its current results take no work; None without any.
        recipe: of the job.
        request: of its task.

    Raises:
        RunError: a choice is not built in, a time limit is missing, a limit is exceeded, or the task has none.
    """
    if type(request) not in LIMITED:
        raise RunError("This demo does not offer this task.", "Install the program to use it.")
    check_choices(recipe, getattr(request, "corpora", ()))
    if isinstance(request, Grid):
        request.check()  # before its points are counted
    if not all(_time_limits(run, recipe, request)):
        raise RunError(
            "Every training and every search has a time limit in this demo.", f"Give {MINUTES} minutes or less."
        )
    for amount in amounts(run, recipe, request):
        if amount.value > amount.most:
            found = f"{amount.value:,g}" if amount.value < 1e6 else f"{amount.value:,.0f}"
            raise RunError(f"This demo allows {amount.words} of at most {amount.most:,}; this job has {found}.", HINT)


def within_limits(recipe: Recipe) -> Recipe:
    """A copy whose training has the demo's time limit, where its own is longer or missing."""
    if recipe.recovery.method == "none":
        return recipe
    return recipe.change("recovery", minutes=min(recipe.recovery.minutes or MINUTES, float(MINUTES)))


def amounts(run: Run | None, recipe: Recipe, request: Schema) -> Iterator[Amount]:
    """The work of a job, which `check_job` compares with its limits."""
    parts = _parts(run, recipe, request)
    trainings = [each.recovery for each, steps in parts if "recover" in steps]
    yield Amount("time limits, in minutes and added up,", sum(_time_limits(run, recipe, request)), MINUTES)
    points = len(request.points(recipe.allocation.gamma)) if isinstance(request, KernelRequest) else len(parts)
    yield Amount("a number of points", points, POINTS)
    yield Amount("windows, in tokens,", max(_windows(recipe, request, parts), default=0), WINDOW)
    batches = [training.batch * training.length for training in trainings]
    timed = [each.allocation for each, steps in parts if "allocation" in steps and each.allocation.budget == "latency"]
    batches += [choice.budget_batch * choice.budget_length for choice in timed]
    if isinstance(request, SpeedRequest):
        batches.append(request.batch * (request.prompt + request.new_tokens))
    if isinstance(request, CostRequest):
        batches.append(request.batch * request.length)
    yield Amount("batches, in tokens,", max(batches, default=0), STEP)
    yield Amount("a number of checks", max((training.checks for training in trainings), default=0), CHECKS)
    yield Amount("generated texts, in tokens of all models,", _generated(request), GENERATED)
    yield Amount("texts to read, in tokens of all models,", _tokens(run, recipe, request, parts), TOKENS)


Parts = Sequence[tuple[Recipe, Sequence[str]]]  # recipes that a job computes, each with its steps


def _parts(run: Run | None, recipe: Recipe, request: Schema) -> Parts:
    if isinstance(request, RunRequest):
        todo = [step for step in recipe.up_to(request.until) if run is None or run.step_state(step, recipe) != "done"]
        return [(recipe, todo)]
    if isinstance(request, Grid):
        made = [point.recipe(recipe) for point in request.points()]
        return [(each, each.steps) for each in made]
    one = recipe.change("calibration", candidates=1, alternatives=())
    steps = tuple(step for step in recipe.steps if step != "recover")  # of a study that trains nothing
    if isinstance(request, MatrixRequest):
        texts = [*request.corpora, *([PLUS.join(request.corpora)] if request.mixture else [])]
        one = one.change("evaluation", corpora=request.corpora)
        drawn = [(text, recipe.calibration.seed + each) for text in texts for each in range(request.seeds)]
        return [(one.change("calibration", corpus=text, seed=seed), steps) for text, seed in drawn]
    return [(one, steps)] if isinstance(request, SearchRequest) else []


def _time_limits(run: Run | None, recipe: Recipe, request: Schema) -> list[float]:
    """Minutes of each training and search of the job; 0 where one has no limit."""
    found = [each.recovery.minutes for each, steps in _parts(run, recipe, request) if "recover" in steps]
    if isinstance(request, SearchRequest | AllocationSearchRequest):
        found.append(request.minutes)
    return found


def _windows(recipe: Recipe, request: Schema, parts: Parts) -> Iterator[int]:
    for each, steps in parts:
        if {"calibration", "saliency"} & set(steps):
            yield from (each.calibration.length, each.calibration.probe_length)
        if {"prune", "evaluate"} & set(steps):
            yield from (each.prune.length, each.evaluation.window)
        if "allocation" in steps and each.allocation.budget == "latency":
            yield each.allocation.budget_length
        if "recover" in steps:
            yield each.recovery.length
    if isinstance(request, AllocationSearchRequest | ScanRequest | KernelRequest | Inputs | CostRequest):
        yield request.length
    if isinstance(request, SpeedRequest):
        yield request.prompt + request.new_tokens
    if isinstance(request, AllocationChoice):
        yield from (recipe.prune.length, recipe.calibration.probe_length)
    if isinstance(request, SizesRequest):
        yield recipe.evaluation.window


def _generated(request: Schema) -> int:
    if isinstance(request, ContinueRequest):
        return 3 * request.max_new_tokens  # dense, pruned and recovered
    if isinstance(request, SpeedRequest):
        return request.new_tokens * request.repeats * 2 * (1 + len(request.schemes))
    return 0


def _tokens(run: Run | None, recipe: Recipe, request: Schema, parts: Parts) -> int:
    """Tokens that all models read; equal steps of several points are computed once, as is the dense model."""
    card = run.model() if run is not None else None
    sites = len(card.layout) if card is not None and card.name == recipe.model.name else SITES
    total, known = 0, set[tuple[object, ...]]()
    for each, steps in parts:
        for step in steps:
            key = step, each.fingerprint(step)
            total += 0 if key in known else _step_tokens(each, step)
            known.add(key)
        dense = "dense", str(each.evaluation), each.calibration.probe_samples * each.calibration.probe_length
        if "evaluate" in steps and dense not in known:
            total += _evaluation_tokens(each)
            known.add(dense)
        curves = "curves", each.fingerprint("saliency")
        if "allocation" in steps and each.allocation.method == "measured" and curves not in known:
            total += each.allocation.rounds * _scan_tokens(each, LOSS_CURVES, sites)
            known.add(curves)
        costs = "costs", *each.allocation.cost_protocol.values()
        if "allocation" in steps and each.allocation.budget == "latency" and costs not in known:
            batch = each.allocation.budget_batch * each.allocation.budget_length
            total += _cost_tokens(CostRequest().repeats, batch, sites)
            known.add(costs)
    evaluation = recipe.evaluation
    if isinstance(request, SpeedRequest):
        models = 2 * (1 + len(request.schemes))
        return request.batch * (request.prompt + request.new_tokens) * request.repeats * models
    if isinstance(request, SizesRequest):
        return evaluation.max_tokens * 3 * (1 + len(request.schemes))
    if isinstance(request, CostRequest):
        return len(request.phases) * _cost_tokens(request.repeats, request.batch * request.length, sites)
    if isinstance(request, ScanRequest):
        return _scan_tokens(recipe, request, sites)
    if isinstance(request, KernelRequest):
        drawn = recipe.calibration.samples * recipe.calibration.length
        scored = len(request.criteria) * len(request.seeds) * drawn
        return scored + (1 + len(request.points(recipe.allocation.gamma))) * request.samples * request.length
    if type(request) is UnitChoice:
        return recipe.calibration.samples * recipe.calibration.length
    if isinstance(request, Inputs):
        units = request.count if isinstance(request, AblationRequest) else 1
        return (UNCHANGED_PASSES + units) * request.samples * request.length
    if isinstance(request, AllocationChoice):
        probe = recipe.calibration.probe_samples * recipe.calibration.probe_length
        return _step_tokens(recipe, "prune") + 3 * probe  # dense and two plans
    if isinstance(request, AllocationSearchRequest):
        return 2 * request.samples * request.length  # of one step; the number of steps follows from the time limit
    return total


def _step_tokens(recipe: Recipe, step: str) -> int:
    drawn = recipe.calibration
    sample, probe = drawn.samples * drawn.length, drawn.probe_samples * drawn.probe_length
    if step == "calibration":
        return drawn.trials * (sample + probe) if drawn.trials > 1 else 0
    if step == "saliency":
        return recipe.allocation.rounds * sample
    if step == "prune" and recipe.prune.compensation != "none":
        return recipe.prune.samples * recipe.prune.length
    if step == "evaluate":
        return (2 if "recover" in recipe.steps else 1) * _evaluation_tokens(recipe)
    return 0


def _evaluation_tokens(recipe: Recipe) -> int:
    """Tokens that one model reads in the evaluation."""
    drawn, evaluation = recipe.calibration, recipe.evaluation
    return evaluation.max_tokens * len(evaluation.corpora) + drawn.probe_samples * drawn.probe_length


def _cost_tokens(repeats: int, batch: int, sites: int) -> int:
    """Copies of the model, of which every layer has another size in turn, read `batch` tokens each."""
    return -(-repeats * COST_SIZES // max(sites // 2, 1)) * batch


def _scan_tokens(recipe: Recipe, request: ScanRequest, sites: int) -> int:
    """A pass begins at the pruned module: half the model on average."""
    drawn = recipe.calibration
    probe = request.samples * request.length if request.samples else drawn.probe_samples * drawn.probe_length
    return sites * len(request.levels) * probe // 2
