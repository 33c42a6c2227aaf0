"""Columns of the list of runs."""

from __future__ import annotations

from typing import Any

from nirvana.evaluation.results import Report


def history_row(report: Report | None) -> dict[str, Any]:
    """The numbers of a report in a list of runs: "perplexity" as "dense to pruned to recovered", and "KL" of the last
    model.
    """
    if report is None:
        return {"perplexity": "", "KL": None}
    pruned = report.find("perplexity", "pruned")
    where = {"corpus": pruned.protocol.get("corpus")} if pruned else {}
    values = [found.value for subject in report.subjects if (found := report.find("perplexity", subject, **where))]
    divergence = report.find("KL divergence", report.subjects[-1]) if report.subjects else None
    shown = " → ".join(f"{value:,.4g}" for value in values) if pruned and len(values) > 1 else ""
    return {"perplexity": shown, "KL": divergence.value if divergence else None}
