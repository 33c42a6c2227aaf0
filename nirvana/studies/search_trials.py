"""Trials of a search and their journal. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nirvana.runs.recipe import Recipe
from nirvana.saliency.agreement import rank_correlation
from nirvana.studies.journal import Journal
from nirvana.studies.search_space import Choices

FILE = "tuning.jsonl"
FEWEST = 4  # fewest trials of a correlation


@dataclass(frozen=True)
class Trial:
    """One pruned model of a search.

    Attributes:
        number: in the order of the search, from 0.
        kl: mean KL( dense || pruned ) on the probes in nats, with `kl_error`, its standard error; NaN where it failed.
        perplexity: text -> [value, standard error] on its probe split.
        sparsity: achieved.
        seconds: duration of the trial.
        failure: error of a failed trial; else empty.
        model: identity of the pruned model, equal for trials of other choices that give the same model.
    """

    number: int
    choices: Choices
    kl: float = math.nan
    kl_error: float = math.nan
    perplexity: dict[str, list[float]] = field(default_factory=dict)
    sparsity: float = math.nan
    seconds: float = 0.0
    failure: str = ""
    model: str = ""

    def to_json(self) -> dict[str, Any]:
        return {name: None if value != value else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        numbers = {name: math.nan if data[name] is None else data[name] for name in ("kl", "kl_error", "sparsity")}
        return cls(**{**data, **numbers, "choices": Choices.from_json(data["choices"])})


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Successful trials, the lowest KL first."""
    return sorted((trial for trial in trials if not trial.failure), key=lambda trial: (trial.kl, trial.number))


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of KL and perplexity over `n` models; NaN for too few of them."""

    value: float
    n: int


def correlation(trials: Sequence[Trial]) -> Correlation:
    """Spearman correlation of KL with geometric-mean perplexity over the texts, high according to the paper."""
    measured = [trial for trial in trials if not trial.failure and trial.perplexity]
    found = list({trial.model or trial.number: trial for trial in measured}.values())
    if len(found) < FEWEST:
        return Correlation(math.nan, len(found))
    pairs = np.array([(trial.kl, mean_perplexity(trial)) for trial in found])
    return Correlation(rank_correlation(*pairs.T), len(found))


def mean_perplexity(trial: Trial) -> float:
    """The geometric mean over the texts."""
    return float(np.exp(np.mean([math.log(value) for value, _ in trial.perplexity.values()])))


def recipe_of(settings: Mapping[str, Any], choices: Choices) -> Recipe:
    """The recipe of a trial, from the settings of its search."""
    return choices.recipe(Recipe.from_json(settings["base"]), settings["sparsity"], settings["layers"])


def read_trials(folder: Path) -> tuple[dict[str, Any] | None, list[Trial]]:
    """Settings of the last search of a run's folder, and its trials so far; None without a search."""
    return Journal(folder / FILE).last(Trial.from_json)
