"""A recipe: everything that determines a run, and the fingerprints that say which results still hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any, get_type_hints

from nirvana.calibration.corpora.mixture import PLUS, part_names
from nirvana.errors import RunError
from nirvana.files import json_hash

STEPS = ("model", "calibration", "saliency", "allocation", "prune", "evaluate")


@dataclass(frozen=True)
class ModelChoice:
    """`name`: a built-in name, hub id, folder or .gguf file."""

    name: str = "smollm2-135m"
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class CalibrationChoice:
    """How calibration text is drawn and, with more than one candidate, chosen by KL.

    The sparsity, gamma and criterion of the trial prunings are fixed here, so that moving the allocation sliders
    afterwards does not ask for a new choice. `task` is what an encoder-decoder is asked about the text, here and in
    the comparison: "auto" or one of `nirvana.calibration.tasks.TASKS`.

    With `alternatives`, KL chooses among `corpus` and those texts, each with `candidates` seeds, and with `mixtures`
    among these in equal shares too. `trial_method` and what follows it are as in `AllocationChoice`.
    """

    corpus: str = "python-docs"
    candidates: int = 4
    samples: int = 32
    length: int = 128
    seed: int = 0
    probe_samples: int = 128
    probe_length: int = 64
    probe_seed: int = 42
    trial_criterion: str = "nirvana"
    trial_sparsity: float = 0.2
    trial_gamma: float = 3.36
    task: str = "auto"
    alternatives: tuple[str, ...] = ()
    mixtures: bool = False
    trial_method: str = "shared"
    trial_protected: tuple[int, ...] = ()
    trial_normalisation: float = 0.0

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the texts to choose from."""
        return (self.corpus, *self.alternatives)

    @property
    def trials(self) -> int:
        """How many sets are tried, at most: a mixture that is among the texts already is not tried twice."""
        texts = len(self.texts)
        mixed = {1: 0, 2: 1, 3: 4}.get(texts, 1) if self.mixtures else 0
        return self.candidates * (texts + mixed)


@dataclass(frozen=True)
class SaliencyChoice:
    """`criterion`: one of `nirvana.saliency.available()`."""

    criterion: str = "nirvana"


@dataclass(frozen=True)
class AllocationChoice:
    """`protected`: original indices of layers that keep all their units. `uniform`: equal widths in all layers.

    `method`: "shared" ranks globally and balances attention and MLP by gamma; "published" is what the criterion's
    authors do. `normalisation`: how far layers' scores are brought to the same mean before (see `allocate`).
    """

    sparsity: float = 0.2
    gamma: float = 3.36
    multiple_of: int = 8
    protected: tuple[int, ...] = ()
    uniform: bool = False
    method: str = "shared"
    normalisation: float = 0.0


@dataclass(frozen=True)
class PruneChoice:
    """How the output projections make up for what goes: "none", "bias" or "least_squares".

    The statistics that this takes are of `samples` windows of `length` tokens, drawn with `seed` from the calibration
    text.
    """

    compensation: str = "none"
    samples: int = 96
    length: int = 256
    seed: int = 1


@dataclass(frozen=True)
class EvaluationChoice:
    """Perplexity protocol, over the evaluation split of each corpus, and zero-shot tasks.

    `zero_shot` names tasks (see `nirvana.evaluation.zero_shot`), of each of which the first `zero_shot_items` items are
    asked; 0 asks all.
    """

    corpora: tuple[str, ...] = ("python-docs", "library-docs")
    window: int = 512
    max_tokens: int = 16_384
    zero_shot: tuple[str, ...] = ()
    zero_shot_items: int = 0


@dataclass(frozen=True)
class Recipe:
    """One section a step, e.g. `Recipe(allocation=AllocationChoice(sparsity=0.3))`."""

    model: ModelChoice = field(default_factory=ModelChoice)
    calibration: CalibrationChoice = field(default_factory=CalibrationChoice)
    saliency: SaliencyChoice = field(default_factory=SaliencyChoice)
    allocation: AllocationChoice = field(default_factory=AllocationChoice)
    prune: PruneChoice = field(default_factory=PruneChoice)
    evaluation: EvaluationChoice = field(default_factory=EvaluationChoice)

    def fingerprint(self, step: str) -> str:
        """Hash of every choice that the result of `step` depends on; equal fingerprints, equal results."""
        sections = {
            "model": ("model",),
            "calibration": ("model", "calibration"),
            "saliency": ("model", "calibration", "saliency"),
            "allocation": ("model", "calibration", "saliency", "allocation"),
            "prune": ("model", "calibration", "saliency", "allocation", "prune"),
            "evaluate": ("model", "calibration", "saliency", "allocation", "prune", "evaluation"),
        }[step]
        data = self.to_json()
        return json_hash({section: data[section] for section in sections})

    def change(self, section: str, **values: Any) -> Recipe:
        """A copy with some values of one section changed, e.g. `recipe.change("allocation", gamma=3.0)`."""
        return replace(self, **{section: replace(getattr(self, section), **values)})

    def portable(self) -> Recipe:
        """A copy to hand on: files are named without the folders that they lie in here."""
        evaluation = {name: tuple(map(_bare, getattr(self.evaluation, name))) for name in ("corpora", "zero_shot")}
        copy = self.change("model", name=_bare(self.model.name)).change("evaluation", **evaluation)
        first, *others = map(_bare, self.calibration.texts)
        return copy.change("calibration", corpus=first, alternatives=tuple(others))

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        for section, name in (("calibration", "trial_gamma"), ("allocation", "gamma")):
            if math.isinf(data[section][name]):
                data[section][name] = "inf"
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """Read a recipe; sections and values that are left out take their defaults.

        Raises:
            RunError: a section or value is unknown or has the wrong type.
        """
        if not isinstance(data, Mapping):
            raise RunError("A recipe must be an object.", "See the recipe format in the README.")
        types = get_type_hints(cls)
        unknown = set(data) - set(types)
        if unknown:
            raise RunError(
                f"Unknown recipe section: {', '.join(sorted(unknown))}.", f"Sections are {', '.join(types)}."
            )
        return cls(**{name: _section(types[name], name, values) for name, values in data.items()})


def _bare(name: str) -> str:
    parts = part_names(name)
    if len(parts) > 1:
        return PLUS.join(map(_bare, parts))
    local = name.startswith(("/", "~", ".")) or "\\" in name or PurePath(name).suffix in (".txt", ".jsonl", ".gguf")
    return PurePath(name.replace("\\", "/")).name if local else name


def _section(kind: type, name: str, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise RunError(f"Recipe section {name} must be an object.", "See the recipe format in the README.")
    types = get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind)]
    unknown = set(values) - set(names)
    if unknown:
        raise RunError(f"Unknown value in {name}: {', '.join(sorted(unknown))}.", f"Values are {', '.join(names)}.")
    return kind(**{key: _convert(types[key], f"{name}.{key}", value) for key, value in values.items()})


def _convert(kind: Any, name: str, value: Any) -> Any:
    words = "a list" if str(kind).startswith("tuple") else f"of type {kind.__name__}"
    wrong = RunError(f"{name} must be {words}, not {value!r}.", "Correct the recipe.")
    if kind is float and (value == "inf" or (isinstance(value, int | float) and not isinstance(value, bool))):
        return float(value)
    if kind in (int, str, bool) and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    if str(kind).startswith("tuple") and isinstance(value, list | tuple):
        item = kind.__args__[0]
        if all(isinstance(entry, item) and not isinstance(entry, bool) for entry in value):
            return tuple(value)
    raise wrong
