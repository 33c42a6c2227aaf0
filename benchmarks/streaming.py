"""Peak memory of scoring a model with weights on disk, against the number of its layers.

    python -m benchmarks.streaming
    python -m benchmarks.streaming --layers 4 8 16 32 --hidden 512 --intermediate 1408   # on a small machine

Random Llama checkpoints of equal width in bfloat16 are written one after another, each scored in a process of its own
and deleted. The peak is that of anonymous memory above the interpreter with torch and transformers imported: pages of
files, which the system reclaims, are not counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SEED = 0


def write_checkpoint(folder: Path, layers: int, hidden: int, intermediate: int, vocabulary: int) -> int:
    """Write a random Llama, one shard a layer, so that it needs no memory either; returns its bytes."""
    import torch
    from safetensors.torch import save_file

    from nirvana.models.sources import locate

    tiny = locate("tiny-llama").path
    folder.mkdir(parents=True)
    for file in tiny.iterdir():
        if "token" in file.name:
            shutil.copy(file, folder)
    heads = hidden // 64
    config = {
        **json.loads((tiny / "config.json").read_text()),
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4),
        "head_dim": 64,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(SEED)
    keys = config["num_key_value_heads"] * 64
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }

    def draw(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)

    def norm() -> torch.Tensor:
        return torch.ones(hidden, dtype=torch.bfloat16)

    where: dict[str, str] = {}
    for layer in range(-1, layers):
        at = f"model.layers.{layer}"
        if layer < 0:
            tensors = {f"{name}.weight": draw(vocabulary, hidden) for name in ("model.embed_tokens", "lm_head")}
            tensors["model.norm.weight"] = norm()
        else:
            tensors = {f"{at}.{name}.weight": draw(*shape) for name, shape in shapes.items()}
            tensors |= {f"{at}.{name}.weight": norm() for name in ("input_layernorm", "post_attention_layernorm")}
        shard = f"part-{layer + 1:03}.safetensors"
        save_file(tensors, folder / shard, {"format": "pt"})
        where |= dict.fromkeys(tensors, shard)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines["RssAnon"].split()[0]) * 1024


def measure(folder: str, samples: int, length: int, weights: str) -> None:
    """Score a model in this process and print the peak of its memory as JSON."""
    import numpy as np
    import transformers.models.llama.modeling_llama  # noqa: F401 - part of the interpreter's memory

    import nirvana as nv
    from nirvana.models.loading import load_model
    from nirvana.saliency.score import score

    start, peak, done = anonymous(), 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous() - start)

    thread = threading.Thread(target=look)
    thread.start()
    begun = time.perf_counter()
    lm = load_model(folder, device="cpu", weights=weights)  # type: ignore[arg-type]
    tokens = np.random.default_rng(SEED).integers(3, 250, (samples, length))
    scores = score(lm, nv.CalibrationSet(tokens))
    seconds = time.perf_counter() - begun
    done.set()
    thread.join()
    print(json.dumps({"peak": peak, "seconds": seconds, "scores": scores.hash}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--intermediate", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--memory", action="store_true", help="also score each with its weights in memory")
    parser.add_argument("--folder", type=Path, help="for the checkpoints; a temporary one by default")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--weights", default="lazy", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.samples, given.length, given.weights)
        return
    print("layers  weights   on disk, GB   peak, MB   seconds")
    for layers in given.layers:
        with tempfile.TemporaryDirectory(dir=given.folder) as place:
            folder = Path(place) / "model"
            per_layer = 3 * given.hidden * given.intermediate + 2.5 * given.hidden**2
            if shutil.disk_usage(place).free < 2 * (2 * layers * per_layer + 6 * given.vocabulary * given.hidden):
                print(f"{layers:6}  too little free disk")
                continue
            size = write_checkpoint(folder, layers, given.hidden, given.intermediate, given.vocabulary)
            for weights in ("lazy", "memory") if given.memory else ("lazy",):
                command = [sys.executable, "-m", "benchmarks.streaming", "--measure", str(folder), "--weights", weights]
                command += ["--samples", str(given.samples), "--length", str(given.length)]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                row = f"{layers:6}  {weights:7}  {size / 1e9:12.2f} {found['peak'] / 1e6:10.0f} {found['seconds']:9.1f}"
                print(f"{row}   scores {found['scores'][:12]}", flush=True)


if __name__ == "__main__":
    main()
