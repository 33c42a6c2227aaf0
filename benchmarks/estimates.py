"""Predicted and measured peak memory of every step.

    python -m benchmarks.estimates                  # SmolLM2-135M and a random Llama, each step in a fresh process
    python -m benchmarks.estimates --steps score recover --weights lazy
    python -m benchmarks.estimates --predict        # tables of large models for docs/performance.md

The peak is that of anonymous memory above the interpreter with torch, transformers and the step's modules imported:
pages of files, which the system reclaims, are not counted. Earlier steps run before the measurement, with scores by
magnitude where scores are needed. Measured rows are kept in the folder, so an interrupted benchmark resumes.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.shapes import PUBLISHED
from benchmarks.streaming import anonymous, write_checkpoint
from nirvana.estimation.estimate import estimate
from nirvana.estimation.results import StepEstimate
from nirvana.reporting.text import megabytes
from nirvana.runs.recipe import Recipe

TEXT = "python-docs"
RANDOM = {"layers": 6, "hidden": 1024, "intermediate": 4096, "vocabulary": 16_000}
RECIPE = (
    Recipe()
    .change("model", device="cpu")
    .change("calibration", candidates=2, samples=4, probe_samples=2)
    .change("prune", samples=4)
    .change("recovery", minutes=0.0, tokens=1024, batch=4, checks=1, length=128)
    .change("evaluation", corpora=(TEXT,), max_tokens=1024, zero_shot=("minimal-pairs",), zero_shot_items=2)
)
"""Settings of the measured steps: those of a new run, with less text, so that hours suffice on two cores."""

SHOWN = (
    "load",
    "calibrate: 4 sets by KL",
    "score: nirvana, micro-batches",
    "score: nirvana, recompute",
    "score: second-order",
    "score: flap",
    "statistics: second moments",
    "sensitivity",
    "prune: none",
    "prune: least squares",
    "recover: distill",
    "recover: lora",
    "perplexity",
    "zero-shot",
    "save",
)


def cases(weights: str) -> Iterator[tuple[str, Recipe]]:
    """Step and recipe of each measurement."""
    recipe = RECIPE.change("model", weights=weights)
    lazy = weights == "lazy"
    yield "load", recipe
    yield "calibrate", recipe
    for criterion in ("magnitude", "flap", "block-influence", "nirvana", "taylor", "second-order"):
        strategies = ("micro-batches", "recompute") if criterion in ("nirvana", "taylor") and not lazy else ("auto",)
        for strategy in strategies:
            yield f"score {strategy}", recipe.change("saliency", criterion=criterion)
    for compensation in ("bias", "least_squares"):
        yield "statistics", recipe.change("prune", compensation=compensation)
    yield "sensitivity", recipe
    yield "allocate", recipe
    for compensation in ("none", "least_squares"):
        yield "prune", recipe.change("prune", compensation=compensation)
    if not lazy:
        for method, checkpointing in (("full", "never"), ("lora", "never"), ("distill", "always")):
            yield "recover", recipe.change("recovery", method=method, checkpointing=checkpointing)
    yield "perplexity", recipe
    yield "zero-shot", recipe
    yield "save", recipe


class Peak:
    """Peak of the anonymous memory of this process above that at the start, in bytes."""

    def __init__(self) -> None:
        self.start, self.bytes = anonymous(), 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look every two milliseconds."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.002):
                self.bytes = max(self.bytes, anonymous() - self.start)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.bytes = max(self.bytes, anonymous() - self.start)


def measure(model: str, step: str, recipe: Recipe) -> dict[str, float]:
    """Peak bytes and seconds of a step in this process, which has done nothing else."""
    import peft  # noqa: F401 - what a step imports is part of the interpreter's memory
    import torch._dynamo  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import nirvana as nv
    import nirvana.evaluation.zero_shot.harness
    import nirvana.recovery.trainer
    from nirvana.calibration.corpora.registry import load_corpus
    from nirvana.models.limits import give_back_free_memory

    text = load_corpus(TEXT)
    gc.collect()
    give_back_free_memory()
    peak = Peak()
    choice = recipe.model

    def load() -> nv.LM:
        return nv.load_model(model, device="cpu", weights=choice.weights)  # type: ignore[arg-type]

    work: Callable[[], Any] = load
    if step != "load":
        lm = load()
        work = prepared(lm, text, step, recipe)
        gc.collect()
        lm.release()
        give_back_free_memory()
    with peak.watched():
        started = time.perf_counter()
        kept = work()
        seconds = time.perf_counter() - started
    del kept
    return {"peak": peak.bytes, "seconds": seconds}


def prepared(lm: Any, text: Any, step: str, recipe: Recipe) -> Callable[[], Any]:
    """The step as a function without arguments, its inputs computed."""
    import nirvana as nv

    drawn, choice, evaluation = recipe.calibration, recipe.prune, recipe.evaluation
    name, _, strategy = step.partition(" ")
    sizes: dict[str, Any] = {"samples": drawn.samples, "length": drawn.length}
    probing: dict[str, Any] = {"samples": drawn.probe_samples, "length": drawn.probe_length}
    how: dict[str, Any] = {"compensation": choice.compensation}
    if name == "calibrate":
        probe = nv.sample_probe(lm, text, **probing)
        return lambda: nv.select_calibration(lm, text, probe=probe, candidates=drawn.candidates, **sizes)
    if name == "score":
        calibration = nv.sample_calibration(lm, text, **sizes)
        criterion: dict[str, Any] = {"criterion": recipe.saliency.criterion, "strategy": strategy}
        return lambda: nv.score(lm, calibration, **criterion)
    if name == "perplexity":
        return lambda: nv.perplexity(lm, text, window=evaluation.window, max_tokens=evaluation.max_tokens)
    if name == "zero-shot":
        return lambda: nv.zero_shot(lm, evaluation.zero_shot, items=evaluation.zero_shot_items)
    windows = nv.sample_calibration(lm, text, samples=choice.samples, length=choice.length)
    if name == "statistics":
        second = choice.compensation == "least_squares"
        return lambda: nv.collect_statistics(lm, windows, second_moments=second)
    if name == "save":
        folder = Path(tempfile.mkdtemp()) / "saved"
        return lambda: nv.save(lm, folder)
    saliency = nv.score(lm, None, criterion="magnitude")
    if name == "sensitivity":
        probe = nv.sample_probe(lm, text, **probing)
        return lambda: nv.sensitivity(lm, saliency, probe)
    if name == "allocate":
        return lambda: nv.allocate(saliency, sparsity=recipe.allocation.sparsity)
    plan = nv.allocate(saliency, sparsity=recipe.allocation.sparsity)
    if name == "prune":
        how["statistics"] = None if choice.compensation == "none" else nv.collect_statistics(lm, windows)
        return lambda: nv.prune(lm, plan, **how)
    small = nv.prune(lm, plan)
    return lambda: nv.recover(small, text, teacher=lm, options=recipe.recovery.options, held_out={TEXT: text})


def predicted(model: str, step: str, recipe: Recipe) -> StepEstimate:
    """The estimate of a measured step."""
    name, _, strategy = step.partition(" ")
    found = estimate(model, name, recipe=recipe, weights=recipe.model.weights).steps
    wanted = {
        "score": {"criterion": recipe.saliency.criterion},
        "statistics": {"compensation": recipe.prune.compensation},
        "prune": {"compensation": recipe.prune.compensation},
        "recover": {"method": recipe.recovery.method},
    }.get(name, {})
    if strategy in ("micro-batches", "recompute"):
        wanted["strategy"] = strategy
    return next(each for each in found if wanted.items() <= each.settings.items())


def measure_all(given: argparse.Namespace) -> None:
    """Measure what is not measured yet, and print each row with its prediction."""
    given.folder.mkdir(parents=True, exist_ok=True)
    rows_file = given.folder / "rows.jsonl"
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
    print("| model | weights | step | predicted | measured | difference |\n|---|---|---|---|---|---|")
    for model in given.models:
        folder = given.folder / model
        if not folder.exists():
            if model == "random":
                write_checkpoint(folder, **RANDOM)
            else:
                import nirvana as nv

                nv.save(nv.load_model(model, device="cpu"), folder, dtype="float32")
        for weights in given.weights:
            for step, recipe in cases(weights):
                if given.steps and step.split()[0] not in given.steps:
                    continue
                key = json.loads(json.dumps({"model": model, "step": step, "recipe": recipe.changed()}))
                row = next((row for row in rows if row["key"] == key), None)
                if row is None:
                    row = {"key": key, **in_own_process(str(folder), step, recipe)}
                    with rows_file.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                found, peak = predicted(str(folder), step, recipe), row["peak"]
                numbers = f"{megabytes(found.memory.peak)} | {megabytes(peak)} | {found.memory.peak / peak - 1:+.0%}"
                print(f"| {model} | {weights} | {found.name} | {numbers} |", flush=True)


def in_own_process(model: str, step: str, recipe: Recipe) -> dict[str, float]:
    """Peak and seconds of a step, from a fresh process."""
    command = [sys.executable, "-m", "benchmarks.estimates", "--measure", model, step, json.dumps(recipe.to_json())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{model}, {step}: the process ended without a result.\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def predict() -> None:
    """Print the tables of the published shapes."""
    for weights in ("memory", "lazy"):
        models = [name for name in PUBLISHED if weights == "memory" or "T5" not in name]
        print(f'\nbfloat16 on one GPU, `weights="{weights}"`, predicted:\n')
        print(f"| step | {' | '.join(models)} |\n|---{'|---:' * len(models)}|")
        found = {name: estimate(PUBLISHED[name], device="cuda", dtype="bfloat16", weights=weights) for name in models}
        for step in SHOWN:
            cells = []
            for name in models:
                of_step = [each for each in found[name].steps if each.name.startswith(step)]
                cells.append(megabytes(of_step[0].memory.peak) if of_step else "")
            if any(cells):
                print(f"| {step} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", default=[], help="by default all")
    parser.add_argument("--weights", nargs="+", default=["memory", "lazy"])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "random"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "nirvana-estimates")
    parser.add_argument("--predict", action="store_true", help="print predictions for published shapes instead")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        model, step, recipe = given.measure
        print(json.dumps(measure(model, step, Recipe.from_json(json.loads(recipe)))))
    elif given.predict:
        predict()
    else:
        measure_all(given)


if __name__ == "__main__":
    main()
