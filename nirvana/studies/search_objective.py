"""Objective of the search: KL on probes of all texts, and perplexity on their probe splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

import numpy as np

from nirvana.allocation.allocate import reachable_sparsity
from nirvana.allocation.constraints import out_of_reach
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.registry import mix
from nirvana.calibration.sampling import sample_probe
from nirvana.errors import PlanError
from nirvana.evaluation.divergence import divergence
from nirvana.evaluation.perplexity import check_text, perplexity
from nirvana.files import json_hash
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, report, within
from nirvana.runs.model_cache import ModelCache, cache_fields
from nirvana.runs.recipe import EvaluationChoice, Recipe, RecoveryChoice
from nirvana.runs.validation import check_reachable
from nirvana.runs.workspace import Workspace
from nirvana.studies.journal import as_read_back
from nirvana.studies.search_space import METHODS, Choices, Space
from nirvana.studies.search_trials import Trial

PROBES, PROBE_LENGTH, PROBE_SEED = 64, 64, 42
WINDOW, TOKENS = 512, 2_048  # of the perplexity, tokens of each text at most
GAMMA_STEPS = 49  # at which the reachable sparsity is computed
PARTS = 4  # scores, pruning, KL, perplexity


class Objective:
    """Measures trials of one model; holds texts, probes, scores, and the last statistics.

    `known` maps `Trial.model` to the trial that measured the model.

    Raises:
        CorpusError: a text is not found or too short for its samples or probes.
    """

    def __init__(
        self,
        lm: LM,
        texts: Mapping[str, str | PathLike[str] | Corpus],
        space: Space,
        sparsity: float,
        base: Recipe,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.lm, self.sparsity = lm, sparsity
        self.base = base.change("model", name=lm.source.name)
        self._workspace = Workspace(self.base, lm=lm, progress=progress)
        self.costs = self._workspace.costs()
        self.parts = {
            name: text if isinstance(text, Corpus) else self._workspace.corpus(fspath(text))
            for name, text in texts.items()
        }
        mixtures = {name: mix([self.parts[part] for part in parts]) for name, parts in space.mixtures.items()}
        self._workspace.corpora |= self.parts | mixtures
        whole = [*self.parts.values(), *mixtures.values()][-1]
        task = self.base.calibration.task
        self.probe = sample_probe(lm, whole, samples=PROBES, length=PROBE_LENGTH, seed=PROBE_SEED, task=task)
        self.layers = list(dict.fromkeys(site.layer for site in lm.layout))
        self.window = min(WINDOW, lm.family.geometry(lm.settings).get("positions", WINDOW))
        for corpus in self.parts.values():
            check_text(lm, corpus.split("probe"), window=self.window)
        apart = {"evaluation": EvaluationChoice(), "recovery": RecoveryChoice()}  # which no trial depends on
        settings = {
            "corpora": {name: corpus.hash for name, corpus in self.parts.items()},
            "criteria": list(space.criteria),
            "sparsity": sparsity,
            "base": self.base.with_values(**apart).to_json(),
            "layers": self.layers,
            "probe": {"samples": PROBES, "length": PROBE_LENGTH, "seed": PROBE_SEED, "hash": self.probe.hash},
            "perplexity": {"split": "probe", "window": self.window, "max_tokens": TOKENS},
            **cache_fields(lm),
        }
        if space.methods != METHODS[:1]:  # searches before there was a choice had the shared allocation
            settings["methods"] = list(space.methods)
        self.settings: dict[str, Any] = as_read_back(settings)
        self.known: dict[str, Trial] = {}

    def recipe(self, choices: Choices) -> Recipe:
        """The complete recipe of a point."""
        return choices.recipe(self.base, self.sparsity, self.layers)

    def is_possible(self, choices: Choices) -> bool:
        """Whether the sparsity is reachable with this allocation, this gamma and these protected layers."""
        try:
            check_reachable(self.recipe(choices).allocation, choices.criterion, self.lm.layout, self.costs)
        except PlanError:
            return False
        return True

    def gammas(self, space: Space) -> tuple[float, float]:
        """The lowest and the highest gamma of the space with a reachable sparsity, without protected layers.

        Where only the measured allocation reaches it, or is searched, the gammas are those of the space.

        Raises:
            PlanError: the sparsity is out of reach of every allocation.
        """
        base = self.base.allocation
        fixed: dict[str, Any] = {"multiple_of": base.multiple_of, "uniform": base.uniform}
        fixed |= {"budget": base.budget, "costs": self.costs}
        measured = (
            reachable_sparsity(self.lm.layout, method="measured", **fixed) if "measured" in space.methods else 0.0
        )
        tried = [round(float(gamma), 2) for gamma in np.geomspace(*space.gammas, GAMMA_STEPS)]
        limits = {gamma: reachable_sparsity(self.lm.layout, gamma=gamma, **fixed) for gamma in tried}
        fitting = [gamma for gamma, limit in limits.items() if limit >= self.sparsity]
        if fitting and "shared" in space.methods:
            return fitting[0], fitting[-1]
        if measured >= self.sparsity:
            return space.gammas
        raise out_of_reach(self.sparsity, measured or max(limits.values()))

    def measure(self, number: int, choices: Choices, progress: ProgressCallback | None) -> Trial:
        """One trial. No model is measured twice.

        Raises:
            NirvanaError: the choices cannot be met.
        """
        report(progress, "Scores", 0, PARTS)  # at once: a known model has no other progress
        recipe = self.recipe(choices)
        check_reachable(recipe.allocation, choices.criterion, self.lm.layout, self.costs)
        workspace = self._workspace.variant(recipe)
        plan = workspace.plan(within(progress, "Scores", 0, PARTS))
        model = _model_key(recipe, plan)
        if model in self.known:
            return replace(self.known[model], number=number, choices=choices)
        small = workspace.pruned(within(progress, "Pruning", 1, PARTS))
        reference, comparing = self._workspace.reference(self.probe), within(progress, "KL", 2, PARTS)
        found = divergence(self.lm, small, self.probe, reference=reference, progress=comparing)
        read = self._perplexities(small, within(progress, "Perplexity", 3, PARTS))
        trial = Trial(number, choices, found.mean, found.standard_error, read, plan.achieved, model=model)
        self.known[model] = trial
        return trial

    def release(self) -> None:
        """Release the memory of models, scores and statistics; they are computed again on demand."""
        self._workspace.clear()

    def prune(self, recipe: Recipe) -> LM:
        """The pruned model of a recipe, owned by the caller."""
        small = self._workspace.variant(recipe).pruned()
        self._workspace.models = ModelCache()  # it would unload the model with the next one
        return small

    def _perplexities(self, small: LM, progress: ProgressCallback | None) -> dict[str, list[float]]:
        found, task = {}, self.base.calibration.task
        for part, (name, corpus) in enumerate(self.parts.items()):
            reading = within(progress, name, part, len(self.parts))
            split = corpus.split("probe")
            got = perplexity(small, split, window=self.window, max_tokens=TOKENS, task=task, progress=reading)
            found[name] = [got.value, got.standard_error]
        return found


def _model_key(recipe: Recipe, plan: PruningPlan) -> str:
    """Identity of a pruned model within one search: the kept units, and the compensation with its text."""
    kept = {site.key: units.tolist() for site, units in plan.items()}
    text = recipe.calibration.corpus if recipe.prune.compensation != "none" else ""
    return json_hash([kept, recipe.prune.compensation, text])[:16]
