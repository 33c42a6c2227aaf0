"""Expected durations from measurements on this machine: paces of earlier work, then the job's own pace."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from nirvana.jobs.queue import Job
from nirvana.reporting.text import duration
from nirvana.runs.pace import FORWARD, LOADING, kind_of_work, tokens_read
from nirvana.runs.recipe import STEPS, Recipe
from nirvana.studies.sweep_grid import Point
from nirvana.studies.sweep_rows import Row

Pace = Mapping[str, float]  # see `nirvana.runs.pace.read_pace`
UNKNOWN = "duration unknown until the first run on this machine"
TRUSTED = 0.25  # share of a step from which only its own pace counts


def in_words(seconds: float | None) -> str:
    """E.g. "about 12 s on this machine"."""
    return UNKNOWN if seconds is None else f"about {duration(seconds)} on this machine"


def summed(parts: Iterable[float | None]) -> float | None:
    """The sum; None where a part is unknown."""
    found = list(parts)
    return None if None in found else sum(part for part in found if part is not None)


def expected_seconds(step: str, recipe: Recipe, pace: Pace) -> float | None:
    """Seconds of a step: by its own pace, or else by that of a forward pass; None where neither is known."""
    if step == "model":
        return pace.get(LOADING)
    choice = recipe.allocation
    if step == "allocation" and (choice.method == "measured" or choice.rounds > 1 or choice.budget == "latency"):
        return None  # how many loss curves, timings or rounds are missing is known once the job has begun
    if step == "recover" and not recipe.recovery.tokens:  # an epoch's length is known once the text is read
        return 60 * recipe.recovery.minutes or None
    tokens = tokens_read(step, recipe)
    return forward_seconds(tokens, pace, kind_of_work(step, recipe))


def forward_seconds(tokens: float, pace: Pace, kind: str = FORWARD) -> float | None:
    """Seconds for a number of tokens, at the pace of a kind of work if known."""
    rate = pace.get(kind, pace.get(FORWARD))
    return 0.0 if not tokens else None if rate is None else tokens * rate


def total_seconds(steps: Iterable[str], recipe: Recipe, pace: Pace) -> float | None:
    """Seconds of several steps; None where one is unknown."""
    return summed(expected_seconds(step, recipe, pace) for step in steps)


def sweep_seconds(todo: Sequence[Point], rows: Sequence[Row], recipe: Recipe, pace: Pace) -> float | None:
    """Seconds of the points of a sweep around `recipe`, estimated from finished `rows` with the same recovery, or else
    from its steps.

    Each criterion scores once a seed, a compensation's statistics are collected once a seed, and the dense model is
    measured once; None before anything was measured.
    """
    spent: dict[str, list[float]] = {}
    for row in rows:
        if row.seconds:
            spent.setdefault(row.point.recovery, []).append(row.seconds)
    parts, shared = list[float | None](), set()
    for number, point in enumerate(todo):
        if len(spent.get(point.recovery, ())) > 1:
            parts.append(median(spent[point.recovery]))
            continue
        choices = point.recipe(recipe)
        measured = expected_seconds("evaluate", choices, pace)
        parts.append(measured if measured is None or not number else measured / 2)
        parts += [expected_seconds("recover", choices, pace)] if "recover" in choices.steps else []
        for step, choice in (("saliency", point.criterion), ("prune", point.compensation)):
            if (step, point.seed, choice) not in shared:
                shared.add((step, point.seed, choice))
                parts.append(expected_seconds(step, choices, pace))
    return summed(parts)


def demo_seconds(recipe: Recipe, curve: Sequence[Point], pace: Pace) -> float | None:
    """Seconds of a sweep over `curve` and then of the recipe, whose model without recovery is the last point.

    Where the recipe draws one calibration set, as points do, the sweep leaves loading, recovery and the measurement of
    the recovered model; otherwise the recipe's steps are counted in full.
    """
    if not curve:
        return total_seconds(recipe.steps, recipe, pace)
    sweep = sweep_seconds(curve, (), recipe, pace)
    if recipe.calibration.trials > 1:
        return summed([sweep, total_seconds(recipe.steps, recipe, pace)])
    parts = [sweep, expected_seconds("model", recipe, pace)]
    if "recover" in recipe.steps:
        measured = expected_seconds("evaluate", recipe, pace)  # of three models
        parts += [expected_seconds("recover", recipe, pace), measured if measured is None else measured / 3]
    return summed(parts)


def time_left(job: Job, recipe: Recipe, todo: Iterable[str], pace: Pace) -> str:
    """Remaining time of a running job, e.g. "about 40 s left", "about 12 s left in this step".

    Args:
        recipe: of the job's run.
        todo: steps of the run that are not current.
        pace: of the recipe's model.
    """
    if job.task != "run":
        left, later = job.eta if job.steps == 1 else study_left(job), 0.0 if job.step == job.task else None
    elif not job.step:  # the worker starts
        total, later = total_seconds(todo, recipe, pace), 0.0
        left = None if total is None else max(total - job.elapsed, 0.0)
    else:
        left = step_left(job, expected_seconds(job.step, recipe, pace))
        place = STEPS.index(job.step)
        later = total_seconds([step for step in todo if STEPS.index(step) > place], recipe, pace)
    if left is None:
        return "time left unknown"
    words = f"about {duration(max(left + (later or 0.0), 1.0))} left"
    return f"{words} in this step" if later is None else words


def step_left(job: Job, expected: float | None) -> float | None:
    """Seconds left in the current step; its own pace replaces the expectation as the step advances."""
    spent, left = time.time() - job.begun[0], job.eta
    if expected is None:
        return left
    if left is None:
        return max(expected - spent, 0.0)
    weight = min(job.fraction / TRUSTED, 1.0)
    return max(weight * (spent + left) + (1 - weight) * expected - spent, 0.0)


def study_left(job: Job) -> float | None:
    """Seconds left in a study, at the pace of its points so far and within its time limit."""
    if not job.step:
        return None
    start, first = job.begun
    spent, done = time.time() - start, job.step_number - first + job.fraction
    known = []
    if job.arguments.get("minutes"):
        known.append(max(60 * float(job.arguments["minutes"]) - spent, 0.0))
    if job.steps and spent > 1 and done > 0.02:
        known.append(spent / done * (job.steps - job.step_number + 1 - job.fraction))
    return min(known, default=None)
