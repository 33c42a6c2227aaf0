"""Cost of scoring: time in plain forward passes and peak memory above the loaded model, against plain autograd.

    python -m benchmarks.saliency

Each way runs in a separate process, between two plain forward passes over the same tokens (the whole batch at once, no
autograd), on an idle machine. Peak memory is the process's resident memory, counted by the kernel where possible.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import nirvana as nv
from benchmarks.tables import markdown
from nirvana.models.limits import give_back_free_memory
from nirvana.saliency.units import add_unit_sums, unit_weights

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Memory:
    """Resident bytes of this process above those at the start, and their peak."""

    def __init__(self) -> None:
        self.start = psutil.Process().memory_info().rss
        self.peak = 0

    @contextmanager
    def watched(self) -> Iterator[Memory]:
        """Take the peak from the kernel where it can be reset, else sample every two milliseconds."""
        if CLEAR.exists():
            CLEAR.write_text("5")
            yield self
            lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
            self.peak = int(lines["VmHWM"].split()[0]) * 1024 - self.start
            return
        process, done = psutil.Process(), threading.Event()

        def look() -> None:
            while not done.wait(0.002):
                self.peak = max(self.peak, process.memory_info().rss - self.start)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()


def naive(lm: nv.LM, calibration: nv.CalibrationSet) -> nv.Saliency:
    """Plain autograd: all logits with their graph, and all gradients until the end."""
    model = lm.weights()
    model.requires_grad_(True)
    logits = model(calibration.input_ids).logits  # (B, T, V)
    torch.autograd.backward(logits.max(dim=1).values.mean())
    del logits
    sums = {site: torch.zeros(place.units) for site, place in lm.layout.items()}
    for site, part, weight in unit_weights(lm):
        assert weight.grad is not None
        add_unit_sums(sums[site], part, weight, weight.grad)
    return nv.Saliency({site: values.numpy() for site, values in sums.items()}, lm.layout, "nirvana")


def streamed(lm: nv.LM, calibration: nv.CalibrationSet) -> nv.Saliency:
    """Weights on disk, one block in memory at a time; `lm` was loaded so."""
    return nv.score(lm, calibration)


WAYS: dict[str, Callable[[nv.LM, nv.CalibrationSet], nv.Saliency]] = {
    "micro-batches": lambda lm, calibration: nv.score(lm, calibration, strategy="micro-batches"),
    "recompute": lambda lm, calibration: nv.score(lm, calibration, strategy="recompute"),
    "streamed": streamed,
    "plain autograd": naive,
}
AIMS = {"micro-batches": 3.3, "recompute": 4.5, "streamed": 5.0}  # forward passes


def measure(way: str, arguments: argparse.Namespace, answer: Connection) -> None:
    """Run one way in this process and send seconds, forwards, peak bytes and scores."""
    torch.set_num_threads(arguments.threads)
    lm = nv.load_model(arguments.model, device="cpu")
    vocabulary = lm.family.geometry(lm.settings)["vocabulary"]
    draw = np.random.default_rng(0)
    calibration = nv.CalibrationSet(draw.integers(0, vocabulary, (arguments.samples, arguments.length)))

    def forward() -> tuple[float, float]:
        with torch.no_grad():
            return timed(lambda: lm.weights()(calibration.input_ids))[:2]

    with torch.no_grad():
        lm.weights()(calibration.input_ids[:1])  # first calls set up kernels
    before = forward()
    with tempfile.TemporaryDirectory() as folder:
        scored = lm
        if way == "streamed":
            nv.save(lm, Path(folder) / "model")
            scored = nv.load_model(Path(folder) / "model", device="cpu", weights="lazy")
        gc.collect()
        give_back_free_memory()
        memory = Memory()
        with memory.watched():
            seconds, work, saliency = timed(lambda: WAYS[way](scored, calibration))
    after = forward()
    answer.send(
        {
            "way": way,
            "seconds": seconds,
            "forward": (before[0] + after[0]) / 2,
            "forwards": 2 * seconds / (before[0] + after[0]),
            "forwards of CPU time": 2 * work / (before[1] + after[1]),
            "peak": memory.peak,
            "details": saliency.details,
            "scores": {site.key: values.tolist() for site, values in saliency.items()},
        }
    )


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds on the clock, seconds of processor time, and the result."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - clock, time.process_time() - processor, result


def in_own_process(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(way, arguments, sender))
    process.start()
    sender.close()
    try:
        result: dict[str, Any] = receiver.recv()
    except EOFError:
        raise SystemExit(f"{way}: the process ended without a result (out of memory?)") from None
    process.join()
    return result


def table() -> str:
    """Markdown, with the aims; the last way is the reference of the scores."""
    rows = []
    for result in compared(options([])):
        aim = AIMS.get(result["way"])
        within = "" if aim is None else "yes" if result["forwards"] <= aim else "no"
        cells = [result["way"], f"{result['forwards']:.2f}", f"{result['forwards of CPU time']:.2f}"]
        cells += ["" if aim is None else f"{aim:g}", within, f"{result['peak'] / 1e6:,.0f} MB"]
        rows.append([*cells, f"{result['difference']:.0e}"])
    columns = ["strategy", "forward passes", "of CPU time", "aim", "met", "peak memory", "difference of largest score"]
    return markdown(columns, rows)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args(arguments)


def compared(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A result for each way, with the difference of its scores from those of the last."""
    results = [in_own_process(way, arguments) for way in arguments.ways]
    reference = {key: np.array(values) for key, values in results[-1]["scores"].items()}
    largest = max(float(values.max()) for values in reference.values())
    for result in results:
        scores = result.pop("scores")
        worst = max(float(np.abs(np.array(scores[key]) - values).max()) for key, values in reference.items())
        result["difference"] = worst / largest
    return results


def main() -> None:
    arguments = options()
    results = compared(arguments)
    if arguments.json:
        print(json.dumps({"settings": vars(arguments), "results": results}, indent=1))
        return
    print(f"{arguments.model}, {arguments.samples} x {arguments.length} tokens, CPU, {arguments.threads} threads")
    print(f"{'':16}{'samples':>9}{'seconds':>9}{'forwards':>10}{'CPU time':>10}{'peak':>10}{'difference':>12}")
    print(f"{'':16}{'at once':>9}{'':>9}{'':>10}{'forwards':>10}{'MB above':>10}{'of largest':>12}")
    for result in results:
        print(
            f"{result['way']:16}{result['details'].get('micro_batch', arguments.samples):>9}{result['seconds']:>9.1f}"
            f"{result['forwards']:>10.2f}{result['forwards of CPU time']:>10.2f}{result['peak'] / 1e6:>10.0f}"
            f"{result['difference']:>12.1e}"
        )


if __name__ == "__main__":
    main()
