"""Sections of a report on the run's studies: matrix, allocation search, sweep, search."""

from __future__ import annotations

from nirvana.layout import Layout
from nirvana.reporting.allocation_search import protocol_words as allocation_protocol
from nirvana.reporting.figures import allocation_search as allocation_figures
from nirvana.reporting.figures import matrix as matrix_figures
from nirvana.reporting.figures import pareto
from nirvana.reporting.figures import search as tuning_figures
from nirvana.reporting.figures import sweep as sweep_figures
from nirvana.reporting.figures.chart import count
from nirvana.reporting.figures.sweep_recovery import recovery_by_way
from nirvana.reporting.html.document import Document
from nirvana.reporting.matrix import describe
from nirvana.reporting.search import CHOICES, protocol_words, trials_table
from nirvana.reporting.search import describe as describe_choices
from nirvana.reporting.sweeps import metrics, points_table, title, verdicts
from nirvana.runs.describe import short_text
from nirvana.runs.run import Run
from nirvana.studies.allocation_steps import accepted, read_steps
from nirvana.studies.matrix_rows import read_matrix
from nirvana.studies.search_trials import ranked, read_trials
from nirvana.studies.sweep_rows import read_rows


def write_matrix(document: Document, run: Run) -> None:
    matrix = read_matrix(run.folder)
    if matrix is None or not matrix.rows:
        return
    document.section("matrix", "Calibration text against evaluation text")
    protocol = describe(matrix.protocol, matrix.seeds(matrix.calibrations[0]))
    document.chart(matrix_figures.ratio_by_text(matrix, short_text), protocol)
    document.chart(matrix_figures.kl_by_text(matrix, short_text), protocol, table=False)


def write_allocation_search(document: Document, run: Run) -> None:
    settings, steps = read_steps(run.folder)
    if settings is None or not accepted(steps):
        return
    document.section("allocation-search", "Search for an allocation")
    protocol = allocation_protocol(settings)
    document.chart(allocation_figures.kl_by_step(steps), protocol)
    for stack in Layout.from_json(settings["layout"]).stacks:
        document.chart(allocation_figures.moved_by_layer(settings, steps, stack), protocol)


def write_sweep(document: Document, run: Run) -> None:
    rows = read_rows(run)
    if not rows:
        return
    document.section("sweep", "Sweep")
    sizes = run.sizes()
    for metric in metrics(rows):
        document.heading(title(metric))
        for verdict in verdicts(rows, metric):
            document.text(verdict.text)
        document.table(sweep_figures.comparison_table(rows, metric), summary="As published, and the same allocation")
        document.chart(sweep_figures.by_sparsity(rows, metric), table=False)
        document.chart(recovery_by_way(rows, metric))
        for against in pareto.AGAINST:
            if against != "speed" or any(row.speed for row in rows):
                chart = pareto.pareto(rows, metric, against, sizes if against == "bytes" else None)
                document.chart(chart, table=False)
    document.table(points_table(rows), summary="Every point")
    for row in rows:
        if row.failure:
            document.text(f"{row.point.label} failed.", "note")


def write_search(document: Document, run: Run) -> None:
    settings, trials = read_trials(run.folder)
    good = ranked(trials)
    if settings is None or not good:
        return
    document.section("search", "Search for a recipe")
    document.text(f"The best of {count(len(good), 'trial')}: {describe_choices(good[0].choices)}.")
    protocol = protocol_words(settings, short_text)
    for choice in CHOICES:
        document.chart(tuning_figures.by_choice(trials, choice), protocol, table=False)
    document.chart(tuning_figures.kl_against_perplexity(trials), protocol, table=False)
    document.chart(tuning_figures.over_time(trials), protocol, table=False)
    document.table(trials_table(good), summary="Every trial, the lowest KL first")
