"""Columns of the list of runs."""

from __future__ import annotations

from typing import Any

from nirvana.evaluation.results import Report


def history_row(report: Report | None) -> dict[str, Any]:
    """The numbers of a report in a list of runs: "perplexity" as "dense to pruned", and "KL"."""
    if report is None:
        return {"perplexity": "", "KL": None}
    pruned, divergence = report.find("perplexity", "pruned"), report.find("KL divergence", "pruned")
    dense = report.find("perplexity", "dense", corpus=pruned.protocol.get("corpus")) if pruned else None
    shown = f"{dense.value:,.4g} → {pruned.value:,.4g}" if pruned and dense else ""
    return {"perplexity": shown, "KL": divergence.value if divergence else None}
