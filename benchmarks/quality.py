"""Quality of each criterion: criterion x allocation x sparsity x compensation, over several seeds.

    python -m benchmarks.quality --calibrate "wiki.txt + novels.txt" --evaluate wiki.txt other-novel.txt

Every row of the result is one pruned model, appended to --rows when it is measured, so an interrupted benchmark
resumes. --into writes the table between two marks of a Markdown file such as docs/results.md, --publish its data to
nirvana/reporting/quality.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import nirvana as nv
from benchmarks.quality_table import between_marks, protocol, summary
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.compensation import METHODS, Compensation
from nirvana.errors import NirvanaError
from nirvana.files import read_json, write_json
from nirvana.reporting.quality import FILE
from nirvana.runs.recipe import Recipe
from nirvana.runs.workspace import Workspace
from nirvana.saliency.criteria import CRITERIA, available

Row = dict[str, Any]


class Point(NamedTuple):
    """One pruned model of the table; "published" includes the authors' compensation."""

    seed: int
    criterion: str
    method: str
    compensation: Compensation
    sparsity: float


def points(args: argparse.Namespace) -> Iterator[Point]:
    """All points, ordered by seed and criterion, so that scores are shared."""
    for seed in args.seeds:
        for name in args.criteria:
            published = CRITERIA[name].compensation
            for sparsity in args.sparsity:
                yield Point(seed, name, "published", published, sparsity)
                for compensation in args.compensation:
                    if CRITERIA[name].published != "shared" or compensation != published:
                        yield Point(seed, name, "shared", compensation, sparsity)


class Bench(ABC):
    """Measures points; holds the dense model, the texts, and shared results of a seed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.lm = nv.load_model(args.model, device=args.device)
        workspace = Workspace(Recipe(), lm=self.lm)
        self.corpus = workspace.corpus(args.calibrate)
        self.texts: dict[str, Corpus] = {Path(name).name: workspace.corpus(name) for name in args.evaluate}
        self._saliency: tuple[tuple[str, int], nv.Saliency] | None = None
        self._statistics: tuple[int, nv.Statistics] | None = None

    def saliency(self, criterion: str, seed: int) -> nv.Saliency:
        """Scores, cached for the last criterion and seed."""
        if self._saliency is None or self._saliency[0] != (criterion, seed):
            drawn = {"samples": self.args.samples, "length": self.args.length, "seed": seed}
            windows = nv.sample_calibration(self.lm, self.corpus, **drawn)
            found = nv.score(self.lm, windows, criterion=criterion, seed=seed)
            self._saliency = (criterion, seed), found
        return self._saliency[1]

    def statistics(self, seed: int) -> nv.Statistics:
        """Statistics, from other windows than the scores."""
        if self._statistics is None or self._statistics[0] != seed:
            args = self.args
            drawn = {"samples": args.statistics_samples, "length": args.length, "seed": 1_000 + seed}
            windows = nv.sample_calibration(self.lm, self.corpus, **drawn)
            self._statistics = seed, nv.collect_statistics(self.lm, windows)
        return self._statistics[1]

    def dense(self) -> Row:
        """The row of the dense model."""
        return {"point": None, "parameters": self.lm.layout.parameters, "perplexity": self.read(self.lm)}

    @abstractmethod
    def measure(self, point: Any) -> Row:
        """The row of one point."""

    def read(self, lm: nv.LM) -> dict[str, list[float]]:
        """Text -> perplexity and its standard error."""
        dtype = getattr(torch, self.args.evaluate_in)
        if lm.dtype != dtype:
            nn.Module.to(model := copy.deepcopy(lm.weights()), dtype)  # transformers' method is not typed
            lm = replace(lm, model=model)
        found = {}
        for name, text in self.texts.items():
            got = nv.perplexity(lm, text, window=self.args.window, max_tokens=self.args.max_tokens)
            found[name] = [got.value, got.standard_error, got.tokens]
        return found


class Criteria(Bench):
    """Measures one criterion, allocation and compensation at a time."""

    def measure(self, point: Point) -> Row:
        """The row of one pruned model, or its error."""
        start = time.perf_counter()
        try:
            plan = nv.allocate(
                self.saliency(point.criterion, point.seed),
                sparsity=point.sparsity,
                gamma=self.args.gamma,
                method=point.method,
            )
        except NirvanaError as error:
            return {"point": point._asdict(), "failure": str(error)}
        statistics = None if point.compensation == "none" else self.statistics(point.seed)
        small = nv.prune(self.lm, plan, compensation=point.compensation, statistics=statistics)
        row = {"point": point._asdict(), "sparsity": plan.sparsity, "parameters": small.layout.parameters}
        row["perplexity"] = self.read(small)
        small.unload()
        return row | {"seconds": round(time.perf_counter() - start, 1)}


def settings(args: argparse.Namespace) -> Row:
    """Settings shared by all rows of a file."""
    kept = ("model", "gamma", "samples", "statistics_samples", "length", "window", "max_tokens", "evaluate_in")
    names: Row = {"calibrate": " + ".join(Path(part.strip()).name for part in args.calibrate.split(" + "))}
    names["evaluate"] = [Path(name).name for name in args.evaluate]
    versions = {"torch": torch.__version__, "nirvana": nv.__version__}
    return {name: getattr(args, name) for name in kept} | names | {"versions": versions}


def read_rows(path: Path, wanted: Row) -> list[Row]:
    """Rows of an earlier, interrupted benchmark.

    Raises:
        SystemExit: they have other settings.
    """
    if not path.exists():
        path.write_text(json.dumps({"settings": wanted}) + "\n", encoding="utf-8")
    head, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    if head["settings"] != wanted:
        raise SystemExit(f"{path} was measured with {head['settings']}: give another --rows, or delete it.")
    return rows


def measure_rows(
    args: argparse.Namespace, bench: Callable[[argparse.Namespace], Bench], points: Iterable[Any]
) -> list[Row]:
    """The row of the dense model, then those of `points`, named tuples; those that --rows lacks are measured and
    appended to it. `bench` is opened only if one is missing.
    """
    rows = read_rows(args.rows, settings(args))
    done = [row["point"] for row in rows]
    missing = [point for point in (None, *points) if (point and point._asdict()) not in done]
    opened = bench(args) if missing else None
    with args.rows.open("a", encoding="utf-8") as file:
        for number, point in enumerate(missing, start=1):
            assert opened is not None
            row = opened.dense() if point is None else opened.measure(point)
            row["date"] = datetime.now(UTC).date().isoformat()
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"[{number}/{len(missing)}]", json.dumps(row), flush=True)
    return rows


def publish(args: argparse.Namespace, text: str) -> None:
    """Print `text`, and write it between the marks of --into, if given."""
    print(text)
    if args.into:
        args.into.write_text(between_marks(args.into.read_text(encoding="utf-8"), args.mark, text), encoding="utf-8")


def shared_options(description: str | None, name: str, *, seeds: list[int], max_tokens: int) -> argparse.ArgumentParser:
    """Parser with the options of every benchmark of quality; `name` is that of its rows' file and of its marks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calibrate", default="python-docs", help='a corpus, or a mixture "a + b"')
    parser.add_argument("--evaluate", nargs="+", default=["python-docs", "library-docs"])
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.2, 0.4])
    parser.add_argument("--gamma", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--samples", type=int, default=48, help="windows for the scores")
    parser.add_argument("--statistics-samples", type=int, default=96, help="windows of the compensation's statistics")
    parser.add_argument("--length", type=int, default=256, help="tokens of a window")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=max_tokens)
    parser.add_argument("--evaluate-in", default="float32", help="dtype of the perplexity measurement")
    parser.add_argument("--rows", type=Path, default=Path(f"{name}.jsonl"))
    parser.add_argument("--into", type=Path, help="Markdown file for the table")
    parser.add_argument("--mark", default=name, help="marks in that file: <!-- MARK --> ... <!-- /MARK -->")
    return parser


def parse() -> argparse.Namespace:
    parser = shared_options(__doc__, "quality", seeds=[0, 1, 2], max_tokens=8_192)
    parser.add_argument("--criteria", nargs="+", default=available(), choices=available(), metavar="NAME")
    parser.add_argument("--publish", action="store_true", help="also write the table where the Method page reads it")
    parser.add_argument("--compensation", nargs="+", default=["none", "least_squares"], choices=METHODS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    rows = measure_rows(args, Criteria, points(args))
    found = summary(rows, protocol(rows, settings(args)))
    publish(args, f"{found.markdown()}\n\n{found.protocol}\n")
    if args.publish:
        write_json(FILE, {**read_json(FILE), args.mark: found.to_json()})


if __name__ == "__main__":
    main()
