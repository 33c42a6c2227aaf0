"""A search in words and as a table: no streamlit, so that the command line can say the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nirvana.calibration.corpora.mixture import PLUS, part_names
from nirvana.saliency import CRITERIA
from nirvana.tuning.choices import Choices
from nirvana.tuning.trials import Trial

COMPENSATIONS = {"none": "no compensation", "bias": "bias", "least_squares": "least squares"}
CHOICES = {  # column -> heading
    "criterion": "Criterion",
    "gamma": "gamma",
    "normalisation": "Normalisation",
    "text": "Calibration text",
    "seed": "Calibration seed",
    "compensation": "Compensation",
    "protected": "Protected layers",
}


def short_text(name: str) -> str:
    """A corpus without folders, each part of a mixture."""
    return PLUS.join(Path(part).name.removeprefix("upload:") for part in part_names(name))


def describe(choices: Choices) -> str:
    """E.g. "Taylor (LLM-Pruner), gamma 4, least squares, on python-docs, seed 0, first 2 layers protected"."""
    found = [CRITERIA[choices.criterion].title, f"gamma {choices.gamma:g}"]
    if choices.normalisation:
        found.append(f"normalisation {choices.normalisation:g}")
    found += [COMPENSATIONS[choices.compensation], f"on {short_text(choices.corpus)}", f"seed {choices.seed}"]
    ends = [
        f"{name} {count} layer{'s' * (count > 1)}"
        for name, count in (("first", choices.first), ("last", choices.last))
        if count
    ]
    return ", ".join([*found, *([f"{' and '.join(ends)} protected"] if ends else [])])


def trials_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """A row for each trial that gave a model, in the order given: choices, KL, perplexities, sparsity, seconds."""
    rows = []
    for trial in trials:
        if trial.failure:
            continue
        chosen = trial.choices
        row = {
            "trial": trial.number + 1,
            "KL": trial.kl,
            "KL error": trial.kl_error,
            "criterion": CRITERIA[chosen.criterion].title,
            "gamma": chosen.gamma,
            "normalisation": chosen.normalisation,
            "text": short_text(chosen.corpus),
            "seed": str(chosen.seed),
            "compensation": COMPENSATIONS[chosen.compensation],
            "protected": f"first {chosen.first}, last {chosen.last}" if chosen.first + chosen.last else "none",
        }
        row |= {f"perplexity, {short_text(name)}": value for name, (value, _) in trial.perplexity.items()}
        rows.append(row | {"sparsity": trial.sparsity, "seconds": trial.seconds})
    return pd.DataFrame(rows)
