"""Single steps: each reads the file written by the previous one."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, ClassVar

from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.commands.command import Command, output_file, read_input
from nirvana.commands.console import Bar, print_json, print_report, print_table
from nirvana.commands.run import check_output
from nirvana.errors import CheckpointError, CorpusError, NirvanaError, PlanError, RunError
from nirvana.evaluation.results import Report
from nirvana.files import local_path, parse_json, write_bytes, write_json
from nirvana.jobs.tasks.export import ExportRequest
from nirvana.options import add_fields, given
from nirvana.plan import PruningPlan
from nirvana.runs.folder import FORMATS
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import LAST_SEED, ModelChoice, Recipe
from nirvana.runs.validation import check_recipe
from nirvana.saliency.criteria import find_criterion
from nirvana.schema import Schema, option

if TYPE_CHECKING:
    from nirvana.models.lm import LM


class Sampling(Schema):
    """Arguments of `nirvana.generate_corpus`."""

    error: ClassVar[type[NirvanaError]] = CorpusError

    tokens: int = option(24_576, "--tokens", "approximate number of tokens", ge=384, le=1 << 30)
    seed: int = option(0, "--seed", "seed of the sampling", ge=0, le=LAST_SEED)
    temperature: float = option(1.0, "--temperature", "sampling temperature", gt=0, le=100)


class GenerateCommand(Command):
    """Generate a corpus (.jsonl) with a model."""

    name = "generate"
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model")
        add_fields(parser, Sampling)
        parser.add_argument("--output", metavar="FILE", default="generated.jsonl")

    def run(self, arguments: argparse.Namespace) -> None:
        recipe, sampling = apply_options(Recipe(), arguments), Sampling(**given(Sampling, arguments))
        output = output_file(arguments.output)
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.calibration.generation import generate_corpus

            bar.step("text")
            corpus = generate_corpus(lm, **vars(sampling), progress=bar.progress)
        texts = [text for documents in corpus.splits.values() for text in documents]
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        write_bytes(output, lines.encode())
        if arguments.json:
            print_json({"output": arguments.output, "hash": corpus.hash, "documents": len(texts)})
        else:
            print(f"Wrote {arguments.output}: {len(texts):,} documents, {corpus.hash[:16]}.")


class CalibrateCommand(Command):
    """Draw calibration sets and choose one by KL."""

    name = "calibrate"
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model", "calibration")
        parser.add_argument("--output", metavar="FILE", default="calibration.npz")

    def run(self, arguments: argparse.Namespace) -> None:
        recipe, output = apply_options(Recipe(), arguments), output_file(arguments.output)
        check_recipe(recipe, ("model", "calibration"))
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.runs.workspace import Workspace

            bar.step("calibration")
            chosen = Workspace(recipe, lm=lm, progress=bar.progress).calibration()
        write_bytes(output, chosen.to_bytes())
        winner = chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen
        result: dict[str, Any] = {"output": arguments.output, "hash": chosen.hash}
        result |= {"corpus": winner.source, "corpus_hash": winner.source_hash}
        if isinstance(chosen, CalibrationSelection):
            result["winner"] = chosen.winner
            result["candidates"] = [
                {"hash": c.calibration.hash, "corpus": c.calibration.source, "seed": c.calibration.seed,
                 "kl": c.divergence.mean, "standard_error": c.divergence.standard_error, "sparsity": c.sparsity}
                for c in chosen.candidates
            ]  # fmt: skip
        if arguments.json:
            print_json(result)
            return
        if isinstance(chosen, CalibrationSelection):
            rows = []
            for index in chosen.ranking:
                drawn, kl = chosen.candidates[index].calibration, chosen.candidates[index].divergence
                mark = "chosen" if index == chosen.winner else ""
                value = f"{kl.mean:.4f} ± {kl.standard_error:.4f}"
                rows.append([str(index), drawn.source, str(drawn.seed), value, mark])
            print_table("KL( dense || pruned ), nats per token", ["candidate", "text", "seed", "mean", ""], rows)
        print(f"Wrote {arguments.output}, set {chosen.hash[:16]}.")


HINT = "`nirvana calibrate` writes one."


class Draw(Schema):
    """Seed of the random criterion."""

    seed: int = option(0, "--seed", "seed of the random criterion; a calibration set has one", ge=0, le=LAST_SEED)


class ScoreCommand(Command):
    """Score every prunable unit."""

    name = "score"
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model", "saliency")
        parser.add_argument(
            "--calibration", metavar="FILE", help="from `nirvana calibrate`; magnitude and random need none"
        )
        add_fields(parser, Draw)
        parser.add_argument("--output", metavar="FILE", default="saliency.npz")

    def run(self, arguments: argparse.Namespace) -> None:
        recipe, output = apply_options(Recipe(), arguments), output_file(arguments.output)
        check_recipe(recipe, ("model", "saliency"))
        criterion, drawn = recipe.saliency.criterion, given(Draw, arguments)
        calibration: CalibrationSet | None = None
        if arguments.calibration is not None:
            chosen = read_input(arguments.calibration, FORMATS["calibration"].read, "calibration set", HINT)
            calibration = chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen
        elif find_criterion(criterion).reads != "nothing":
            raise RunError("This criterion reads text.", f"Give --calibration FILE; {HINT}")
        seed = Draw(**drawn).seed if drawn or calibration is None else calibration.seed or 0
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.saliency.score import score

            bar.step("saliency")
            found = score(lm, calibration, criterion=criterion, seed=seed, progress=bar.progress)
        write_bytes(output, found.to_bytes())
        if arguments.json:
            sites = {site.key: {"units": len(v), "mean": float(v.mean())} for site, v in found.items()}
            print_json(
                {"output": arguments.output, "hash": found.hash, "criterion": found.criterion, "details": found.details}
                | {"calibration_hash": found.calibration_hash, "sites": sites}
            )
            return
        units = sum(len(values) for values in found.values())
        print(f"Wrote {arguments.output}: {units:,} scores of {len(found)} sites, {found.criterion}.")


class AllocateCommand(Command):
    """Choose the units to keep."""

    name = "allocate"
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "allocation")
        parser.add_argument("--saliency", metavar="FILE", default="saliency.npz", help="from `nirvana score`")
        parser.add_argument(
            "--curves", metavar="FILE", help="loss curves of the measured allocation, from `nirvana sensitivity --json`"
        )
        parser.add_argument("--costs", metavar="FILE", help="cost table of a budget in time, from `nirvana costs`")
        parser.add_argument("--output", metavar="FILE", default="plan.json")

    def run(self, arguments: argparse.Namespace) -> None:
        from nirvana.allocation.allocate import allocate
        from nirvana.costs import CostTable
        from nirvana.layout import KV_GROUP, NEURON
        from nirvana.loss_curves import Sensitivity
        from nirvana.saliency.scores import Saliency

        choice, output = apply_options(Recipe(), arguments).allocation, output_file(arguments.output)
        saliency = read_input(arguments.saliency, Saliency.from_bytes, "saliency", "`nirvana score` writes one.")
        curves = None
        if arguments.curves:
            hint = "`nirvana sensitivity RUN --json` prints one."
            curves = read_input(arguments.curves, Sensitivity.from_bytes, "loss curves", hint)
        if choice.rounds > 1:
            raise PlanError("Several rounds need the model.", "Use `nirvana run`, or one round.")
        costs = None
        if arguments.costs:
            costs = read_input(arguments.costs, CostTable.from_bytes, "cost table", "`nirvana costs` writes one.")
        plan = allocate(saliency, sensitivity=curves, costs=costs, **choice.one_round)
        write_json(output, plan.to_json())
        rates = {"attention": plan.rate(KV_GROUP), "mlp": plan.rate(NEURON)}
        if arguments.json:
            print_json(
                {"output": arguments.output, "requested": plan.requested, "sparsity": plan.sparsity, **rates}
                | {"parameters": plan.pruned_layout.parameters, "notes": plan.notes}
                | ({"predicted": plan.predicted.to_json()} if plan.predicted is not None else {})
            )
            return
        print(
            f"Wrote {arguments.output}: sparsity {plan.sparsity:.5f} (attention {rates['attention']:.1%}, "
            f"MLP {rates['mlp']:.1%}), {plan.pruned_layout.parameters:,} parameters kept."
        )
        for note in plan.notes:
            print(note)


class PruneCommand(Command):
    """Remove the units and write the pruned checkpoint."""

    name = "prune"
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model", "prune")
        add_options(parser, "calibration", only=("--corpus", "--task"))
        parser.add_argument("--plan", metavar="FILE", default="plan.json", help="from `nirvana allocate`")
        parser.add_argument("--output", metavar="PATH", default="pruned", help="a folder, or a .gguf file for gguf")
        add_fields(parser, ExportRequest)

    def run(self, arguments: argparse.Namespace) -> None:
        recipe = apply_options(Recipe(), arguments)
        check_recipe(recipe, ("model", "prune"))
        wanted = ExportRequest(**given(ExportRequest, arguments))
        hint = "`nirvana allocate` writes one."
        plan = PruningPlan.from_json(read_input(arguments.plan, parse_json, "plan", hint))
        output = local_path(arguments.output, CheckpointError)
        check_output(output, wanted.format)
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.checkpoints.exporting import export
            from nirvana.runs.workspace import Workspace

            bar.step("prune")
            small = Workspace(recipe, lm=lm, plan=plan, progress=bar.progress).pruned()
            written = export(small, output, format=wanted.format, dtype=wanted.dtype, progress=bar.progress)
        sizes = {"dense": lm.layout.parameters, "pruned": small.layout.parameters}
        checks = list(written.verification.checks)
        if arguments.json:
            print_json({"output": str(written.path), "bytes": written.bytes, "checks": checks}
                       | {"format": written.format, "parameters": sizes, "hash": small.hash}
                       | {"compensations": list(small.compensations)})  # fmt: skip
        else:
            print(
                f"Wrote {written.path}: {sizes['dense']:,} => {sizes['pruned']:,} parameters, {written.bytes:,} bytes."
            )
            print(f"Verified: {'; '.join(checks)}.")


PROBE = ("--corpus", "--probe-samples", "--probe-length", "--probe-seed", "--task")


class EvaluateCommand(Command):
    """Measure perplexity and zero-shot tasks, and KL from a dense model."""

    name = "evaluate"
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model", "evaluation")
        add_options(parser, "calibration", only=PROBE)
        parser.add_argument("--dense", metavar="MODEL", help="the dense model of --model")

    def run(self, arguments: argparse.Namespace) -> None:
        recipe = apply_options(Recipe(), arguments)
        check_recipe(recipe, ("model", "evaluate"))
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.runs.measurements import measure
            from nirvana.runs.workspace import Workspace

            subjects, probe = {"pruned" if lm.is_pruned else "dense": lm}, None
            if arguments.dense is not None:
                dense = load(recipe.model.with_values(name=arguments.dense), bar)
                subjects = {"dense": dense, "pruned": lm}
                probe = Workspace(recipe, lm=dense, progress=bar.progress).draw_probe()
            bar.step("evaluation")
            corpora = Workspace(recipe, lm=lm, progress=bar.progress).evaluation_texts()
            task = recipe.calibration.task
            report = Report(tuple(measure(subjects, corpora, recipe.evaluation, probe, bar.progress, task=task)))
        if arguments.json:
            print_json(report.to_json())
        else:
            print_report(report, lm.source.name)


def load(choice: ModelChoice, bar: Bar) -> LM:
    """The model of the options."""
    from nirvana.models.loading import load_model

    bar.step("model")
    return load_model(**choice.to_json(), progress=bar.progress)
