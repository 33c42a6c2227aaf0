"""Sampler of the search: the next point after the trials so far. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nirvana.studies.search_space import Choices, Space
from nirvana.studies.search_trials import Trial, ranked

STARTUP = 8  # random trials before the sampler uses earlier results
NEW_SCORES = 4  # only every so many trials computes new scores or loss curves, which take longest
ATTEMPTS = 24  # to find an untried point


def suggest(
    space: Space,
    done: Sequence[Trial],
    seed: int,
    is_possible: Callable[[Choices], bool] = lambda choices: True,
    running: Sequence[Choices] = (),
) -> Choices | None:
    """The next point, determined by trials and seed; None where no new point is found.

    Scores and loss curves take longest, so only some trials use a new text, seed or criterion; see `_reusing`. Points
    that are `running` count as bad until they are measured, so that the next one is elsewhere.
    """
    first = space.first()
    tried, begun = {*(trial.choices for trial in done), *running}, len(done) + len(running)
    for choices in first:
        if choices not in tried:
            return choices
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = space.distributions()
    drawn = seed + 7919 * begun
    sampler: Any = optuna.samplers.TPESampler(seed=drawn, n_startup_trials=STARTUP, constant_liar=bool(running))
    study = optuna.create_study(sampler=sampler)
    for trial in done:
        if not trial.failure:
            params = space.params(trial.choices)
            used = {name: distributions[name] for name in params}
            study.add_trial(create_trial(state=TrialState.COMPLETE, params=params, distributions=used, value=trial.kl))
    for choices in running:
        params = space.params(choices)
        used = {name: distributions[name] for name in params}
        study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=used))
    good = ranked(done)
    for _ in range(ATTEMPTS):
        params = study.ask(distributions).params
        choices = Choices(**params | {"gamma": space.inside(round(params["gamma"], 2))})
        if begun % NEW_SCORES and good:
            choices = _reusing(choices, [trial.choices for trial in good])
        choices = choices.canonical
        if not is_possible(choices):
            choices = replace(choices, first=0, last=0)
        if choices not in tried and is_possible(choices):
            return choices
    return None


def _reusing(choices: Choices, known: Sequence[Choices]) -> Choices:
    """The point with the scores of one of `known`, best first: the first with its criterion, or else the first.

    The measured allocation takes the scores of a point that has measured their loss curves; before there is one, the
    shared allocation replaces it.
    """
    if choices.method == "measured":
        known = [each for each in known if each.method == "measured"] or known
        choices = replace(choices, method=known[0].method)
    like = next((each for each in known if each.criterion == choices.criterion), known[0])
    return replace(choices, criterion=like.criterion, corpus=like.corpus, seed=like.seed)
