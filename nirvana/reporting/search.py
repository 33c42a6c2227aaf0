"""A search in words, and its trials as a table."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nirvana.options import words as option_list
from nirvana.runs.describe import ALLOCATIONS, COMPENSATIONS, compensation, percent, plan_setting, short_text
from nirvana.runs.options import option_words
from nirvana.runs.recipe import Recipe, RecoveryChoice
from nirvana.saliency.criteria import CRITERIA
from nirvana.studies.search import SearchRequest
from nirvana.studies.search_space import Choices
from nirvana.studies.search_trials import Trial

if TYPE_CHECKING:
    import pandas as pd

CHOICES = {  # column -> heading
    "criterion": "Criterion",
    "allocation": "Allocation",
    "gamma": "gamma",
    "normalisation": "Normalisation",
    "text": "Calibration text",
    "seed": "Calibration seed",
    "compensation": "Compensation",
    "protected": "Protected layers",
}


def describe(choices: Choices) -> str:
    """E.g. "taylor, gamma 4, least squares, on python-docs, seed 0, first 2 layers protected"."""
    found = [choices.criterion, *([] if choices.method == "shared" else [ALLOCATIONS[choices.method]])]
    found += plan_setting(choices.criterion, choices.method, choices.gamma, choices.normalisation)
    found += compensation(choices.compensation)
    found += [f"on {short_text(choices.corpus)}", f"seed {choices.seed}"]
    ends = [
        f"{name} {count} layer{'s' * (count > 1)}"
        for name, count in (("first", choices.first), ("last", choices.last))
        if count
    ]
    return ", ".join([*found, *([f"{' and '.join(ends)} protected"] if ends else [])])


def trials_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """A row for each successful trial, in the given order: choices, KL, perplexities, sparsity, seconds.

    Gamma and normalisation are NaN where the allocation does not use them.
    """
    import pandas as pd

    rows = []
    for trial in trials:
        if trial.failure:
            continue
        chosen = trial.choices
        shared = chosen.method == "shared"
        row = {
            "trial": trial.number + 1,
            "KL": trial.kl,
            "KL error": trial.kl_error,
            "criterion": CRITERIA[chosen.criterion].title,
            "allocation": f"{chosen.method} allocation",
            "gamma": chosen.gamma if shared else math.nan,
            "normalisation": chosen.normalisation if shared else math.nan,
            "text": short_text(chosen.corpus),
            "seed": str(chosen.seed),
            "compensation": COMPENSATIONS[chosen.compensation],
            "protected": f"first {chosen.first}, last {chosen.last}" if chosen.first + chosen.last else "none",
        }
        row |= {f"perplexity, {short_text(name)}": value for name, (value, _) in trial.perplexity.items()}
        rows.append(row | {"sparsity": trial.sparsity, "seconds": trial.seconds})
    return pd.DataFrame(rows)


def protocol_words(settings: Mapping[str, Any], label: Callable[[str], str]) -> str:
    """The protocol of a search; `label` names a text."""
    probe, read = settings["probe"], settings["perplexity"]
    return (
        f"KL on {probe['samples']} x {probe['length']} probe tokens, uniformly from "
        f"{', '.join(map(label, settings['corpora']))}; perplexity on at most {read['max_tokens']:,} tokens of each "
        f"probe split, windows of {read['window']}; {percent(settings['sparsity'])} removed; "
        f"{settings['dtype'].removeprefix('torch.')} on {settings['device']}."
    )


def python_code(recipe: Recipe, request: SearchRequest) -> str:
    """A script for the search with the task's arguments `asked`, around `recipe`."""
    kept = _around(recipe)
    changes = [
        f'.change("{section}", {", ".join(f"{name}={value!r}" for name, value in values.items())})'
        for section, values in kept.items()
    ]
    model = recipe.model
    place = "".join(
        f", {name}={value!r}" for name, value in model.to_json().items() if name != "name" and value != "auto"
    )
    default = SearchRequest()
    more = {
        name: getattr(request, name)
        for name in ("criteria", "methods", "seed")
        if getattr(request, name) != getattr(default, name)
    }
    words = "".join(f", {name}={value!r}" for name, value in more.items())
    return "\n".join(
        [
            "import nirvana as nv",
            "",
            f"lm = nv.load_model({model.name!r}{place})",
            f"base = nv.Recipe(){''.join(changes)}",
            f"corpora = {list(request.corpora)!r}",
            f"found = nv.tune(lm, corpora, {request.sparsity:g}, minutes={request.minutes:g}{words}, base=base)",
            "for trial in found.trials[:5]:",
            "    print(trial.kl, trial.perplexity, trial.choices)",
            "print(found.correlation())",
            'nv.save(found.best, "tuned")',
            "",
        ]
    )


def command_line(recipe: Recipe, request: SearchRequest) -> str:
    """The equivalent shell command, which writes the best recipe."""
    base = Recipe().with_values(model=recipe.model, recovery=recipe.recovery)
    words = ["nirvana", "tune", *option_words(base, ("--model",))]
    flags = {"samples": "--samples", "length": "--length", "task": "--task"}
    for section, values in _around(recipe).items():
        for name, value in values.items() if section != "recovery" else ():
            words += [flags[name] if section == "calibration" else f"--statistics-{name}", str(value)]
    words += option_list(request, ("--sparsity", "--minutes"))
    return shlex.join([*words, "--output", "best.json"])


def _around(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Section -> values that a search takes from a recipe, besides the model."""
    calibration, prune = recipe.calibration, recipe.prune
    kept: dict[str, dict[str, Any]] = {"calibration": {"samples": calibration.samples, "length": calibration.length}}
    if calibration.task != "auto":
        kept["calibration"]["task"] = calibration.task
    kept["prune"] = {"samples": prune.samples, "length": prune.length, "seed": prune.seed}
    default = vars(RecoveryChoice())
    trained = {name: value for name, value in vars(recipe.recovery).items() if value != default[name]}
    return kept | ({"recovery": trained} if "recover" in recipe.steps else {})
