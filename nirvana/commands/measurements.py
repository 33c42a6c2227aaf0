"""Measurements of stored runs: speed, quality against bytes and sensitivity."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nirvana.commands.command import Command
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.errors import RunError
from nirvana.evaluation.results import Report
from nirvana.evaluation.speed_report import SpeedReport, Spread
from nirvana.jobs.execute import check_task
from nirvana.jobs.foreground import execute_here
from nirvana.jobs.tasks.measurements import ScanRequest
from nirvana.loss_curves import Sensitivity
from nirvana.options import add_fields, given
from nirvana.runs.identity import ID
from nirvana.runs.recipe import ModelChoice
from nirvana.runs.run import Run
from nirvana.runs.speed import SpeedRequest
from nirvana.runs.store import EXAMPLE, Store

if TYPE_CHECKING:
    from nirvana.models.lm import LM


class SpeedCommand(Command):
    """Time models in turns: the dense and pruned model of a stored run, or any models."""

    name = "speed"
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "models", nargs="+", metavar="RUN_OR_MODEL", help="a run's id, or models; the first is the baseline"
        )
        add_fields(parser, SpeedRequest)
        parser.add_argument("--sizes", action="store_true", help="also measure quality against bytes of a run's models")
        add_fields(parser, ModelChoice, only=("--device", "--dtype"))

    def run(self, arguments: argparse.Namespace) -> None:
        names: list[str] = arguments.models
        request = SpeedRequest(**given(SpeedRequest, arguments))
        weighed = None
        if len(names) == 1 and (names[0] == EXAMPLE or ID.fullmatch(names[0])):
            timed, weighed = _of_run(Store().open(names[0]), request, arguments.sizes)
        elif arguments.sizes:
            raise RunError("Quality against bytes is measured for a stored run.", "Give a run's id, or omit --sizes.")
        else:
            timed = _of_models(names, given(ModelChoice, arguments), request)
        if arguments.json:
            print_json({"speed": timed.to_json(), "sizes": weighed.to_json() if weighed else None})
            return
        _print_speed(timed)
        if weighed is not None:
            _print_sizes(weighed)


def _of_run(run: Run, request: SpeedRequest, sizes: bool) -> tuple[SpeedReport, Report | None]:
    tasks = {"speed": request.to_json()} | ({"sizes": {"schemes": request.schemes}} if sizes else {})
    for task, values in tasks.items():
        check_task(run, task, values)
    from nirvana.runs.model_cache import ModelCache

    models = ModelCache()
    with Bar().shown() as bar:
        found = {task: execute_here(run, task, values, bar, models) for task, values in tasks.items()}
    return SpeedReport.from_json(found["speed"]), Report.from_json(found["sizes"]) if sizes else None


def _of_models(names: list[str], choice: dict[str, Any], request: SpeedRequest) -> SpeedReport:
    chosen = [ModelChoice(**{**choice, "name": name}) for name in names]
    from nirvana.evaluation.quantisation import quantise
    from nirvana.evaluation.speed import measure_speed
    from nirvana.models.loading import load_model

    models: dict[str, LM] = {}
    with Bar().shown() as bar:
        bar.step("model")
        for each in chosen:
            models[each.name] = load_model(each.name, device=each.device, dtype=each.dtype, progress=bar.progress)
        for scheme in request.schemes:
            models |= {f"{name} {scheme}": quantise(models[name], scheme, progress=bar.progress) for name in names}
        bar.step("speed")
        return measure_speed(models, progress=bar.progress, **request.protocol)


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
    print("Ratios are to the first model, in brackets the ratios that the matrix products' operation counts predict.")
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


SHOWN = 12  # modules


class SensitivityCommand(Command):
    """Prune each module of a kept run's model alone, and show the most sensitive ones."""

    name = "sensitivity"
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", metavar="RUN", help="with scores, as listed by `nirvana runs`")
        add_fields(parser, ScanRequest)

    def run(self, arguments: argparse.Namespace) -> None:
        run = Store().open(arguments.run)
        with Bar().shown() as bar:
            result = execute_here(run, "sensitivity", given(ScanRequest, arguments), bar)
        if arguments.json:
            print_json(result)
            return
        from nirvana.reporting.figures.sensitivity import scan_heatmap

        scores = run.saliency()
        assert scores is not None
        found = Sensitivity.from_json(result)
        chart = scan_heatmap(found, found.levels[-1], scores.layout, run.plan())
        rows = [
            [str(row["layer"]), row["module"], f"{row['KL']:.4g} ± {row['standard error']:.2g}"]
            for row in chart.table.head(SHOWN).to_dict("records")
        ]
        print_table(f"The most sensitive modules at {found.levels[-1]:.0%}", ["layer", "module", "KL, nats"], rows)
        print(chart.takeaway)
