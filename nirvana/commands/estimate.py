"""`nirvana estimate`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command
from nirvana.commands.console import print_json, print_table
from nirvana.options import add_fields, given
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import Recipe
from nirvana.schema import Schema, option

CHOICES = {  # that change memory or time
    "model": ("--device", "--dtype", "--weights"),
    "calibration": ("--candidates", "--samples", "--length", "--probe-samples", "--probe-length", "--trial-criterion"),
    "allocation": ("--sparsity",),
    "prune": ("--statistics-samples", "--statistics-length"),
    "recovery": (
        "--recovery-minutes",
        "--recovery-tokens",
        "--micro-batch",
        "--recovery-length",
        "--rank",
        "--dropout",
        "--autocast",
        "--checkpointing",
    ),
    "evaluation": ("--window", "--max-tokens"),
}


class DeviceSpeed(Schema):
    """Speed of a device, for durations where none was measured."""

    tflops: float = option(0.0, "--tflops", "TFLOP/s of the device in matrix products, for durations", ge=0)
    bandwidth: float = option(0.0, "--bandwidth", "GB/s of its memory, for durations", ge=0)
    disk: float = option(0.0, "--disk", "GB/s at which weights are read from disk", ge=0)


class EstimateCommand(Command):
    """Predict memory and time of each step without reading weights."""

    name = "estimate"
    group = "steps"
    example = "nirvana estimate smollm2-135m --step score --step recover"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("source", nargs="?", default="smollm2-135m", metavar="MODEL", help="name, folder or file")
        parser.add_argument("--step", action="append", default=[], metavar="STEP", help="may be repeated; default: all")
        for section, flags in CHOICES.items():
            add_options(parser, section, only=flags)
        add_fields(parser, DeviceSpeed)

    def run(self, arguments: argparse.Namespace) -> None:
        from nirvana.estimation.estimate import estimate
        from nirvana.estimation.work import Speed
        from nirvana.models.devices import devices
        from nirvana.reporting.text import duration, megabytes

        recipe, wanted = apply_options(Recipe(), arguments), DeviceSpeed(**given(DeviceSpeed, arguments))
        choice, here = recipe.model, {device.name: device for device in devices()}
        device = next(iter(here)) if choice.device == "auto" else choice.device
        device = "cuda:0" if device == "cuda" else device
        free = here[device].free if device in here else None
        speed = None
        if wanted.tflops and wanted.bandwidth:
            speed = Speed(wanted.tflops * 1e12, wanted.bandwidth * 1e9, wanted.disk * 1e9)
        found = estimate(
            arguments.source,
            arguments.step,
            device,
            dtype=choice.dtype,
            weights=choice.weights,
            recipe=recipe,
            speed=speed,
        )
        if arguments.json:
            print_json({**found.to_json(), "free": free})
            return
        rows = []
        for each in found.steps:
            parts = {name: size for name, size in vars(each.memory).items() if size}
            shown = sorted(parts, key=parts.__getitem__, reverse=True)[:3]
            seconds = "" if each.seconds is None else f"{duration(each.seconds)}, {each.basis}"
            held = ", ".join(f"{name.replace('_', ' ')} {megabytes(parts[name])}" for name in shown)
            fits = "" if free is None else "yes" if each.memory.peak <= free else "no"
            rows.append([each.name, megabytes(each.memory.peak), fits, seconds, held])
        title = f"{found.model}, {found.parameters:,} parameters, {found.dtype} on {found.device}, predicted"
        print_table(title, ["step", "peak", "fits", "time", "largest parts"], rows)
        if free is not None:
            print(f"{megabytes(free)} are free on {device}.")
