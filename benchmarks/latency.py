"""Speed as a budget: plans by measured time beside plans by parameters, predicted against measured speed-up.

    taskset -c 0 env OMP_NUM_THREADS=1 python -m benchmarks.latency --calibrate "wiki.txt + novels.txt" \
        --evaluate wiki.txt other-novel.txt

For each phase, costs are measured, and the measured allocation plans a share of the modules' time. Beside each such
plan stand two by parameters: one with the same predicted speed-up, and one with the same perplexity, interpolated
between plans of several sparsities. All models of a phase are then timed in turns, in one process.

Costs and loss curves are kept in --work, rows in --rows, so an interrupted benchmark resumes. With --clock thread, the
times are processor time of the one thread, so that other programs on the processor disturb them less.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

import nirvana as nv
from benchmarks.quality import Bench, Row, publish, read_rows, settings, shared_options
from nirvana.costs import PHASES
from nirvana.evaluation import speed
from nirvana.progress import Progress
from nirvana.saliency.criteria import available

CLOCKS = {"wall": time.perf_counter, "thread": time.thread_time}
TOLERANCE = 1e-4  # of a sparsity


class Point(NamedTuple):
    """One plan: `share` of `budget` in `phase`, which is empty for one by parameters."""

    budget: str
    phase: str
    share: float


class Latency(Bench):
    """Measures costs, plans by both budgets, and their perplexity and speed."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        args.work.mkdir(parents=True, exist_ok=True)
        self.scores = self._kept("scores", nv.Saliency, lambda: self.saliency(args.criterion, args.seeds[0]))
        self.costs = {phase: self._costs(phase) for phase in PHASES}
        self.curves = self._curves()

    def _kept(self, name: str, kind: Any, compute: Callable[[], Any]) -> Any:
        file = self.args.work / name
        if not file.exists():
            file.write_bytes(compute().to_bytes())
        return kind.from_bytes(file.read_bytes())

    def _costs(self, phase: str) -> nv.CostTable:
        how: dict[str, Any] = {"batch": self.args.batch, "length": self.args.prompt, "phase": phase}
        measure = partial(nv.measure_costs, self.lm, **how, progress=show)
        found: nv.CostTable = self._kept(f"costs-{phase}", nv.CostTable, measure)
        return found

    def _curves(self) -> nv.Sensitivity:
        args, file = self.args, self.args.work / "curves"
        known = nv.Sensitivity.from_bytes(file.read_bytes()) if file.exists() else None
        probe = nv.sample_probe(self.lm, self.corpus, samples=args.probes, length=args.probe_length, seed=42)
        return nv.sensitivity(
            self.lm,
            self.scores,
            probe,
            levels=args.levels,
            compensation="least_squares",
            statistics=self.statistics(args.seeds[0]),
            known=known,
            keep=lambda curves: (file.write_bytes(curves.to_bytes()), None)[1],
            progress=show,
        )

    def plan(self, point: Point) -> nv.PruningPlan:
        """The plan of a point, with the prediction of its phase."""
        costs = self.costs[point.phase] if point.phase else None
        how: dict[str, Any] = {"sensitivity": self.curves, "budget": point.budget, "costs": costs}
        return nv.allocate(self.scores, sparsity=point.share, method="measured", **how)

    def prune(self, point: Point) -> nv.LM:
        """The model of a point."""
        statistics = self.statistics(self.args.seeds[0])
        return nv.prune(self.lm, self.plan(point), compensation="least_squares", statistics=statistics)

    def speed_up(self, point: Point, phase: str) -> float:
        """Predicted for a phase."""
        plan = self.plan(point)
        return self.costs[phase].predict(plan.layout, plan.widths).ratio

    def measure(self, point: Point) -> Row:
        """The row of one plan: its rates, predicted speed-ups and perplexity."""
        plan, small = self.plan(point), self.prune(point)
        row = {"point": list(point), "sparsity": plan.sparsity, "perplexity": self.read(small)}
        row["rates"] = {kind: plan.rate(kind) for kind in ("KV group", "neuron")}
        row["predicted"] = {phase: self.speed_up(point, phase) for phase in PHASES}
        small.unload()
        return row

    def as_fast(self, point: Point) -> Point:
        """The plan by parameters with the predicted speed-up of a plan by time."""
        wanted, low, high = self.speed_up(point, point.phase), 0.01, 0.8
        while high - low > TOLERANCE:
            middle = (low + high) / 2
            fast = self.speed_up(Point("parameters", "", middle), point.phase) < wanted
            low, high = (middle, high) if fast else (low, middle)
        return Point("parameters", "", round((low + high) / 2, 4))

    def time(self, phase: str, points: list[Point]) -> Row:
        """The row of one phase: speed of the models of `points`, in turns with the dense one."""
        models = {"dense": self.lm} | {name_of(point): self.prune(point) for point in points}
        new = 2 if phase == "prefill" else self.args.new_tokens
        how = {"batch": self.args.batch, "prompt": self.args.prompt, "new_tokens": new}
        found = nv.measure_speed(models, **how, repeats=self.args.repeats, progress=show)
        print()
        return {"phase": phase, "points": [list(point) for point in points], "speed": found.to_json()}


def show(progress: Progress) -> None:
    """One line of progress."""
    print(f"\r{progress.stage:<60} {progress.fraction:6.1%}", end="", flush=True)


def name_of(point: Point) -> str:
    """Name of a point's model, e.g. "latency prefill 0.2"."""
    return " ".join(filter(None, (point.budget, point.phase, f"{point.share:g}")))


def ratio(row: Row, dense: Row) -> float:
    """Geometric mean over the texts of perplexity over the dense model's."""
    logs = [math.log(row["perplexity"][text][0] / dense["perplexity"][text][0]) for text in dense["perplexity"]]
    return math.exp(fmean(logs))


def as_good(wanted: Row, dense: Row, grid: list[Row]) -> Point:
    """The sparsity in parameters with the perplexity of a row, between those of `grid`."""
    pairs = sorted((math.log(ratio(row, dense)), row["point"][2]) for row in grid)
    goals, shares = np.array(pairs).T
    return Point("parameters", "", round(float(np.interp(math.log(ratio(wanted, dense)), goals, shares)), 4))


class Journal:
    """Rows of the file --rows, which are measured where they are missing."""

    def __init__(self, args: argparse.Namespace) -> None:
        own = {name: getattr(args, name) for name in ("batch", "prompt", "clock", "criterion", "levels", "probes")}
        own |= {"probe_length": args.probe_length, "threads": torch.get_num_threads()}
        self.path, self.rows = args.rows, read_rows(args.rows, settings(args) | own)

    def row(self, key: Row, measure: Callable[[], Row]) -> Row:
        """The row with the values of `key`."""
        for row in self.rows:
            if key.items() <= row.items():
                return row
        row = key | measure() | {"date": datetime.now(UTC).date().isoformat()}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({name: value for name, value in row.items() if name != "speed"}), flush=True)
        return row


class Trio(NamedTuple):
    """A plan by time, and those by parameters as fast by prediction, and as good by perplexity."""

    latency: Point
    fast: Point
    good: Point


def trios(bench: Latency, journal: Journal, dense: Row) -> Iterator[Trio]:
    """The plans to compare; perplexities are measured on the way."""

    def measured(point: Point) -> Row:
        return journal.row({"point": list(point)}, lambda: bench.measure(point))

    grid = [measured(Point("parameters", "", share)) for share in bench.args.grid]
    for phase in PHASES:
        for share in bench.args.sparsity:
            point = Point("latency", phase, share)
            row = measured(point)
            fast = bench.as_fast(point)
            grid.append(measured(fast))
            good = as_good(row, dense, grid)
            grid.append(measured(good))
            yield Trio(point, fast, good)


def table(found: list[Trio], journal: Journal, dense: Row) -> str:
    """Markdown: one line a plan."""
    titles = ("phase", "plan", "parameters removed", "attention / MLP removed", "perplexity over dense")
    lines = [f"| {' | '.join(titles)} | speed-up, predicted | measured (quartiles) | measured over predicted |"]
    lines.append("|---" * 8 + "|")
    rows = {tuple(row["point"]): row for row in journal.rows if row.get("point")}
    for phase in PHASES:
        timed = next(row for row in journal.rows if row.get("phase") == phase)
        report = nv.SpeedReport.from_json(timed["speed"])
        for trio in found:
            if trio.latency.phase != phase:
                continue
            share = f"{trio.latency.share:.0%} of the time"
            names = (f"**{share}**", "parameters, as fast by prediction", "parameters, as good")
            for name, point in zip(names, trio, strict=True):
                row, spread = rows[tuple(point)], report.ratio(name_of(point), phase)
                rates, predicted = row["rates"], row["predicted"][phase]
                cells = [phase, name, f"{row['sparsity']:.1%}", f"{rates['KV group']:.1%} / {rates['neuron']:.1%}"]
                cells += [f"{ratio(row, dense):.3f}", f"{predicted:.2f}"]
                cells += [f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"]
                lines.append(f"| {' | '.join(cells)} | {spread.median / predicted:.3f} |")
    return "\n".join(lines)


def protocol(journal: Journal, args: argparse.Namespace, bench: Latency) -> str:
    """Protocol of the table, in a few sentences."""
    dense = journal.rows[0]["perplexity"]
    texts = ", ".join(f"{text} ({value[2]:,} tokens)" for text, value in dense.items())
    report = nv.SpeedReport.from_json(next(row for row in journal.rows if row.get("phase"))["speed"])
    spreads = ", ".join(f"{phase} {table.protocol['spread']:.0%}" for phase, table in bench.costs.items())
    clock = "processor time of the thread" if args.clock == "thread" else "wall-clock time"
    repeats = bench.costs["prefill"].protocol["repeats"]
    return (
        f"{args.model}, {args.batch} x {args.prompt} tokens, float32 on {report.device}, {report.threads} thread; "
        f"{clock}. Costs: medians of about {repeats} timings of each size, quartiles typically apart by: {spreads}. "
        f"Speed: {report.repeats} turns of each model, all models of a phase in turns; the ratio is to the dense "
        f"model's turn beside it. Perplexity: geometric mean of the ratios on {texts}, windows of {args.window}; "
        f"{args.criterion}, measured allocation with curves at {len(args.levels)} levels on {args.probes} x "
        f"{args.probe_length} tokens, least squares. Calibrated on {settings(args)['calibrate']}. "
        f"{journal.rows[-1]['date']}, torch {torch.__version__}."
    )


def parse() -> argparse.Namespace:
    parser = shared_options(__doc__, "latency", seeds=[0], max_tokens=8_192)
    parser.add_argument("--criterion", default="second-order", choices=available(), metavar="NAME")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=33)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--probe-length", type=int, default=512)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.15, 0.3, 0.45, 0.65])
    parser.add_argument("--grid", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5], help="sparsities")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--work", type=Path, default=Path("latency"), help="folder of scores, costs and curves")
    return parser.parse_args()


def main() -> None:
    args = parse()
    speed.clock = CLOCKS[args.clock]
    journal, bench = Journal(args), Latency(args)
    dense = journal.row({"point": None}, bench.dense)
    found = list(trios(bench, journal, dense))
    for phase in PHASES:
        points = list(dict.fromkeys(point for trio in found if trio.latency.phase == phase for point in trio))
        key = {"phase": phase, "points": [list(point) for point in points]}
        journal.row(key, lambda phase=phase, points=points: bench.time(phase, points))  # type: ignore[misc]
    publish(args, f"{table(found, journal, dense)}\n\n{protocol(journal, args, bench)}\n")


if __name__ == "__main__":
    main()
