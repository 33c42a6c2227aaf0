"""Speed and quality against bytes of a recipe's models and their quantised copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nirvana.evaluation.schemes import SCHEMES
from nirvana.progress import within
from nirvana.schema import Many, Schema, option

if TYPE_CHECKING:
    from nirvana.evaluation.results import Report
    from nirvana.evaluation.speed_report import SpeedReport
    from nirvana.models.lm import LM
    from nirvana.runs.workspace import Workspace

SCHEMES_HELP = "also measure a quantised copy of each model"


class SpeedRequest(Schema):
    """Protocol of the timing, and the quantised copies to include."""

    batch: int = option(1, "--batch", "prompts in a batch", ge=1, le=256)
    prompt: int = option(128, "--prompt", "tokens of each prompt", ge=1, le=32_768)
    new_tokens: int = option(32, "--new-tokens", "tokens to generate after it", ge=2, le=4_096)
    repeats: int = option(5, "--repeats", "turns of each model", ge=1, le=50)
    schemes: Many[str] = option((), "--quantised", SCHEMES_HELP, choices=lambda: SCHEMES)

    @property
    def protocol(self) -> dict[str, int]:
        """The arguments of `measure_speed`."""
        return {name: getattr(self, name) for name in ("batch", "prompt", "new_tokens", "repeats")}


SPEED = SpeedRequest()


class SizesRequest(Schema):
    """The quantised copies to include."""

    schemes: Many[str] = option(tuple(SCHEMES), "--quantised", SCHEMES_HELP, choices=lambda: SCHEMES)


def measure_speeds(workspace: Workspace, request: SpeedRequest = SPEED) -> SpeedReport:
    """`measure_speed` of the dense and the pruned model, and of a quantised copy of each for every scheme.

    A recovered model has the pruned one's shape, and so its speed.

    Raises:
        ModelError: see `nirvana.measure_speed` and `nirvana.quantise`.
    """
    from nirvana.evaluation.quantisation import quantise
    from nirvana.evaluation.speed import measure_speed

    progress, subjects = workspace.progress, {"dense": workspace.lm, "pruned": workspace.pruned()}
    copies: dict[str, LM] = {}
    try:
        for scheme in request.schemes:
            for name, lm in subjects.items():
                copies[f"{name} {scheme}"] = quantise(lm, scheme, progress=within(progress, name, 0, 1))
        return measure_speed({**subjects, **copies}, progress=progress, **request.protocol)
    finally:
        for copy in copies.values():
            copy.unload()


def quality_against_bytes(workspace: Workspace, schemes: Sequence[str] = tuple(SCHEMES)) -> Report:
    """Bytes of the weights, and perplexity on the recipe's first evaluation corpus: of each model, and of quantised
    copies of each.

    Subjects are "dense", "pruned", "dense int8", "pruned int8" and so on; one quantised copy is in memory at a time.

    Raises:
        ModelError: see `nirvana.quantise`.
        CorpusError: see `nirvana.perplexity`.
    """
    from nirvana.evaluation.quantisation import quantise
    from nirvana.evaluation.results import Report
    from nirvana.runs.measurements import measure

    recipe, progress = workspace.recipe, workspace.progress
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
