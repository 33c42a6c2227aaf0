"""`nirvana speed`: time models in turns, and measure quality against bytes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nirvana.commands.console import Bar, print_json, print_table
from nirvana.errors import RunError
from nirvana.evaluation.results import Report
from nirvana.evaluation.speed_report import SpeedReport, Spread
from nirvana.runs.speed import RANGES, check_schemes, check_speed
from nirvana.runs.store import EXAMPLE, ID, Store

if TYPE_CHECKING:
    from nirvana.models.lm import LM
    from nirvana.runs.run import Run


def speed(arguments: argparse.Namespace) -> None:
    """Of a kept run, whose result stays with it, or of any models, the first of which the others are compared with."""
    protocol = {name: getattr(arguments, name) for name in RANGES}
    schemes = list(dict.fromkeys(arguments.quantised or []))
    names: list[str] = arguments.models
    if len(names) == 1 and (names[0] == EXAMPLE or ID.fullmatch(names[0])):
        timed, weighed = _of_run(Store().open(names[0]), protocol, schemes, arguments.sizes)
    else:
        if arguments.sizes:
            raise RunError(
                "Quality against bytes is measured for a kept run.", "Give a run's id, or leave --sizes out."
            )
        timed, weighed = _of_models(arguments, names, protocol, schemes), None
    if arguments.json:
        print_json({"speed": timed.to_json(), "sizes": weighed.to_json() if weighed else None})
        return
    _print_speed(timed)
    if weighed is not None:
        _print_sizes(weighed)


def _of_run(run: Run, protocol: dict[str, int], schemes: list[str], sizes: bool) -> tuple[SpeedReport, Report | None]:
    if run.info("prune") is None:
        raise RunError("This run has no pruned model yet.", "Run it first, at least until prune.")
    check_speed(run, schemes, **protocol)
    from nirvana.runs.speed import measure_speeds, quality_against_bytes
    from nirvana.runs.workspace import Workspace

    with Bar().shown() as bar:
        bar.step("model")
        workspace = Workspace.of(run, progress=bar.progress)
        workspace.subjects()
        bar.step("speed")
        timed = measure_speeds(workspace, schemes=schemes, **protocol)
        weighed = None
        if sizes:
            bar.step("quality against bytes")
            weighed = quality_against_bytes(workspace, schemes=schemes)
    if not run.is_example:
        run.attach("speed", timed)
        if weighed is not None:
            run.attach("sizes", weighed)
    return timed, weighed


def _of_models(
    arguments: argparse.Namespace, names: list[str], protocol: dict[str, int], schemes: list[str]
) -> SpeedReport:
    check_schemes(schemes)
    from nirvana.evaluation.quantisation import quantise
    from nirvana.evaluation.speed import measure_speed
    from nirvana.models.loading import load_model

    models: dict[str, LM] = {}
    with Bar().shown() as bar:
        bar.step("model")
        for name in names:
            models[name] = load_model(
                name, device=arguments.device or "auto", dtype=arguments.dtype or "auto", progress=bar.progress
            )
        for scheme in schemes:
            models |= {f"{name} {scheme}": quantise(models[name], scheme, progress=bar.progress) for name in names}
        bar.step("speed")
        return measure_speed(models, progress=bar.progress, **protocol)


def _print_speed(report: SpeedReport) -> None:
    columns = [
        "",
        "prefill, tokens/s",
        "decode, tokens/s",
        "first token, s",
        "prefill",
        "decode",
        "file, MB",
        "memory, MB",
    ]
    rows = []
    for name, item in report.models.items():
        ratios = [
            f"{report.ratio(name, metric).median:.2f} ({report.ideal(name, metric):.2f})"
            for metric in ("prefill", "decode")
        ]
        memory = f"{item.memory_bytes / 1e6:,.1f}" + ("" if item.memory_measured else " est.")
        speeds = [_spread(getattr(item, metric)) for metric in ("prefill", "decode", "first_token")]
        rows.append([name, *speeds, *ratios, f"{item.file_bytes / 1e6:,.1f}", memory])
    print_table("Speed: medians, with quartiles", columns, rows)
    print(report.protocol)
    print("Ratios are to the first model, in brackets what the operations of the matrix products promise.")
    if not all(item.memory_measured for item in report.models.values()):
        print("Memory is an estimate, weights and KV cache: a process's memory cannot be split by model.")
    for note in dict.fromkeys(f"{name}: {item.note}." for name, item in report.models.items() if item.note):
        print(note)


def _print_sizes(report: Report) -> None:
    found: dict[str, dict[str, Any]] = {}
    for item in report.measurements:
        found.setdefault(item.subject, {})[item.metric] = item
    rows = [
        [name, f"{items['bytes'].value / 1e6:,.1f}", _perplexity(items["perplexity"])] for name, items in found.items()
    ]
    where = next(item.protocol for item in report.measurements if item.metric == "perplexity")
    print_table("Quality against bytes", ["", "weights, MB", f"perplexity on {where['corpus']}"], rows)
    print(f"{where['tokens']:,} tokens in windows of {where['window']}; ± is one standard error.")


def _perplexity(item: Any) -> str:
    error = "" if item.standard_error is None else f" ± {item.standard_error:,.2f}"
    return f"{item.value:,.2f}{error}"


def _spread(spread: Spread) -> str:
    return f"{spread.median:,.4g} ({spread.low:,.4g} to {spread.high:,.4g})"
