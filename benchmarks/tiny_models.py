"""Bits per byte of the tiny built-in models, dense and pruned, on text that they were not trained on.

    python -m benchmarks.tiny_models --text novel.txt

Prints a Markdown table: each model dense, and after the default recipe at each sparsity, calibrated on the beginning
of --calibrate (by default the built-in python-docs).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers

import nirvana as nv
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.models.tiny import NAMES
from nirvana.runs.recipe import Recipe


def measure(name: str, text: str, calibration_text: Corpus, args: argparse.Namespace) -> list[nv.Perplexity]:
    """Bits per byte of the dense model, then at each sparsity."""
    lm = nv.load_model(name, device="cpu")
    calibration = nv.sample_calibration(lm, calibration_text, samples=args.samples, length=args.length, seed=args.seed)
    saliency = nv.score(lm, calibration)
    plans = [nv.allocate(saliency, sparsity=sparsity, gamma=args.gamma) for sparsity in args.sparsity]
    models = [lm, *(nv.prune(lm, plan) for plan in plans)]
    return [nv.perplexity(model, text, window=args.window, max_tokens=args.max_tokens) for model in models]


def main() -> None:
    default = Recipe()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibrate", default=default.calibration.corpus)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.2, 0.4])
    parser.add_argument("--gamma", type=float, default=default.allocation.gamma)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=65_536)
    args = parser.parse_args()
    text, calibration_text = args.text.read_text(encoding="utf-8"), nv.load_corpus(args.calibrate)
    columns = ["dense", *(f"{sparsity:.0%}" for sparsity in args.sparsity)]
    print("| model | parameters | " + " | ".join(columns) + " |\n|---|---|" + "---|" * len(columns))
    for name in NAMES:
        results = measure(name, text, calibration_text, args)
        cells = [f"{result.bits_per_byte:.3f}" for result in results]
        task = f" ({results[0].task})" if results[0].task else ""
        millions = nv.load_model(name, device="cpu").layout.parameters / 1e6
        print(f"| {name}{task} | {millions:.1f} M | " + " | ".join(cells) + " |", flush=True)
    print(
        f"\nBits per byte of {args.text.name}, {results[0].windows} windows of {args.window} bytes. Criterion nirvana, "
        f"gamma {args.gamma:g}, {args.samples} x {args.length} bytes of {args.calibrate}, seed {args.seed}; float32 on "
        f"the CPU, torch {torch.__version__}, transformers {transformers.__version__}."
    )


if __name__ == "__main__":
    main()
