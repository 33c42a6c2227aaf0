"""Measurements of the evaluate step. Each is cached by its inputs, so the dense model is measured once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.sets import CalibrationSet
from nirvana.calibration.tasks import task_of
from nirvana.evaluation.divergence import DenseReference, divergence
from nirvana.evaluation.perplexity import perplexity
from nirvana.evaluation.results import Measurement, Report, pack_parts
from nirvana.evaluation.zero_shot import results as accuracies
from nirvana.evaluation.zero_shot.tasks import LocalTask, find_tasks, harness_version
from nirvana.files import parse_json
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, within
from nirvana.runs.continuation import continue_with
from nirvana.runs.model_cache import cache_fields, placement
from nirvana.runs.recipe import EvaluationChoice
from nirvana.runs.run import Run
from nirvana.runs.step_cache import cache_key, through_cache

if TYPE_CHECKING:
    from nirvana.runs.workspace import Workspace

PROMPT, NEW_TOKENS = "A function in Python is defined with", 48


def evaluate(workspace: Workspace) -> Report:
    """All measurements of all models; with a run, also a first continuation of one prompt by each.

    Points of a study get no continuation, which would take longer than the measurements.
    """
    choice, task, progress = workspace.recipe.evaluation, workspace.recipe.calibration.task, workspace.progress
    subjects, corpora, probe = workspace.subjects(), workspace.evaluation_texts(), workspace.probe()
    parts = len(subjects) * (len(corpora) + len(choice.zero_shot) + 1)
    measured = measure(subjects, corpora, choice, probe, progress, task=task, parts=parts)
    run = workspace.run
    if run is not None and not run.study:
        _continue(run, subjects, within(progress, "Continuation", parts - 1, parts))
    return Report(tuple(measured))


def measure(
    subjects: Mapping[str, LM],
    corpora: Mapping[str, Corpus],
    choice: EvaluationChoice,
    probe: CalibrationSet | None,
    progress: ProgressCallback | None,
    *,
    task: str = "auto",
    parts: int | None = None,
) -> list[Measurement]:
    """Parameters and bytes, perplexity and bits per byte on each corpus, KL on a given probe, accuracies.

    Args:
        subjects: "dense", "pruned" and "recovered", or some of them; KL is that of the others from "dense".
        probe: windows of the dense model's tokens.
        task: training task of an encoder-decoder on each window of a corpus.
        parts: number of parts of the progress, if more than are measured here.
    """
    measurements = sizes(subjects)
    others = [subject for subject in subjects if subject != "dense"] if probe is not None else []
    parts = parts or len(subjects) * (len(corpora) + len(choice.zero_shot)) + len(others)
    part = 0
    for name, corpus in corpora.items():
        for subject, lm in subjects.items():
            nested = within(progress, f"{name}, {subject}", part, parts)
            measurements += perplexity_of(lm, subject, corpus, choice, task, nested)
            part += 1
    for subject in others:
        assert probe is not None
        nested = within(progress, f"Divergence, {subject}", part, parts)
        measurements += divergence_of(subjects["dense"], subjects[subject], probe, nested, subject=subject)
        part += 1
    for name in choice.zero_shot:
        for subject, lm in subjects.items():
            nested = within(progress, f"{name}, {subject}", part, parts)
            measurements += _accuracies(lm, subject, name, choice.zero_shot_items, nested)
            part += 1
    return measurements


def sizes(subjects: Mapping[str, LM]) -> list[Measurement]:
    """Parameters and bytes of the weights, counted from the layouts."""
    found = []
    for subject, lm in subjects.items():
        protocol = {"note": lm.source.note, "tied weights": "counted once"}
        found.append(Measurement("parameters", subject, lm.layout.parameters, protocol=protocol))
        found.append(Measurement("bytes", subject, lm.weight_bytes, protocol=protocol | placement(lm)))
    return found


def perplexity_of(
    lm: LM, subject: str, corpus: Corpus, choice: EvaluationChoice, task: str, progress: ProgressCallback | None
) -> list[Measurement]:
    """Perplexity and bits per byte on the evaluation split of one corpus."""
    split, task = corpus.split("evaluation"), task_of(lm, task)
    sizes = {"window": choice.window, "max_tokens": choice.max_tokens}
    inputs = {"corpus": [corpus.name, split.hash], "task": task, **sizes}

    def measure() -> list[Measurement]:
        found = perplexity(lm, corpus, task=task or "auto", progress=progress, **sizes)
        protocol = {
            "corpus": corpus.name,
            "corpus_hash": found.corpus_hash,
            "split": "evaluation",
            "window": found.window,
            "tokens": found.tokens,
            **({"task": found.task} if found.task else {}),
            "note": lm.source.note,
            **placement(lm),
        }
        # Bits per byte are proportional to the mean loss, whose standard error is the perplexity's over its value.
        loss = float(found.per_window.mean())
        bits = found.bits_per_byte / loss if loss else math.nan
        values = {"perplexity": found.value, "bits per byte": found.bits_per_byte}
        errors = {"perplexity": found.standard_error, "bits per byte": bits * found.standard_error / found.value}
        parts = {"perplexity": found.per_window, "bits per byte": bits * found.per_window}
        return [
            replace(
                Measurement(metric, subject, value, _finite(errors[metric]), found.windows, protocol),
                parts=pack_parts(parts[metric]),
            )
            for metric, value in values.items()
        ]

    return _through_cache("perplexity", inputs, lm, subject, measure, progress)


def divergence_of(
    dense: LM,
    other: LM,
    probe: CalibrationSet,
    progress: ProgressCallback | None,
    *,
    subject: str = "pruned",
    reference: Callable[[], DenseReference] | None = None,
) -> list[Measurement]:
    """KL( dense || other ) on a probe.

    Args:
        reference: returns the dense model's predictions, shared by several comparisons; called only if KL is not
            cached.
    """

    def measure() -> list[Measurement]:
        known = reference() if reference is not None else None
        found = divergence(dense, other, probe, reference=known, progress=progress)
        protocol = {
            "corpus": probe.source,
            "corpus_hash": probe.source_hash,
            "split": "probe",
            "samples": probe.samples,
            "length": probe.outputs.shape[1],
            "tokens": probe.outputs.size,
            "seed": probe.seed,
            "probe_hash": probe.hash,
            **({"task": probe.task} if probe.task else {}),
            "note": dense.source.note,
            **placement(dense),
        }
        parts, error = pack_parts(found.per_sample), _finite(found.standard_error)
        return [Measurement("KL divergence", subject, found.mean, error, probe.samples, protocol, parts=parts)]

    inputs = {"dense": dense.hash, "probe": probe.hash, "source": probe.source, "seed": probe.seed}
    return _through_cache("divergence", inputs, other, subject, measure, progress)


def _accuracies(lm: LM, subject: str, name: str, items: int, progress: ProgressCallback | None) -> list[Measurement]:
    """Accuracies on one zero-shot task, or on the tasks in a folder."""
    tasks = find_tasks([name], items=items)
    asked = [[task.name, task.hash if isinstance(task, LocalTask) else str(items)] for task in tasks]

    def measure() -> list[Measurement]:
        from nirvana.evaluation.zero_shot.harness import zero_shot

        found = zero_shot(lm, name, items=items, progress=progress)
        return accuracies.measurements(found, subject, {"note": lm.source.note, **placement(lm)})

    inputs = {"tasks": asked, "harness": harness_version()}
    return _through_cache("zero-shot", inputs, lm, subject, measure, progress)


def _continue(run: Run, subjects: Mapping[str, LM], progress: ProgressCallback | None) -> None:
    """Store a first greedy continuation by each model, for the page to show."""
    known = [item for item in run.continuations() if item.prompt == PROMPT and not item.chat]
    if any(item.texts.keys() == subjects.keys() for item in known):
        return
    run.add_continuation(continue_with(subjects, PROMPT, max_new_tokens=NEW_TOKENS, progress=progress))


def _through_cache(
    kind: str,
    inputs: dict[str, Any],
    lm: LM,
    subject: str,
    measure: Callable[[], list[Measurement]],
    progress: ProgressCallback | None,
) -> list[Measurement]:
    key = cache_key(kind, subject=subject, note=lm.source.note, keeps="parts", **inputs, **cache_fields(lm))
    return through_cache(key, _read, _write, measure, progress=progress)[0]


def _read(content: bytes) -> list[Measurement]:
    return list(Report.from_json(parse_json(content)).measurements)


def _write(measurements: list[Measurement]) -> bytes:
    return json.dumps(Report(tuple(measurements)).to_json()).encode()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
