"""`nirvana sensitivity`: prune each module of a kept run's model alone."""

from __future__ import annotations

import argparse

from nirvana.commands.console import Bar, print_json, print_table
from nirvana.jobs.sensitivity import check_scan, scan_run
from nirvana.runs.store import Store

SHOWN = 12  # modules


def sensitivity(arguments: argparse.Namespace) -> None:
    """Scan with the run's scores, keep the result with it, and show what the model misses most."""
    from nirvana.jobs.foreground import foreground_job
    from nirvana.reporting.figures.sensitivity import scan_heatmap
    from nirvana.runs.model_cache import ModelCache

    store = Store()
    run = store.open(arguments.run)
    check_scan(run, "saliency", rate=arguments.rate)
    with Bar().shown() as bar, foreground_job(store, run, "saliency", "sensitivity"):
        bar.step("sensitivity")
        found = scan_run(run, ModelCache(), arguments.rate, bar.progress)
    if arguments.json:
        print_json(found.to_json())
        return
    scores = run.saliency()
    assert scores is not None
    chart = scan_heatmap(found, scores.layout, run.plan())
    rows = [
        [str(row["layer"]), row["module"], f"{row['KL']:.4g} ± {row['standard error']:.2g}"]
        for row in chart.table.head(SHOWN).to_dict("records")
    ]
    print_table("The most sensitive modules", ["layer", "module", "KL, nats"], rows)
    print(chart.takeaway)
