"""Recovery: perplexity of pruned and recovered models on held-out text, by method and minutes.

    python -m benchmarks.recovery --calibrate "wiki.txt + novels.txt" --evaluate wiki.txt other-novel.txt

Every row is one recovery, appended to --rows when it is measured, so an interrupted benchmark resumes; with --state an
interrupted recovery continues too. All recoveries have the same text and the same minutes, beside which nothing else
should run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch

import nirvana as nv
from benchmarks.quality import Bench, Row, measure_rows, publish, settings, shared_options
from nirvana.progress import Progress
from nirvana.recovery.options import METHODS, RecoveryOptions
from nirvana.saliency.criteria import available

UNTRAINED = ""


class Point(NamedTuple):
    """One model; `method` is empty for the pruned model before its recovery."""

    seed: int
    criterion: str
    sparsity: float
    method: str
    minutes: float
    options: str


def points(args: argparse.Namespace) -> Iterator[Point]:
    """All recoveries of the arguments, each pruned model first."""
    for seed in args.seeds:
        for criterion in args.criteria:
            for sparsity in args.sparsity:
                yield Point(seed, criterion, sparsity, UNTRAINED, 0.0, "")
                for minutes in args.minutes:
                    for method in args.methods:
                        for options in args.options:
                            yield Point(seed, criterion, sparsity, method, minutes, options)


class Recoveries(Bench):
    """Measures recoveries of models that are pruned with the same statistics and allocation."""

    _small: tuple[tuple[int, str, float], nv.LM] | None = None

    def small(self, point: Point) -> nv.LM:
        """The pruned model of a point; the last one is kept."""
        key = point.seed, point.criterion, point.sparsity
        if self._small is None or self._small[0] != key:
            plan = nv.allocate(
                self.saliency(point.criterion, point.seed), sparsity=point.sparsity, gamma=self.args.gamma
            )
            statistics = self.statistics(point.seed)
            self._small = key, nv.prune(self.lm, plan, compensation="least_squares", statistics=statistics)
        return self._small[1]

    def measure(self, point: Point) -> Row:
        """The row of one model."""
        small, row = self.small(point), Row(point=point._asdict())
        if point.method == UNTRAINED:
            return row | {"perplexity": self.read(small), **self.tasks(small)}
        options = RecoveryOptions(method=point.method, minutes=point.minutes, seed=point.seed)
        options = options.with_values(**dict(map(_value, filter(None, point.options.split(",")))))
        state = self.args.state / "-".join(map(str, point)).replace(" ", "") if self.args.state else None
        started = time.monotonic()

        def show(progress: Progress) -> None:
            print(f"\r{point} {progress.fraction:6.1%} {time.monotonic() - started:6.0f} s", end="", flush=True)

        healed = nv.recover(small, self.corpus, teacher=self.lm, options=options, state=state, progress=show)
        print()
        history = healed.history
        assert history is not None
        row |= {"steps": len(history.steps), "tokens": history.steps[-1].tokens, "best": history.best.step}
        row |= {"seconds": round(history.checks[-1].seconds, 1), "stopped": history.stopped}
        row["checks"] = [[each.tokens, round(each.seconds), each.perplexity, each.kl] for each in history.checks]
        row |= {"perplexity": self.read(healed), **self.tasks(healed)}
        healed.unload()
        return row

    def dense(self) -> Row:
        """The row of the dense model, with its zero-shot accuracies."""
        return super().dense() | self.tasks(self.lm)

    def tasks(self, lm: nv.LM) -> Row:
        """Zero-shot accuracies by task, if any are asked for."""
        if not self.args.zero_shot:
            return {}
        found = nv.zero_shot(replace(lm), self.args.zero_shot, items=self.args.items)
        whole = [task for task in found.tasks if "/" not in str(task.task)]  # parts of a task are in it already
        return {"zero_shot": {str(task.task): task.value() for task in whole}}


def _value(text: str) -> tuple[str, Any]:
    """ "rank=8" -> ("rank", 8)."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def table(rows: list[Row]) -> str:
    """Markdown: a line for each criterion, sparsity, method and budget; perplexity over the dense model's."""
    dense = rows[0]
    texts = list(dense["perplexity"])
    lines = ["| criterion | sparsity | recovery | minutes | tokens | " + " | ".join(texts) + " | zero-shot |"]
    lines.append("|---" * (len(texts) + 6) + "|")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows[1:]:
        groups.setdefault(tuple(row["point"].values())[1:], []).append(row)
    for (criterion, sparsity, method, minutes, options), found in groups.items():
        cells = [criterion, f"{sparsity:.0%}", f"{method} {options}".strip() or "none", f"{minutes:g}"]
        cells.append(f"{fmean(row.get('tokens', 0) for row in found):,.0f}")
        for text in texts:
            ratios = [row["perplexity"][text][0] / dense["perplexity"][text][0] for row in found]
            cells.append(f"{fmean(ratios):.3f}" + (f" ± {stdev(ratios):.3f}" if len(ratios) > 1 else ""))
        means = [fmean(row["zero_shot"].values()) for row in found if row.get("zero_shot")]
        cells.append(f"{fmean(means):.1%}" if means else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def protocol(rows: list[Row], args: argparse.Namespace) -> str:
    """Protocol of the table, in a few sentences."""
    read = ", ".join(f"{text} ({value[2]:,} tokens)" for text, value in rows[0]["perplexity"].items())
    seeds = sorted({row["point"]["seed"] for row in rows[1:]})
    tasks = rows[0].get("zero_shot") or {}
    accuracy = (
        f" Zero-shot: mean of {', '.join(tasks)}, the dense model's {fmean(tasks.values()):.1%}." if tasks else ""
    )
    return (
        f"Perplexity over the dense model's, on {read}, windows of {args.window}; ± is the standard deviation over "
        f"seeds {', '.join(map(str, seeds))}. {args.model}, gamma {args.gamma:g}, least squares; scored, compensated "
        f"and trained on {settings(args)['calibrate']}.{accuracy} {rows[-1]['date']}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads."
    )


def parse() -> argparse.Namespace:
    parser = shared_options(__doc__, "recovery", seeds=[0, 1, 2], max_tokens=16_384)
    parser.add_argument("--criteria", nargs="+", default=["second-order"], choices=available(), metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--minutes", nargs="+", type=float, default=[20.0])
    parser.add_argument("--options", nargs="+", default=[""], help='e.g. "rank=8,learning_rate=0.001"')
    parser.add_argument("--zero-shot", nargs="*", default=[], help="tasks, files or folders")
    parser.add_argument("--items", type=int, default=100, help="items of each task")
    parser.add_argument("--state", type=Path, help="folder of interrupted recoveries")
    return parser.parse_args()


def main() -> None:
    args = parse()
    rows = measure_rows(args, Recoveries, points(args))
    publish(args, f"{table(rows)}\n\n{protocol(rows, args)}\n")


if __name__ == "__main__":
    main()
