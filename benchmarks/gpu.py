"""Scoring, pruning and speed at the shapes of large models, with random weights: one command for a bare GPU machine.

    python -m benchmarks.gpu --into docs/performance.md          # needs some 40 GB of disk, and no network
    python -m benchmarks.gpu --shapes small --device cpu         # the same on any machine

Each shape is made on the device, saved, and measured in processes of its own: with its weights in memory, and streamed
from the disk. Rows are kept in --folder, so an interrupted benchmark resumes. Random weights have the time and memory
of trained ones; their perplexity means nothing and is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nirvana as nv
from benchmarks.quality_table import between_marks
from benchmarks.shapes import LLAMA, PUBLISHED
from benchmarks.tables import machine, markdown

LARGE = ("Llama-3.1-8B", "Qwen2.5-7B")
SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
SHAPES = {name: PUBLISHED[name] for name in LARGE}
SHAPES["small"] = LLAMA | SMALL | {"num_key_value_heads": 2, "vocab_size": 2048}
SPARSITIES = (0.2, 0.4)


def make(shape: str, device: str, folder: Path) -> None:
    """Make the random model on the device and save it, with a byte tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from nirvana.models.sources import locate

    settings = dict(SHAPES[shape])
    config = AutoConfig.for_model(settings.pop("model_type"), max_position_embeddings=8192, **settings)
    torch.manual_seed(0)
    kind: Any = AutoModelForCausalLM
    with torch.device(device):
        model = kind.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="1GB")
    for file in locate("tiny-llama").path.iterdir():
        if "token" in file.name:
            shutil.copy(file, folder)


class Meter:
    """Seconds and peak memory of steps on one device."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    @contextmanager
    def step(self, row: dict[str, Any]) -> Iterator[None]:
        """Add "seconds" and, on a CUDA device, "peak" bytes above nothing to `row`."""
        self._settle()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        yield
        self._settle()
        row["seconds"] = time.perf_counter() - start
        if self.cuda:
            row["peak"] = torch.cuda.max_memory_allocated()

    def _settle(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def measure(folder: Path, weights: str, device: str, samples: int, length: int) -> Iterator[dict[str, Any]]:
    """The row of each step for one model."""
    meter, lazy = Meter(device), weights == "lazy"

    def load(dtype: str) -> nv.LM:
        return nv.load_model(folder, device=device, dtype=dtype, weights=weights)  # type: ignore[arg-type]

    lm = load("bfloat16")
    windows = nv.CalibrationSet(np.random.default_rng(0).integers(3, 250, (samples, length)))
    text = nv.load_corpus("python-docs")

    def run(step: str, work: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
        row: dict[str, Any] = {"step": step}
        with meter.step(row):
            found = work()
        return row, found

    def forward() -> None:
        with torch.inference_mode():
            for part in torch.split(torch.as_tensor(windows.input_ids, device=lm.device), 4):
                lm.weights()(part, logits_to_keep=1)

    if not lazy:
        forward()  # the first one sets up kernels
        yield run("forward", forward)[0]
    row, scores = run("score", lambda: nv.score(lm, windows))
    yield row | {"details": scores.details}
    if not lazy:
        exact = nv.score(load("float32"), windows)
        agreement = {
            f"{sparsity:.0%}": _agreement(*(nv.allocate(each, sparsity=sparsity) for each in (scores, exact)))
            for sparsity in SPARSITIES
        }
        yield {"step": "score fp32", "agreement": agreement}
        yield run("statistics", lambda: nv.collect_statistics(lm, windows, second_moments=False))[0]
    plans = {f"{sparsity:.0%}": nv.allocate(scores, sparsity=sparsity, multiple_of=64) for sparsity in SPARSITIES}
    row, small = run("prune", lambda: nv.prune(lm, plans["20%"]))
    yield row
    yield run("perplexity", lambda: nv.perplexity(small, text, window=512, max_tokens=8192))[0]
    if not lazy:
        models = {"dense": lm, "20%": small, "40%": nv.prune(lm, plans["40%"])}
        found = nv.measure_speed(models, batch=1, prompt=512, new_tokens=32, repeats=5)
        for name in ("20%", "40%"):
            dense, pruned = found.models["dense"], found.models[name]
            row = {"step": f"speed {name}"}
            for phase in ("prefill", "decode"):
                ideal = getattr(dense, f"{phase}_flops") / getattr(pruned, f"{phase}_flops")
                row[phase] = [ideal, found.ratio(name, phase).median]
            yield row


def _agreement(one: nv.PruningPlan, other: nv.PruningPlan) -> float:
    """Share of the units kept by one plan that the other keeps too."""
    common = sum(len(np.intersect1d(one[site], other[site])) for site in one)
    return common / sum(len(one[site]) for site in one)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: steps of each shape in memory and streamed, then plans and speed."""
    found = {(row["shape"], row["weights"], row["step"]): row for row in rows}
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    lines = []
    for shape in shapes:
        base = found.get((shape, "memory", "forward"), {}).get("seconds")
        for weights in ("memory", "lazy"):
            for step in ("forward", "score", "statistics", "prune", "perplexity"):
                row = found.get((shape, weights, step))
                if row:
                    passes = f"{row['seconds'] / base:.2f}" if base and step in ("score", "statistics") else ""
                    peak = f"{row['peak'] / 1e9:.1f} GB" if "peak" in row else ""
                    way = "in memory" if weights == "memory" else "streamed"
                    lines.append([shape, way, step, f"{row['seconds']:.2f} s", passes, peak])
    text = markdown(["shape", "weights", "step", "time", "forward passes", "peak device memory"], lines)
    more = []
    for shape in shapes:
        same = found.get((shape, "memory", "score fp32"), {}).get("agreement", {})
        for name in ("20%", "40%"):
            speed = found.get((shape, "memory", f"speed {name}"))
            if speed:
                cells = [f"{speed[phase][1]:.2f} x of {speed[phase][0]:.2f} x" for phase in ("prefill", "decode")]
                more.append([shape, name, f"{same.get(name, 0):.2%}", *cells])
    columns = ["shape", "sparsity", "kept units of float32's plan", "prefill, of the ratio of operations", "decode"]
    return f"{text}\n\n{markdown(columns, more)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(LARGE))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"), help="for models and rows")
    parser.add_argument("--into", type=Path, help="Markdown file with marks for this table")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        shape, weights = given.measure.split(":")
        for row in measure(given.folder / shape, weights, given.device, given.samples, given.length):
            print(json.dumps({"shape": shape, "weights": weights, **row}), flush=True)
        return
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device. Give --device cpu --shapes small to try the script.")
    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for shape in given.shapes:
        for weights in ("memory", "lazy"):
            if any((row["shape"], row["weights"]) == (shape, weights) for row in rows):
                continue
            if not (given.folder / shape / "config.json").exists():
                make(shape, given.device, given.folder / shape)
            command = [sys.executable, "-m", "benchmarks.gpu", "--measure", f"{shape}:{weights}"]
            for name in ("device", "samples", "length", "folder"):
                command += [f"--{name}", str(getattr(given, name))]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            with file.open("a") as out:
                out.write(text)
            rows += [json.loads(line) for line in text.splitlines()]
        shutil.rmtree(given.folder / shape, ignore_errors=True)
    card = torch.cuda.get_device_name() if given.device.startswith("cuda") else "CPU"
    sizes = f"{given.samples} x {given.length} tokens, bfloat16, speed with a prompt of 512 tokens"
    text = f"{table(rows)}\n\n{card}. Random weights, {sizes}. {machine()}\n"
    print(text)
    if given.into:
        given.into.write_text(between_marks(given.into.read_text(encoding="utf-8"), "gpu", text), encoding="utf-8")


if __name__ == "__main__":
    main()
