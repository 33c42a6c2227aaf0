"""Measured allocation against the paper's gamma: perplexity on held-out text, by length of the probe.

    python -m benchmarks.allocation --calibrate "wiki.txt + novels.txt" --evaluate wiki.txt other-novel.txt

Scores, statistics and compensation are the same for all plans of a seed. Loss curves are kept in --curves and rows in
--rows as soon as they are measured, so an interrupted benchmark resumes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

import nirvana as nv
from benchmarks.quality import Bench, Row, measure_rows, publish, settings, shared_options
from nirvana.loss_curves import LEVELS
from nirvana.progress import Progress
from nirvana.saliency.criteria import available


class Point(NamedTuple):
    """One pruned model; `probe` is "samples x length" of the loss curves, or empty for the paper's allocation."""

    seed: int
    probe: str
    sparsity: float
    uniform: bool


def points(args: argparse.Namespace) -> Iterator[Point]:
    """All plans of the arguments, grouped by probe."""
    for seed in args.seeds:
        for probe in ("", *args.probes):
            for sparsity in args.sparsity:
                yield Point(seed, probe, sparsity, False)
                yield Point(seed, probe, sparsity, True)


class Allocations(Bench):
    """Measures plans with the same scores and statistics."""

    def curves(self, point: Point) -> nv.Sensitivity:
        """Loss curves with one probe, continued from its file, if any."""
        file = self.args.curves / f"{self.args.criterion}-{point.seed}-{point.probe.replace(' ', '')}.json"
        samples, length = map(int, point.probe.split("x"))
        probe = nv.sample_probe(self.lm, self.corpus, samples=samples, length=length, seed=42 + point.seed)
        known = nv.Sensitivity.from_json(json.loads(file.read_text())) if file.exists() else None
        started = time.monotonic()

        def show(progress: Progress) -> None:
            elapsed = time.monotonic() - started
            print(f"\r{progress.stage:<40} {progress.fraction:6.1%} {elapsed:6.0f} s", end="", flush=True)

        found = nv.sensitivity(
            self.lm,
            self.saliency(self.args.criterion, point.seed),
            probe,
            levels=LEVELS,
            compensation="least_squares",
            statistics=self.statistics(point.seed),
            known=known,
            keep=lambda curves: (file.write_text(json.dumps(curves.to_json())), None)[1],
            progress=show,
        )
        print()
        return found

    def measure(self, point: Point) -> Row:
        """The row of one pruned model."""
        how: dict[str, Any] = {"gamma": self.args.gamma}
        start = time.perf_counter()
        if point.probe:
            how = {"method": "measured", "sensitivity": self.curves(point)}
        seconds = time.perf_counter() - start
        scores = self.saliency(self.args.criterion, point.seed)
        plan = nv.allocate(scores, sparsity=point.sparsity, uniform=point.uniform, **how)
        small = nv.prune(self.lm, plan, compensation="least_squares", statistics=self.statistics(point.seed))
        row = {"point": point._asdict(), "sparsity": plan.sparsity, "curves_seconds": round(seconds, 1)}
        row |= {"rates": {kind: plan.rate(kind) for kind in ("KV group", "neuron")}, "perplexity": self.read(small)}
        small.unload()
        return row


def table(rows: list[Row]) -> str:
    """Markdown: a line for each allocation and probe, perplexity over the dense model's on each text, mean of seeds."""
    dense, made = rows[0]["perplexity"], rows[1:]
    sparsities = sorted({row["point"]["sparsity"] for row in made})
    lines = ["| allocation | widths | " + " | ".join(f"{each:.0%}" for each in sparsities) + " | curves, minutes |"]
    lines.append("|---" * (len(sparsities) + 3) + "|")
    for probe, uniform in dict.fromkeys((row["point"]["probe"], row["point"]["uniform"]) for row in made):
        own = [row for row in made if (row["point"]["probe"], row["point"]["uniform"]) == (probe, uniform)]
        cells = [f"measured, {probe} tokens" if probe else "gamma", "equal" if uniform else "own"]
        for sparsity in sparsities:
            found = [row["perplexity"] for row in own if row["point"]["sparsity"] == sparsity]
            ratios = [fmean(each[text][0] / dense[text][0] for each in found) for text in dense if found]
            cells.append(" / ".join(f"{ratio:.3f}" for ratio in ratios))
        minutes = max(row["curves_seconds"] for row in made if row["point"]["probe"] == probe) / 60
        lines.append(f"| {' | '.join([*cells, f'{minutes:.0f}' if probe else ''])} |")
    return "\n".join(lines)


def protocol(rows: list[Row], args: argparse.Namespace) -> str:
    """Protocol of the table, in a few sentences."""
    texts = ", ".join(f"{text} ({value[2]:,} tokens)" for text, value in rows[0]["perplexity"].items())
    seeds = sorted({row["point"]["seed"] for row in rows[1:]})
    return (
        f"Perplexity over the dense model's, on {texts}, windows of {args.window}; {args.model}, {args.criterion}, "
        f"least squares, one shot; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}. Calibrated on "
        f"{settings(args)['calibrate']}: scored on {args.samples} x {args.length} tokens, statistics of "
        f"{args.statistics_samples} x {args.length}; gamma {args.gamma:g}; curves at {len(LEVELS)} levels. "
        f"{rows[-1]['date']}, torch {torch.__version__}."
    )


def parse() -> argparse.Namespace:
    parser = shared_options(__doc__, "allocation", seeds=[0], max_tokens=16_384)
    parser.add_argument("--criterion", default="second-order", choices=available(), metavar="NAME")
    parser.add_argument("--probes", nargs="+", default=["32 x 64", "16 x 128", "4 x 512"])
    parser.add_argument("--curves", type=Path, default=Path("curves"), help="folder of the loss curves")
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.curves.mkdir(parents=True, exist_ok=True)
    rows = measure_rows(args, Allocations, points(args))
    publish(args, f"{table(rows)}\n\n{protocol(rows, args)}\n")


if __name__ == "__main__":
    main()
