"""A recipe: everything that determines a run, with fingerprints that identify current results."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from nirvana.allocation.budgets import BUDGETS
from nirvana.allocation.rules import FROM_SCORES, METHODS
from nirvana.calibration.corpora.mixture import PLUS, part_names
from nirvana.calibration.tasks import TASKS
from nirvana.compensation import METHODS as COMPENSATIONS
from nirvana.costs import PHASES
from nirvana.errors import CompensationError, CorpusError, ModelError, NirvanaError, PlanError, SaliencyError
from nirvana.evaluation.zero_shot.tasks import MAX_ITEMS
from nirvana.files import json_hash
from nirvana.recovery.options import METHODS as RECOVERIES
from nirvana.recovery.options import RecoveryOptions
from nirvana.saliency.criteria import CRITERIA, available
from nirvana.schema import Extended, Many, Schema, option

STEPS = ("model", "calibration", "saliency", "allocation", "prune", "recover", "evaluate")
DTYPES = ("auto", "float32", "bfloat16", "float16")
WEIGHTS = ("memory", "lazy")
LAST_SEED = 2**63 - 1
CRITERIA_HELP = "; ".join(f"{name}: {criterion.description}" for name, criterion in CRITERIA.items())


class ModelChoice(Schema):
    """The model: a built-in name, hub id, folder or .gguf file, and where it runs."""

    section: ClassVar[str] = "model"
    error: ClassVar[type[NirvanaError]] = ModelError

    name: str = option("smollm2-135m", "--model", "built-in name, hub id, folder or .gguf file")
    device: str = option("auto", "--device", "auto, cpu, cuda, cuda:1 or mps")
    dtype: str = option("auto", "--dtype", "number format of the weights", choices=lambda: DTYPES)
    weights: str = option(
        "memory",
        "--weights",
        "memory, or lazy to leave them on disk and read one block at a time",
        choices=lambda: WEIGHTS,
    )

    @model_serializer(mode="wrap")
    def _without_later_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Older recipes lack `weights`, so the default is left out and their fingerprints are unchanged."""
        data: dict[str, Any] = serialise(self)
        return {name: value for name, value in data.items() if (name, value) != ("weights", "memory")}


class CalibrationChoice(Schema):
    """Calibration text, its windows and, with more than one candidate, the choice by KL.

    The trial prunings have their own sparsity, gamma and criterion, so that the choice does not depend on the
    allocation. `task` is the training task of an encoder-decoder, here and in the evaluation.

    With `alternatives`, KL chooses among `corpus` and these texts, each with `candidates` seeds, and with `mixtures`
    also among their uniform mixtures. `trial_method` and the fields after it are as in `AllocationChoice`.
    """

    section: ClassVar[str] = "calibration"

    corpus: str = option(
        "python-docs",
        "--corpus",
        "calibration text: a name listed by `corpora`, a file, or a uniform mixture, 'first + second'",
        error=CorpusError,
    )
    candidates: int = option(4, "--candidates", "sets of each text to choose from by KL; 1 draws one", ge=1, le=64)
    samples: int = option(32, "--samples", "windows in a calibration set", ge=1, le=4096)
    length: int = option(128, "--length", "tokens in a window", ge=2, le=32_768)
    seed: int = option(0, "--seed", "seed of the calibration sets", ge=0, le=LAST_SEED)
    probe_samples: int = option(16, "--probe-samples", "windows on which KL is measured", ge=1, le=4096)
    probe_length: int = option(512, "--probe-length", "tokens in a probe", ge=2, le=32_768)
    probe_seed: int = option(42, "--probe-seed", "seed of the probes", ge=0, le=LAST_SEED)
    trial_criterion: str = option(
        "nirvana", "--trial-criterion", "criterion of the trial prunings", choices=available, error=SaliencyError
    )
    trial_sparsity: float = option(
        0.2, "--trial-sparsity", "sparsity of the trial prunings", gt=0, lt=1, error=PlanError
    )
    trial_gamma: Extended = option(3.36, "--trial-gamma", "gamma of the trial prunings", ge=0, error=PlanError)
    task: str = option(
        "auto",
        "--task",
        "task of an encoder-decoder",
        choices=lambda: ("auto", *TASKS),
        error=CorpusError,
    )
    alternatives: Many[str] = option(
        (), "--or-corpus", "further text for the choice by KL; may be repeated", error=CorpusError
    )
    mixtures: bool = option(False, "--mixtures", "include uniform mixtures of these texts in the choice by KL")
    trial_method: str = option(
        "shared", "--trial-allocation", "allocation of the trial prunings", choices=lambda: FROM_SCORES, error=PlanError
    )
    trial_protected: Many[int] = option(
        (), "--trial-protect", "layer that the trial prunings keep whole; may be repeated", ge=0, error=PlanError
    )
    trial_normalisation: float = option(
        0.0, "--trial-normalisation", "score normalisation exponent of the trial prunings", ge=0, le=1, error=PlanError
    )

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the texts to choose from."""
        return (self.corpus, *self.alternatives)

    @property
    def trials(self) -> int:
        """Upper bound of the number of trial sets: a mixture that is also one of the texts is tried once."""
        texts = len(self.texts)
        mixed = {1: 0, 2: 1, 3: 4}.get(texts, 1) if self.mixtures else 0
        return self.candidates * (texts + mixed)


class SaliencyChoice(Schema):
    """The criterion, one of `nirvana.saliency.criteria.available()`."""

    section: ClassVar[str] = "saliency"
    error: ClassVar[type[NirvanaError]] = SaliencyError

    criterion: str = option(
        "nirvana", "--criterion", f"criterion that scores the units. {CRITERIA_HELP}", choices=available
    )


class AllocationChoice(Schema):
    """Sparsity and its distribution over layers and modules; see `nirvana.allocate`.

    `method`: "shared" ranks globally and balances attention and MLP by gamma; "published" is the allocation of the
    criterion's authors. `budget`: the sparsity is a share of the parameters, the bytes or, with "latency", the seconds
    of the attention and MLP modules as measured on this machine, for `budget_batch` texts of `budget_length` tokens.
    """

    section: ClassVar[str] = "allocation"
    error: ClassVar[type[NirvanaError]] = PlanError

    sparsity: float = option(0.2, "--sparsity", "share of attention and MLP weights to remove", gt=0, lt=1)
    gamma: Extended = option(3.36, "--gamma", "MLP pruning rate over attention pruning rate, from 0 to inf", ge=0)
    multiple_of: int = option(
        8, "--multiple-of", "MLP widths are multiples of this; 64 or 128 for 4-bit kernels", ge=1, le=65_536
    )
    protected: Many[int] = option((), "--protect", "layer that keeps all its units; may be repeated", ge=0)
    uniform: bool = option(False, "--uniform", "equal widths in all layers")
    method: str = option("shared", "--allocation", "allocation rule", choices=lambda: METHODS)
    normalisation: float = option(0.0, "--normalisation", "score normalisation exponent (0 = off)", ge=0, le=1)
    widths: Many[str] = option(
        (), "--width", "kept units of one site in place of the rule's, e.g. decoder.5.mlp=1344; may be repeated"
    )
    edits: Many[str] = option(
        (),
        "--edit",
        "unit or layer kept or removed by hand, e.g. 'remove decoder.5.mlp.17' or 'keep decoder.3'; may be repeated",
    )
    rounds: int = option(
        1, "--rounds", "rounds of removal, the remaining units scored again before each; 1 for one shot", ge=1, le=16
    )
    budget: str = option(
        "parameters", "--budget", "what the sparsity is a share of; latency is measured time", choices=lambda: BUDGETS
    )
    budget_phase: str = option("prefill", "--budget-phase", "phase of a budget in time", choices=lambda: PHASES)
    budget_batch: int = option(1, "--budget-batch", "texts at once, of a budget in time", ge=1, le=256)
    budget_length: int = option(
        128, "--budget-length", "tokens of the prompt or in the cache, of a budget in time", ge=1, le=32_768
    )

    def check_rounds(self) -> None:
        """Check that the other choices suit the number of rounds.

        Raises:
            PlanError: several rounds have widths of single sites or edits, or normalise scores.
        """
        if self.rounds > 1 and self.widths:
            raise PlanError("Widths of single sites belong to one round.", "Use one round, or leave out the widths.")
        if self.rounds > 1 and self.edits:
            raise PlanError("Edits by hand belong to one round.", "Use one round, or leave out the edits.")
        if self.rounds > 1 and self.normalisation:
            raise PlanError("Several rounds do not normalise scores.", "Use one round, or a normalisation of 0.")

    @property
    def one_round(self) -> dict[str, Any]:
        """The arguments of `nirvana.allocate` for one round, without the curves and costs that it needs."""
        others = ("rounds", "budget_phase", "budget_batch", "budget_length")
        return {name: value for name, value in vars(self).items() if name not in others}

    @property
    def cost_protocol(self) -> dict[str, Any]:
        """Phase, batch and length of a budget in time, as `nirvana.measure_costs` takes them."""
        return {"phase": self.budget_phase, "batch": self.budget_batch, "length": self.budget_length}

    @model_serializer(mode="wrap")
    def _without_later_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that older recipes lack are left out at their defaults, so that fingerprints are unchanged."""
        data: dict[str, Any] = serialise(self)
        later: dict[str, Any] = {"widths": (), "edits": (), "rounds": 1, "budget": "parameters"}
        later |= {"budget_phase": "prefill", "budget_batch": 1, "budget_length": 128}
        return {name: value for name, value in data.items() if later.get(name, ...) != value}


class PruneChoice(Schema):
    """Compensation of the output projections, and its calibration statistics.

    The statistics are of `samples` windows of `length` tokens, drawn with `seed` from the calibration text.
    """

    section: ClassVar[str] = "prune"

    compensation: str = option(
        "none",
        "--compensation",
        "compensation of the output projections",
        choices=lambda: COMPENSATIONS,
        error=CompensationError,
    )
    samples: int = option(96, "--statistics-samples", "windows of the compensation's statistics", ge=1, le=65_536)
    length: int = option(256, "--statistics-length", "tokens in such a window", ge=2, le=32_768)
    seed: int = option(1, "--statistics-seed", "seed of these windows", ge=0, le=LAST_SEED)


class RecoveryChoice(RecoveryOptions):
    """Training of the pruned model, by default none, on `corpus`, by default the calibration text."""

    method: str = option("none", "--recovery", "training after pruning", choices=lambda: ("none", *RECOVERIES))
    corpus: str = option("", "--recovery-corpus", "text to train on, if not the calibration text", error=CorpusError)

    @property
    def options(self) -> RecoveryOptions:
        """The arguments of `nirvana.recover`."""
        return RecoveryOptions(**{name: getattr(self, name) for name in RecoveryOptions.model_fields})


class EvaluationChoice(Schema):
    """Protocol of perplexity, over the evaluation split of each corpus, and zero-shot tasks.

    `zero_shot` names tasks (see `nirvana.evaluation.zero_shot`), measured on their first `zero_shot_items` items; 0 for
    all.
    """

    section: ClassVar[str] = "evaluation"

    corpora: Many[str] = option(
        ("python-docs", "library-docs"), "--evaluate-on", "corpus of the perplexity; may be repeated", error=CorpusError
    )
    window: int = option(512, "--window", "tokens in a window of the perplexity", ge=2, le=131_072)
    max_tokens: int = option(16_384, "--max-tokens", "tokens read of each evaluation corpus", ge=2, le=1 << 30)
    zero_shot: Many[str] = option(
        (), "--zero-shot", "minimal-pairs, a hub task such as piqa, a .jsonl file or folder; may be repeated"
    )
    zero_shot_items: int = option(0, "--zero-shot-items", "items of each task; 0 for all", ge=0, le=MAX_ITEMS)


class Recipe(Schema):
    """One section a step, e.g. `Recipe(allocation=AllocationChoice(sparsity=0.3))`."""

    model: ModelChoice = Field(default_factory=ModelChoice)
    calibration: CalibrationChoice = Field(default_factory=CalibrationChoice)
    saliency: SaliencyChoice = Field(default_factory=SaliencyChoice)
    allocation: AllocationChoice = Field(default_factory=AllocationChoice)
    prune: PruneChoice = Field(default_factory=PruneChoice)
    recovery: RecoveryChoice = Field(default_factory=RecoveryChoice)
    evaluation: EvaluationChoice = Field(default_factory=EvaluationChoice)

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps of the recipe in order; "recover" only where it trains."""
        return tuple(step for step in STEPS if step != "recover" or self.recovery.method != "none")

    def up_to(self, step: str) -> tuple[str, ...]:
        """The recipe's steps up to `step`."""
        return tuple(each for each in self.steps if STEPS.index(each) <= STEPS.index(step))

    def fingerprint(self, step: str) -> str:
        """Hash of all choices that determine the result of `step`."""
        data = self.to_json()
        sections = dict(zip(STEPS, data, strict=True))
        return json_hash({sections[each]: data[sections[each]] for each in self.up_to(step)})

    def change(self, section: str, **values: Any) -> Recipe:
        """A copy with some values of one section changed, e.g. `recipe.change("allocation", gamma=3.0)`.

        Raises:
            NirvanaError: a value has the wrong type or is out of range.
        """
        return self.with_values(**{section: getattr(self, section).with_values(**values)})

    def changed(self) -> dict[str, dict[str, Any]]:
        """Section -> its values other than the defaults, as JSON values; sections without any are left out."""
        default, missing = Recipe().to_json(), object()
        found = {
            section: {name: value for name, value in values.items() if value != default[section].get(name, missing)}
            for section, values in self.to_json().items()
        }
        return {section: values for section, values in found.items() if values}

    def portable(self) -> Recipe:
        """A copy for other machines: file names without their folders."""
        evaluation = {name: tuple(map(_bare, getattr(self.evaluation, name))) for name in ("corpora", "zero_shot")}
        copy = self.change("model", name=_bare(self.model.name)).change("evaluation", **evaluation)
        first, *others = map(_bare, self.calibration.texts)
        copy = copy.change("recovery", corpus=_bare(self.recovery.corpus))
        return copy.change("calibration", corpus=first, alternatives=tuple(others))


SECTIONS: dict[str, type[Schema]] = {
    section.section: section
    for section in (
        ModelChoice,
        CalibrationChoice,
        SaliencyChoice,
        AllocationChoice,
        PruneChoice,
        RecoveryChoice,
        EvaluationChoice,
    )
}


def _bare(name: str) -> str:
    parts = part_names(name)
    if len(parts) > 1:
        return PLUS.join(map(_bare, parts))
    local = (
        name.startswith(("/", "~", "."))
        or "\\" in name
        or PurePath(name).suffix in (".txt", ".json", ".jsonl", ".gguf")
    )
    return PurePath(name.replace("\\", "/")).name if local else name
