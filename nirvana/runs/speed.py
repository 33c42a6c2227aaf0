"""Speed of a recipe's models, and their quality against their bytes, quantised copies included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nirvana.errors import RunError
from nirvana.evaluation.schemes import SCHEMES
from nirvana.progress import within
from nirvana.runs.run import Run

if TYPE_CHECKING:
    from nirvana.evaluation.results import Report
    from nirvana.evaluation.speed_report import SpeedReport
    from nirvana.models.lm import LM
    from nirvana.runs.workspace import Workspace

SPEED: dict[str, Any] = {"batch": 1, "prompt": 128, "new_tokens": 32, "repeats": 5, "schemes": []}
SIZES: dict[str, Any] = {"schemes": list(SCHEMES)}
RANGES = {"batch": (1, 256), "prompt": (1, 32_768), "new_tokens": (2, 4_096), "repeats": (1, 50)}


def measure_speeds(workspace: Workspace, *, schemes: Sequence[str] = (), **protocol: int) -> SpeedReport:
    """`measure_speed` of both models, and of a quantised copy of each for every scheme.

    Raises:
        ModelError: see `nirvana.measure_speed` and `nirvana.quantise`.
    """
    from nirvana.evaluation.quantisation import quantise
    from nirvana.evaluation.speed import measure_speed

    progress, subjects = workspace.progress, workspace.subjects()
    copies: dict[str, LM] = {}
    try:
        for scheme in schemes:
            for name, lm in subjects.items():
                copies[f"{name} {scheme}"] = quantise(lm, scheme, progress=within(progress, name, 0, 1))
        return measure_speed({**subjects, **copies}, progress=progress, **protocol)
    finally:
        for copy in copies.values():
            copy.unload()


def quality_against_bytes(workspace: Workspace, *, schemes: Sequence[str] = tuple(SCHEMES)) -> Report:
    """Bytes of the weights, and perplexity on the recipe's first evaluation corpus: dense, pruned, and both quantised.

    A pruned model competes with a quantised dense one for the same bytes, and the two can be combined. Subjects are
    "dense", "pruned", "dense int8", "pruned int8" and so on; one quantised copy is in memory at a time.

    Raises:
        RunError: the recipe names no corpus to measure on.
        ModelError: see `nirvana.quantise`.
        CorpusError: see `nirvana.perplexity`.
    """
    from nirvana.evaluation.quantisation import quantise
    from nirvana.evaluation.results import Report
    from nirvana.runs.measurements import measure

    recipe, progress = workspace.recipe, workspace.progress
    if not recipe.evaluation.corpora:
        raise RunError("There is no text to measure perplexity on.", "Choose one on the Compare page.")
    name = recipe.evaluation.corpora[0]
    choice, task = recipe.evaluation.with_values(corpora=(name,), zero_shot=()), recipe.calibration.task
    corpora, subjects = {name: workspace.corpus(name)}, workspace.subjects()
    variants = [(subject, scheme) for scheme in ("", *schemes) for subject in subjects]
    found = []
    for part, (subject, scheme) in enumerate(variants):
        label = f"{subject} {scheme}".strip()
        nested = within(progress, label, part, len(variants))
        lm = quantise(subjects[subject], scheme, progress=within(nested, "Weights", 0, 2)) if scheme else None
        try:
            reading = within(nested, "Text", 1, 2) if scheme else nested
            found += measure({label: lm or subjects[subject]}, corpora, choice, None, reading, task=task)
        finally:
            if lm is not None:
                lm.unload()
    return Report(tuple(found))


def check_schemes(schemes: Any) -> None:
    """Raises: RunError, unless it is a list of quantisation schemes."""
    if not isinstance(schemes, list | tuple) or any(scheme not in SCHEMES for scheme in schemes):
        raise RunError(f"Quantisations are a list of {', '.join(SCHEMES)}.", "Correct it.")


def check_speed(run: Run, schemes: Any, **protocol: Any) -> None:
    """Refuse what cannot be timed.

    Raises:
        RunError: a number is out of range, or the text is longer than the model's positions.
    """
    check_schemes(schemes)
    for name, value in protocol.items():
        low, high = RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise RunError(f"{name} is a whole number from {low} to {high:,}.", "Correct it.")
    card, length = run.model(), protocol["prompt"] + protocol["new_tokens"]
    positions = card.geometry.get("positions", length) if card else length
    if length > positions:
        raise RunError(
            f"{length:,} tokens are more than the model's {positions:,} positions.",
            "Use a shorter prompt, or fewer new tokens.",
        )
