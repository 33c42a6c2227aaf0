"""The report of a run: recipe, results with charts and protocols, and provenance."""

from __future__ import annotations

import json
import os
from html import escape
from pathlib import Path, PurePath

import pandas as pd

from nirvana.calibration.corpora.mixture import part_names
from nirvana.evaluation.results import Report
from nirvana.reporting.aligned import align
from nirvana.reporting.figures.chart import plus_minus
from nirvana.reporting.html import sections, studies
from nirvana.reporting.html.document import Document
from nirvana.reporting.text import moment
from nirvana.runs.run import Run


def report_html(run: Run) -> str:
    """One HTML file with all results of the run, which works offline. Files are named without their folders."""
    document = Document(f"Nirvana Studio: {run.name}")
    card, scores, plan, summary, report = run.model(), run.saliency(), run.plan(), run.pruned(), run.report()
    document.text(f"Run {run.id}, created {moment(run.created)}, {run.status}.", "quiet")
    if plan is not None:
        document.text(f"{plan.sparsity:.2%} of the prunable weights removed.")
    if report is not None:
        for sentence in headline(report):
            document.text(sentence)
    stale = [step for step in run.recipe.steps if run.step_state(step) == "stale"]
    if stale:
        document.text(f"These results belong to earlier choices than the recipe: {', '.join(stale)}.", "note")
    if card is not None and card.note:
        document.text(f"All measurements are of a model with {card.note}.", "note")
    write_recipe(document, run)
    if card is not None:
        sections.write_model(document, card)
    sections.write_calibration(document, run)
    studies.write_matrix(document, run)
    if scores is not None:
        sections.write_saliency(document, scores, plan)
    if plan is not None:
        sections.write_allocation(document, plan, scores)
    if scores is not None:
        sections.write_scan(document, run, scores, plan)
    studies.write_allocation_search(document, run)
    if plan is not None and summary is not None:
        sections.write_pruning(document, plan, summary)
    sections.write_recovery(document, run)
    if report is not None:
        sections.write_comparison(document, report)
    sections.write_speed(document, run)
    sections.write_continuations(document, run)
    studies.write_sweep(document, run)
    studies.write_search(document, run)
    write_provenance(document, run)
    return _without_folders(document.html(), run)


def headline(report: Report) -> list[str]:
    """Cost of pruning on each text, and what is left of it after recovery, one sentence per text."""
    found = []
    for line in align(report, "perplexity"):
        if {"dense", "pruned"} <= line.of.keys():
            parts = [
                f"{plus_minus(item.value, item.standard_error)} {subject}{_times(line.ratio(subject), subject)}"
                for subject, item in line.of.items()
            ]
            found.append(f"Perplexity on {line.corpus}: {', '.join(parts)}.")
    return found


def _times(ratio: float, subject: str) -> str:
    return f", {ratio:.3g} times" if subject != "dense" and ratio == ratio else ""


def write_recipe(document: Document, run: Run) -> None:
    """The recipe, section by section, and as JSON to run it again."""
    document.section("recipe", "Recipe")
    recipe = run.recipe.portable().to_json()
    rows = [(section, name, value) for section, values in recipe.items() for name, value in values.items()]
    table = pd.DataFrame([(section, name, _plain(value)) for section, name, value in rows])
    table.columns = pd.Index(["section", "choice", "value"])
    document.table(table, summary="Every choice")
    document.code(json.dumps(recipe, indent=1), "recipe.json")


def write_provenance(document: Document, run: Run) -> None:
    """Provenance of each result: time, device, duration, and package versions."""
    document.section("provenance", "Provenance")
    rows: list[dict[str, object]] = []
    versions: dict[str, object] = {}
    for step in run.recipe.steps:
        info = run.info(step)
        if info is None:
            continue
        versions = info.get("versions") or versions
        rows.append(
            {
                "step": step,
                "state": run.step_state(step),
                "finished": moment(float(info.get("finished", 0.0))),
                "seconds": info.get("seconds"),
                "from an earlier run": info.get("cached"),
                "device": info.get("device"),
                "dtype": info.get("dtype"),
                "fingerprint": str(info.get("fingerprint", ""))[:16],
            }
        )
    if rows:
        document.table(pd.DataFrame(rows))
        document.heading("Versions")
        document.pairs(versions)


def _without_folders(html: str, run: Run) -> str:
    """`html` without the folders of the recipe's files, of the runs, and of the user, which names and errors hold."""
    recipe = run.recipe
    named = [recipe.model.name, recipe.recovery.corpus, *recipe.calibration.texts]
    named += [*recipe.evaluation.corpora, *recipe.evaluation.zero_shot]
    files = [PurePath(part) for name in named for part in part_names(name)]
    folders = {file.parent for file in files if file.is_absolute()} | {run.folder.parent, Path.home()}
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        if folder.name:  # not the root
            html = html.replace(escape(f"{folder}{os.sep}"), "")
    return html


def _plain(value: object) -> str:
    """A choice with every digit."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
