"""Train one of the tiny byte-level models on a folder of .txt files.

    python -m benchmarks.train_tiny_models tiny-llama --text FOLDER --held-out novel.txt

Windows are drawn at random from all files but the held-out one, which is for measurement. Muon (arXiv 2502.16982) steps
the matrices of the blocks, AdamW the rest; after a short warm-up the rate decays linearly to zero. The T5 model learns
both tasks of `nirvana.calibration.tasks`, each on one half of each batch. Text, seed and number of threads determine
the model. `--start FOLDER` continues from such a model with another cycle of warm-up and decay; `training.json` lists
every cycle.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import nirvana as nv
from nirvana.calibration.tasks import FIRST_BYTE, TASKS, make_pairs
from nirvana.models.tiny import FOLDER, NAMES

TOKENS: dict[str, Any] = {"vocab_size": 384, "pad_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": True}
DECODER = {
    **TOKENS,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "intermediate_size": 704,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
}
ENCODER_DECODER = {
    **TOKENS,
    "d_model": 256,
    "d_kv": 32,
    "num_heads": 8,
    "d_ff": 384,
    "num_layers": 4,
    "num_decoder_layers": 3,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
WARM_UP = 50  # steps
OTHER_RATE, TABLE_RATE = 0.4, 5.0  # of AdamW's parameters and of T5's position biases, times the rate of the matrices
T5_EMBEDDING = 0.5  # standard deviation; the library's T5 uses 1, which dominates the blocks' outputs


def initialise(name: str) -> nv.LM:
    """A random model of one of the three shapes, float32 on the CPU, as `load_model` gives it."""
    shapes: dict[str, Any] = {
        "tiny-llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)),
        "tiny-qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**DECODER)),
        "tiny-t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**ENCODER_DECODER)),
    }
    model = shapes[name]()
    if model.config.is_encoder_decoder:
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=T5_EMBEDDING)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer: Any = transformers.ByT5Tokenizer
        tokenizer().save_pretrained(folder)
        return nv.load_model(folder, device="cpu", dtype="float32")


def batches(lm: nv.LM, text: bytes, *, steps: int, batch: int, length: int, seed: int) -> Iterator[dict[str, Any]]:
    """Batches of the steps, as keyword arguments of the model's forward."""
    generator = np.random.default_rng(seed)
    tokens = np.frombuffer(text, np.uint8).astype(np.int64) + FIRST_BYTE
    for _ in range(steps):
        starts = generator.integers(len(tokens) - length, size=(batch, 1))
        windows = tokens[starts + np.arange(length)]
        if not lm.family.encoder_decoder:
            yield {"input_ids": torch.from_numpy(windows), "labels": torch.from_numpy(windows)}
            continue
        for part, task in zip(np.array_split(windows, len(TASKS)), TASKS, strict=True):
            examples = make_pairs(lm, part, task, generator)
            yield {"input_ids": torch.from_numpy(examples.inputs), "labels": torch.from_numpy(examples.labels)}


def fit(lm: nv.LM, text: bytes, *, steps: int, batch: int, length: int, rate: float, seed: int) -> float:
    """Train in place; returns minutes of CPU time."""
    model: Any = lm.weights().train().requires_grad_(True)
    parameters = list(model.parameters())
    blocks = [item for stack in lm.family.blocks(model).values() for item in stack.named_parameters()]
    matrices = [(name, p) for name, p in blocks if p.ndim == 2 and "relative_attention_bias" not in name]
    # T5 does not divide the product of queries and keys by the root of their length; its query weights do.
    queries = [p for name, p in matrices if name.endswith(".q.weight")]
    rest = [p for name, p in matrices if not name.endswith(".q.weight")]
    taken = {id(p) for _, p in matrices}
    tables = [p for name, p in blocks if "relative_attention_bias" in name]  # the only position information of a T5
    taken |= {id(p) for p in tables}
    others: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in taken]}]
    if tables:
        others.append({"params": tables, "lr": TABLE_RATE * rate})
    groups: list[dict[str, Any]] = [{"params": rest}]
    if queries:
        groups.append({"params": queries, "lr": rate * model.config.d_kv**-0.5})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(groups, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=OTHER_RATE * rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]

    def schedule(step: int) -> float:
        return min((step + 1) / WARM_UP, (steps - step) / (steps - WARM_UP))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in optimizers]
    tasks = len(TASKS) if lm.family.encoder_decoder else 1
    started, cpu = time.monotonic(), time.process_time()
    losses: list[float] = []
    for count, inputs in enumerate(batches(lm, text, steps=steps, batch=batch, length=length, seed=seed), 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**inputs, use_cache=False).loss
        (loss / tasks).backward()
        losses.append(float(loss.detach()))
        if count % tasks:
            continue
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, decay in zip(optimizers, schedules, strict=True):
            optimizer.step()
            decay.step()
            optimizer.zero_grad()
        step = count // tasks
        if step % 50 == 0:
            bits = np.mean(losses) / math.log(2)
            print(f"step {step} of {steps}: {bits:.3f} bits per label, {time.monotonic() - started:.0f} s", flush=True)
            losses.clear()
    model.eval()
    return (time.process_time() - cpu) / 60


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    held_out = args.text / args.held_out
    files = [path for path in sorted(args.text.glob("*.txt")) if path != held_out]
    recipe: dict[str, Any] = {
        "steps": args.steps,
        "batch": args.batch,
        "length": args.length,
        "rate": args.rate,
        "seed": args.seed,
    }
    earlier = json.loads((args.start / "training.json").read_text())["cycles"] if args.start else []
    lm = nv.load_model(args.start, device="cpu", dtype="float32") if args.start else initialise(args.name)
    minutes = fit(lm, b"\n\n".join(path.read_bytes() for path in files), **recipe)
    model: Any = lm.weights()
    model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    folder = args.output / args.name
    model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    result = nv.perplexity(nv.load_model(folder, device="cpu"), held_out.read_text(), window=512, max_tokens=10**9)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    record = {
        "cycles": [*earlier, {**recipe, "threads": args.threads, "cpu_minutes": round(minutes, 1), "text": hashes}],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "held_out": {
            "file": held_out.name,
            "sha256": hashlib.sha256(held_out.read_bytes()).hexdigest(),
            "window": result.window,
            "tokens": result.tokens,
            "task": result.task,
            "bits_per_byte": round(result.bits_per_byte, 4),
        },
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(args.name, lm.layout.parameters, record), encoding="utf-8")
    print(json.dumps(record, indent=1))


def card(name: str, parameters: int, record: dict[str, Any]) -> str:
    """The model card; its first lines name the licence, which pruned checkpoints repeat."""
    cycles, held_out = record["cycles"], record["held_out"]
    parts = [
        "{steps:,} steps of {batch} x {length} bytes, rate {rate:g}, seed {seed}, on ".format(**cycle)
        + ", ".join(cycle["text"])
        for cycle in cycles
    ]
    recipe = "\n".join(f"{number}. {part}" for number, part in enumerate(parts, start=1))
    minutes = sum(cycle["cpu_minutes"] for cycle in cycles)
    measured = f"{held_out['bits_per_byte']:.3f} bits per byte on {held_out['file']}"
    task = f" ({held_out['task']})" if held_out["task"] else ""
    return f"""---
license: apache-2.0
---

# {name}

{parameters:,} parameters, bytes as tokens (ByT5's tokenizer), stored in bfloat16. For demonstrations of pruning only.

Trained by `python -m benchmarks.train_tiny_models {name}` in {minutes:.0f} minutes of CPU time:

{recipe}

None of that text is in here.

Measured: {measured}, which it was not trained on, in windows of {held_out["window"]} bytes{task}.
`training.json` has the hashes and versions.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--text", type=Path, required=True, help="a folder of .txt files")
    parser.add_argument("--held-out", required=True, help="its file for measurement, excluded from training")
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--start", type=Path, help="the folder of a model to continue from")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
