"""Sections of a run's report, one for each result of the run, with the figures of the pages."""

from __future__ import annotations

from nirvana.calibration.sets import CalibrationSelection
from nirvana.evaluation.results import Report
from nirvana.evaluation.zero_shot.results import comparisons
from nirvana.layout import KV_GROUP, NEURON
from nirvana.plan import PruningPlan
from nirvana.reporting import shading
from nirvana.reporting.aligned import comparison_table, report_table
from nirvana.reporting.figures import (
    allocation,
    calibration,
    compare,
    distributions,
    positions,
    recovery,
    shares,
    speed,
    tokens,
)
from nirvana.reporting.figures import model as model_figures
from nirvana.reporting.figures import prune as prune_figures
from nirvana.reporting.figures import saliency as saliency_figures
from nirvana.reporting.figures import zero_shot as zero_shot_figures
from nirvana.reporting.figures.sensitivity import loss_curves, scan_heatmap, scan_words
from nirvana.reporting.html.document import Document
from nirvana.reporting.recovery import overfitting, protocol_words, verdict
from nirvana.runs.results import ModelCard, PruneSummary
from nirvana.runs.run import Run
from nirvana.saliency.scores import Saliency


def write_model(document: Document, card: ModelCard) -> None:
    document.section("model", "Model")
    document.pairs(
        {
            "name": card.name,
            "found in": card.origin,
            "family": card.family,
            "parameters": card.layout.parameters,
            "in prunable blocks": card.layout.prunable,
            "device": card.device,
            "dtype": card.dtype,
            "bytes of the weights": card.weight_bytes,
            "hash of the weights": card.hash,
            **{name.replace("_", " "): value for name, value in card.geometry.items()},
        }
    )
    document.chart(model_figures.parameters_by_part(card.layout))


def write_calibration(document: Document, run: Run) -> None:
    result = run.calibration()
    if result is None:
        return
    document.section("calibration", "Calibration set")
    chosen = result.calibration if isinstance(result, CalibrationSelection) else result
    document.pairs(
        {
            "corpus": chosen.source,
            "corpus hash": chosen.source_hash,
            "samples": chosen.samples,
            "tokens in a sample": chosen.length,
            "seed": chosen.seed,
            "task": chosen.task,
            "hash of the set": chosen.hash,
        }
    )
    if isinstance(result, CalibrationSelection):
        probe = result.probe
        protocol = (
            f"KL on {probe.samples} probe samples of {probe.outputs.shape[1]} tokens of {probe.source}, after a trial "
            f"pruning by {result.criterion} at sparsity {result.sparsity:g}, gamma {result.gamma:g}."
        )
        document.chart(calibration.candidate_divergences(result), protocol)
        if len(result.candidates) > 1:
            document.chart(calibration.margins(result), protocol)
            document.chart(positions.by_length(result), protocol)
        document.chart(positions.by_position(result), protocol, table=False)
    document.chart(tokens.token_frequencies(chosen), table=False)


def write_saliency(document: Document, scores: Saliency, plan: PruningPlan | None) -> None:
    document.section("saliency", "Saliency")
    details = {name.replace("_", " "): value for name, value in scores.details.items()}
    document.pairs({"criterion": scores.criterion, "calibration set": scores.calibration_hash, **details})
    same = plan if plan is not None and plan.layout.sites == scores.layout.sites else None
    for stack in scores.layout.stacks:
        for module in saliency_figures.modules(scores, stack):
            # A table with a row a unit is too long for a report; the run's files have the scores.
            chart = saliency_figures.unit_heatmap(scores, stack, module, ordered=True, plan=same)
            document.chart(chart, table=False)
            document.chart(distributions.layer_distributions(scores, stack, module), table=False)


def write_allocation(document: Document, plan: PruningPlan, scores: Saliency | None) -> None:
    document.section("allocation", "Allocation")
    document.pairs(
        {
            "sparsity requested": plan.requested,
            "sparsity achieved": plan.sparsity,
            **({} if plan.budget == "parameters" else {"budget": plan.budget, "of the budget": plan.achieved}),
            "weights removed": plan.removed,
            "of prunable": plan.layout.prunable,
            "attention removed": plan.rate(KV_GROUP),
            "MLP removed": plan.rate(NEURON),
            "gamma": plan.gamma,
            "kept parameters": plan.pruned_layout.parameters,
        }
    )
    for note in plan.notes:
        document.text(note, "note")
    for stack in plan.layout.stacks:
        document.chart(allocation.kept_shares(plan, stack))
    if scores is not None and scores.layout.sites == plan.layout.sites:
        for kind in (NEURON, KV_GROUP):
            if plan.layout.pool(kind):
                document.chart(allocation.score_histogram(scores, plan, kind), table=False)
    document.chart(shares.parameters_by_part(plan))


def write_scan(document: Document, run: Run, scores: Saliency, plan: PruningPlan | None) -> None:
    found = run.sensitivity()
    if found is not None:
        document.section("sensitivity", "Each module pruned alone")
        document.chart(scan_heatmap(found, found.levels[-1], scores.layout, plan), scan_words(found))
        if len(found.levels) > 1:
            document.chart(loss_curves(found, scores.layout, plan), scan_words(found))


def write_pruning(document: Document, plan: PruningPlan, summary: PruneSummary) -> None:
    document.section("prune", "Pruned model")
    rows: dict[str, object] = {}
    for name in ("dense", "pruned"):
        rows |= {f"parameters, {name}": summary.parameters.get(name)}
        rows |= {f"bytes of the weights, {name}": summary.weight_bytes.get(name)}
    document.pairs({**rows, "compensation": summary.compensation or "none", "device": summary.device})
    for note in summary.notes:
        document.text(note, "note")
    for format, reason in summary.refused.items():
        document.text(f"Not exported as {format}: {reason}", "quiet")
    for stack in plan.layout.stacks:
        for module in dict.fromkeys(site.module for site in plan.layout if site.stack == stack):
            document.chart(prune_figures.sizes_by_layer(plan, stack, module), table=False)
    document.code(prune_figures.module_diff(plan), "Which modules changed")


def write_recovery(document: Document, run: Run) -> None:
    history = run.recovery()
    if history is None:
        return
    document.section("recover", "Recovered model")
    info = run.info("recover") or {}
    document.text(protocol_words(history, f"On {info['device']} in {info['dtype']}" if info.get("device") else ""))
    for note in filter(None, (history.stopped, overfitting(history))):
        document.text(note, "note")
    document.chart(recovery.perplexity_by_step(history), table=False)
    document.chart(recovery.kl_by_step(history), table=False)
    document.chart(recovery.loss_by_step(history), table=False)
    document.table(recovery.checks_table(history), summary="Checks on held-out text")


def write_comparison(document: Document, report: Report) -> None:
    document.section("compare", "Comparison")
    found = verdict(report)
    if found is not None:
        document.text(found.words)
        for line in found.worse:
            document.text(f"Significantly worse: {line}", "note")
    document.table(comparison_table(report), summary="The models side by side")
    document.chart(compare.perplexity_ratios(report), table=False)
    document.chart(compare.bits_per_byte(report), table=False)
    tasks, phenomena = zero_shot_figures.split_phenomena(comparisons(report))
    for rows, what in ((tasks, "task"), (phenomena, "phenomenon")):
        document.chart(zero_shot_figures.accuracies(rows, what))
        document.chart(zero_shot_figures.differences(rows, what), table=False)
    document.table(report_table(report), summary="All measurements with their protocols")


def write_speed(document: Document, run: Run) -> None:
    timed, weighed = run.speed(), run.sizes()
    if timed is None and weighed is None:
        return
    document.section("speed", "Speed and bytes")
    if timed is not None:
        document.chart(speed.speeds(timed, speed.predictions(timed, run.plan(), run.costs())))
    if weighed is not None:
        document.chart(speed.quality_against_bytes(weighed))


def write_continuations(document: Document, run: Run) -> None:
    found = run.continuations()
    if not found:
        return
    document.section("continuations", "Continuations")
    document.text("Greedy decoding.", "quiet")
    if any(item.scored for item in found):
        document.raw(shading.legend())
    for item in reversed(found):
        document.heading("Prompt" + (", in the chat template" if item.chat else ""))
        document.code(item.prompt)
        for writer, text in item.texts.items():
            if writer not in item.scored:
                document.text(f"The {writer} model continues:")
                document.code(text or "(ends immediately)")
                continue
            for judge in item.texts:
                document.text(f"The {writer} model continues; shades: probability under the {judge} model")
                document.raw(f'<div class="shaded">{shading.shaded(item.scored[writer], judge)}</div>')
