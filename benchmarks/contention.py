"""Scoring beside busy processes: seconds for each policy of the OpenMP threads, alone and beside neighbours.

    python -m benchmarks.contention

Each policy has a separate process, which loads the model once and then scores on demand. In each round every policy
scores once alone and once beside the neighbours: processes that score the same model without a pause, under the
runtime's default policy unless --polite is given. Rounds are interleaved, so that a drift of the machine's speed
affects all policies equally. A pass counts as disturbed where other processes took more than a tenth of the processors
meanwhile; it is used only where a policy has no other.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import IO, NamedTuple

import psutil

from nirvana.environment import POLICY, RELATED
from nirvana.progress import Progress

MODELS = {"tiny-llama": 32, "smollm2-135m": 8}  # samples of LENGTH tokens
LENGTH = 128
LIMIT = 60.0  # seconds, after which a pass is stopped
DEFAULT = "default"
POLICIES = (
    "GOMP_SPINCOUNT=1000",
    "GOMP_SPINCOUNT=3000",
    "GOMP_SPINCOUNT=10000",
    "OMP_WAIT_POLICY=PASSIVE",
    "OMP_NUM_THREADS=1",
)
DISTURBED = 0.1  # share of the processors


class Pass(NamedTuple):
    """Seconds of one pass, infinite beyond LIMIT, and the share of the processors used by other processes."""

    seconds: float
    strangers: float


Passes = dict[str, tuple[list[Pass], list[Pass]]]  # policy -> alone, beside


class Child:
    """A process that holds the model: it scores once on demand, or without a pause while it is `busy`."""

    def __init__(self, model: str, policy: Mapping[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in (*RELATED, "OMP_NUM_THREADS")}
        command = [sys.executable, "-m", "benchmarks.contention", "--child", model]
        self._process = psutil.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean | dict(policy)
        )
        self._read()

    def score(self, others: Sequence[Child] = ()) -> Pass:
        """One pass beside the busy `others`."""
        start, before, known = time.perf_counter(), _busy(), sum(child.used() for child in (self, *others))
        self._send("score")
        seconds = float(self._read())
        ours = sum(child.used() for child in (self, *others)) - known
        wall = time.perf_counter() - start
        return Pass(seconds, max(0.0, _busy() - before - ours) / wall / (os.cpu_count() or 1))

    def used(self) -> float:
        """Processor seconds so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def rest(self) -> None:
        """Stop the load; returns once it has stopped."""
        self._send("rest")
        self._read()

    def work(self) -> None:
        """Start the load; returns once it has started."""
        self._send("work")
        self._read()

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()

    def _send(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line: str = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"A child process ended with exit code {self._process.wait()}.")
        return line.strip()


def _busy() -> float:
    """Processor seconds of all processes of the machine so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def serve(model: str, commands: IO[str], answers: IO[str]) -> None:
    """The child's side. It ends when its input closes, so it never outlives its parent."""
    import numpy as np

    import nirvana as nv

    lm = nv.load_model(model, device="cpu")
    vocabulary = lm.family.geometry(lm.settings)["vocabulary"]
    draw = np.random.default_rng(0)
    calibration = nv.CalibrationSet(draw.integers(0, vocabulary, (MODELS[model], LENGTH)))
    nv.score(lm, calibration)  # the first call sets up kernels
    busy, asked = threading.Event(), threading.Event()
    pending: list[str] = []

    def read() -> None:
        for line in commands:
            pending.append(line.strip())
            busy.clear()
            asked.set()
        os._exit(0)

    def pause(progress: Progress) -> None:
        if not busy.is_set():
            raise nv.Cancelled

    def give_up(progress: Progress) -> None:
        if time.perf_counter() - start > LIMIT:
            raise nv.Cancelled

    def answer(text: str) -> None:
        print(text, file=answers, flush=True)

    threading.Thread(target=read, daemon=True).start()
    answer("ready")
    while True:
        asked.wait()
        asked.clear()
        command = pending.pop()
        if command == "score":
            start = time.perf_counter()
            try:
                nv.score(lm, calibration, progress=give_up)
                answer(f"{time.perf_counter() - start:.4f}")
            except nv.Cancelled:
                answer("inf")
            continue
        answer(command)
        if command == "work":
            busy.set()
        while busy.is_set():
            try:
                nv.score(lm, calibration, progress=pause)
            except nv.Cancelled:
                break


@contextmanager
def children(model: str, policies: Sequence[Mapping[str, str]]) -> Iterator[list[Child]]:
    """One process a policy, ended at the end of the block."""
    with ExitStack() as stack:
        started = []
        for policy in policies:
            started.append(Child(model, policy))
            stack.callback(started[-1].end)
        yield started


def measure(
    model: str, policies: Mapping[str, Mapping[str, str]], rounds: int, neighbours: int, around: Mapping[str, str]
) -> Passes:
    """All passes of each policy, with a table after each round."""
    passes: Passes = {name: ([], []) for name in policies}
    with children(model, list(policies.values())) as subjects, children(model, [around] * neighbours) as others:
        for number in range(rounds):
            for beside in (False, True):
                for other in others if beside else ():
                    other.work()
                for name, subject in zip(policies, subjects, strict=True):
                    passes[name][beside].append(subject.score(others if beside else ()))
                for other in others if beside else ():
                    other.rest()
            print(f"\n{model}, after {number + 1} of {rounds} rounds:\n{table(passes)}", flush=True)
    return passes


def table(passes: Passes) -> str:
    """Minimum and median of each policy, both minima over the default's minimum alone, and the undisturbed passes."""
    base = min(undisturbed(passes[DEFAULT][0]))
    lines = [f"{'policy':<24}" + "".join(f"{head:>17}{'ratio':>7}{'passes':>8}" for head in ("alone, s", "beside, s"))]
    for name, both in passes.items():
        line = f"{name:<24}"
        for found in both:
            used, clean = undisturbed(found), sum(each.strangers <= DISTURBED for each in found)
            line += f"{_seconds(min(used)):>9} /{_seconds(median(used)):>6}{_ratio(min(used), base):>7}"
            line += f"{clean:>5}/{len(found)}"
        lines.append(line)
    return "\n".join(lines)


def undisturbed(passes: Sequence[Pass]) -> list[float]:
    """Seconds of the undisturbed passes; of all where there is none."""
    return [each.seconds for each in passes if each.strangers <= DISTURBED] or [each.seconds for each in passes]


def _seconds(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else f"> {LIMIT:g}"


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if math.isfinite(value) else f"> {LIMIT / base:.0f}"


def _policy(words: str) -> dict[str, str]:
    """E.g. "GOMP_SPINCOUNT=1000 OMP_NUM_THREADS=2" as environment variables."""
    return dict(word.split("=", 1) for word in words.split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="repeatable (default: all)")
    parser.add_argument("--policy", action="append", metavar="NAME=VALUE", help="repeatable (default: those of GNU)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--neighbours", type=int, default=2)
    parser.add_argument("--polite", action="store_true", help="neighbours follow this program's own policy too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve(arguments.child, sys.stdin, sys.stdout)
    policies: dict[str, dict[str, str]] = {DEFAULT: {}}
    policies |= {words: _policy(words) for words in arguments.policy or POLICIES}
    for model in arguments.model or MODELS:
        print(f"{model}, {MODELS[model]} x {LENGTH} tokens, {os.cpu_count()} cores, {arguments.neighbours} neighbours.")
        print("Minimum / median; ratios of minima to the default's alone.", flush=True)
        measure(model, policies, arguments.rounds, arguments.neighbours, POLICY if arguments.polite else {})


if __name__ == "__main__":
    main()
