"""Single steps: each reads what the one before it wrote."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.commands.console import Bar, print_json, print_report, print_table
from nirvana.commands.run import check_output
from nirvana.errors import NirvanaError, RunError
from nirvana.evaluation.results import Report
from nirvana.files import write_bytes, write_json
from nirvana.plan import PruningPlan
from nirvana.runs.options import apply_options
from nirvana.runs.recipe import Recipe
from nirvana.runs.validation import check_recipe

if TYPE_CHECKING:
    from nirvana.models.lm import LM


def inspect(arguments: argparse.Namespace) -> None:
    from nirvana.models.inspection import inspect_model

    found = inspect_model(arguments.model)
    size = found.weight_bytes("auto")
    if arguments.json:
        print_json(
            {
                "name": found.name,
                "origin": found.origin,
                "note": found.note,
                "family": found.family,
                "stored_dtype": found.stored_dtype,
                "geometry": found.geometry,
                "parameters": found.layout.parameters,
                "prunable": found.layout.prunable,
                "float32_bytes": size,
                "layout": found.layout.to_json(),
            }
        )
        return
    rows = [["origin", found.origin], *([["note", found.note]] if found.note else []), ["family", found.family]]
    rows += [[name.replace("_", " "), f"{value:,}"] for name, value in found.geometry.items()]
    rows += [["parameters", f"{found.layout.parameters:,}"], ["prunable", f"{found.layout.prunable:,}"]]
    rows += [["memory in float32", f"{size / 1e6:,.0f} MB"]]
    print_table(found.name, ["", "value"], rows)


def corpora(arguments: argparse.Namespace) -> None:
    from nirvana.calibration.corpora.corpus import SPLITS
    from nirvana.calibration.corpora.registry import AVAILABLE, load_corpus

    if arguments.name is None:
        if arguments.json:
            print_json([info._asdict() if hasattr(info, "_asdict") else vars(info) for info in AVAILABLE.values()])
        else:
            rows = [[info.name, "no" if info.offline else "yes", info.description] for info in AVAILABLE.values()]
            print_table("", ["corpus", "network", "description"], rows)
        return
    corpus = load_corpus(arguments.name)
    splits = {
        name: {
            "documents": len(corpus.split(name).documents),
            "characters": corpus.split(name).characters,
            "hash": corpus.split(name).hash,
        }
        for name in SPLITS
    }
    if arguments.json:
        print_json({"name": corpus.name, "kind": corpus.kind, "hash": corpus.hash, "splits": splits})
        return
    rows = [[name, f"{s['documents']:,}", f"{s['characters']:,}", str(s["hash"])[:16]] for name, s in splits.items()]
    print_table(
        f"{corpus.name} ({corpus.kind}), {corpus.hash[:16]}", ["split", "documents", "characters", "hash"], rows
    )


def calibrate(arguments: argparse.Namespace) -> None:
    """As the run's step, so that choices with the same inputs come from the same cache."""
    recipe = apply_options(Recipe(), arguments)
    check_recipe(recipe, ("model", "calibration"))
    with Bar().shown() as bar:
        lm = _load(recipe, bar)
        from nirvana.runs.workspace import Workspace

        bar.step("calibration")
        chosen = Workspace(recipe, lm=lm, progress=bar.progress).calibration()
    write_bytes(Path(arguments.output), chosen.to_bytes())
    result: dict[str, Any] = {"output": arguments.output, "hash": chosen.hash}
    winner = chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen
    result |= {"corpus": winner.source, "corpus_hash": winner.source_hash}
    rows = []
    if isinstance(chosen, CalibrationSelection):
        result["winner"] = chosen.winner
        result["candidates"] = [
            {"hash": c.calibration.hash, "corpus": c.calibration.source, "seed": c.calibration.seed,
             "kl": c.divergence.mean, "standard_error": c.divergence.standard_error, "sparsity": c.sparsity}
            for c in chosen.candidates
        ]  # fmt: skip
        for index in chosen.ranking:
            drawn, kl = chosen.candidates[index].calibration, chosen.candidates[index].divergence
            mark = "chosen" if index == chosen.winner else ""
            rows.append([str(index), drawn.source, str(drawn.seed), f"{kl.mean:.4f} ± {kl.standard_error:.4f}", mark])
    if arguments.json:
        print_json(result)
        return
    if rows:
        print_table("KL( dense || pruned ), nats per token", ["candidate", "text", "seed", "mean", ""], rows)
    print(f"Wrote {arguments.output}, set {chosen.hash[:16]}.")


def score(arguments: argparse.Namespace) -> None:
    from nirvana.runs.folder import FORMATS
    from nirvana.saliency.criteria import find_criterion

    recipe = apply_options(Recipe(), arguments)
    check_recipe(recipe, ("model", "saliency"))
    calibration: CalibrationSet | None = None
    if arguments.calibration is not None:
        chosen = _read(arguments.calibration, FORMATS["calibration"].read, "calibration set", "calibrate")
        calibration = chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen
    elif find_criterion(recipe.saliency.criterion).reads != "nothing":
        raise RunError("This criterion reads text.", "Give --calibration FILE, which `calibrate` writes.")
    with Bar().shown() as bar:
        lm = _load(recipe, bar)
        from nirvana.saliency.score import score as score_units

        bar.step("saliency")
        seed = arguments.seed if arguments.seed is not None else getattr(calibration, "seed", None) or 0
        found = score_units(lm, calibration, criterion=recipe.saliency.criterion, seed=seed, progress=bar.progress)
    write_bytes(Path(arguments.output), found.to_bytes())
    if arguments.json:
        sites = {site.key: {"units": len(v), "mean": float(v.mean())} for site, v in found.items()}
        print_json(
            {"output": arguments.output, "hash": found.hash, "criterion": found.criterion, "details": found.details}
            | {"calibration_hash": found.calibration_hash, "sites": sites}
        )
        return
    units = sum(len(values) for values in found.values())
    print(f"Wrote {arguments.output}: {units:,} scores of {len(found)} sites, {found.criterion}.")


def allocate(arguments: argparse.Namespace) -> None:
    from nirvana.allocation.allocate import allocate as choose
    from nirvana.layout import KV_GROUP, NEURON
    from nirvana.saliency.scores import Saliency

    choice = apply_options(Recipe(), arguments).allocation
    saliency = _read(arguments.saliency, Saliency.from_bytes, "saliency", "score")
    plan = choose(saliency, **vars(choice))
    write_json(Path(arguments.output), plan.to_json())
    rates = {"attention": plan.rate(KV_GROUP), "mlp": plan.rate(NEURON)}
    if arguments.json:
        print_json(
            {"output": arguments.output, "requested": plan.requested, "sparsity": plan.sparsity, **rates}
            | {"parameters": plan.pruned_layout.parameters, "notes": plan.notes}
        )
        return
    print(
        f"Wrote {arguments.output}: sparsity {plan.sparsity:.5f} (attention {rates['attention']:.1%}, "
        f"MLP {rates['mlp']:.1%}), {plan.pruned_layout.parameters:,} parameters stay."
    )
    for note in plan.notes:
        print(note)


def prune(arguments: argparse.Namespace) -> None:
    recipe = apply_options(Recipe(), arguments)
    check_recipe(recipe, ("model", "prune"))
    plan = PruningPlan.from_json(_read(arguments.plan, json.loads, "plan", "allocate"))
    output = Path(arguments.output).expanduser()
    check_output(output, arguments.export)
    with Bar().shown() as bar:
        lm = _load(recipe, bar)
        from nirvana.checkpoints.exporting import export
        from nirvana.runs.workspace import Workspace

        bar.step("prune")
        small = Workspace(recipe, lm=lm, plan=plan, progress=bar.progress).pruned()
        written = export(small, output, format=arguments.export, progress=bar.progress)
    sizes = {"dense": lm.layout.parameters, "pruned": small.layout.parameters}
    if arguments.json:
        checks = list(written.verification.checks)
        print_json({"output": str(written.path), "bytes": written.bytes, "checks": checks}
                   | {"format": written.format, "parameters": sizes, "hash": small.hash}
                   | {"compensations": list(small.compensations)})  # fmt: skip
    else:
        print(f"Wrote {written.path}: {sizes['dense']:,} => {sizes['pruned']:,} parameters, {written.bytes:,} bytes.")
        print(f"Verified: {'; '.join(written.verification.checks)}.")


def evaluate(arguments: argparse.Namespace) -> None:
    recipe = apply_options(Recipe(), arguments)
    check_recipe(recipe, ("model", "evaluate"))
    with Bar().shown() as bar:
        lm = _load(recipe, bar)
        from nirvana.runs.measurements import measure
        from nirvana.runs.workspace import Workspace

        subjects, probe = {"pruned" if lm.is_pruned else "dense": lm}, None
        if arguments.dense is not None:
            subjects = {"dense": _load(recipe.change("model", name=arguments.dense), bar), "pruned": lm}
            probe = Workspace(recipe, lm=subjects["dense"], progress=bar.progress).draw_probe()
        bar.step("evaluation")
        corpora = Workspace(recipe, lm=lm, progress=bar.progress).evaluation_texts()
        task = recipe.calibration.task
        report = Report(tuple(measure(subjects, corpora, recipe.evaluation, probe, bar.progress, task=task)))
    if arguments.json:
        print_json(report.to_json())
    else:
        print_report(report, lm.source.name)


def generate(arguments: argparse.Namespace) -> None:
    recipe = apply_options(Recipe(), arguments)
    with Bar().shown() as bar:
        lm = _load(recipe, bar)
        from nirvana.calibration.generation import generate_corpus

        bar.step("text")
        given = {} if arguments.tokens is None else {"tokens": arguments.tokens}
        corpus = generate_corpus(
            lm, seed=arguments.seed, temperature=arguments.temperature, progress=bar.progress, **given
        )
    texts = [text for documents in corpus.splits.values() for text in documents]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    write_bytes(Path(arguments.output), lines.encode())
    if arguments.json:
        print_json({"output": arguments.output, "hash": corpus.hash, "documents": len(texts)})
    else:
        print(f"Wrote {arguments.output}: {len(texts):,} documents, {corpus.hash[:16]}.")


def _load(recipe: Recipe, bar: Bar) -> LM:
    from nirvana.models.loading import load_model

    bar.step("model")
    choice = recipe.model
    return load_model(choice.name, device=choice.device, dtype=choice.dtype, progress=bar.progress)


def _read(name: str, parse: Any, what: str, command: str) -> Any:
    """A file that an earlier subcommand wrote.

    Raises:
        RunError: it is missing or of another kind.
    """
    try:
        return parse(Path(name).expanduser().read_bytes())
    except FileNotFoundError:
        raise RunError(f"There is no file {name}.", f"`python -m nirvana {command}` writes it.") from None
    except NirvanaError:
        raise
    except Exception as error:  # whatever a parser makes of foreign bytes
        raise RunError(f"{name} is not a {what}: {error}.", f"`python -m nirvana {command}` writes one.") from error
