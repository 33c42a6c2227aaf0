"""Seconds to prune a model, against a copy of the bytes that are kept.

    python -m benchmarks.surgery

Both take turns, so that other load affects both alike.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

import nirvana as nv
from benchmarks.tables import markdown

REPEATS = 7
AIM = 2.0


def timed(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def table(model: str = "smollm2-135m") -> str:
    lm = nv.load_model(model, device="cpu")
    draw = np.random.default_rng(0)
    found = {site: draw.random(place.units).astype(np.float32) for site, place in lm.layout.items()}
    saliency, rows = nv.Saliency(found, lm.layout, "random"), []
    for sparsity in (0.1, 0.2, 0.4, 0.6):
        plan = nv.allocate(saliency, sparsity=sparsity, gamma=3.36)
        pruned, cloned, kept = [], [], 0
        for _ in range(REPEATS):  # in turns, so that other load affects both alike
            seconds, small = timed(lambda plan=plan: nv.prune(lm, plan))
            pruned.append(seconds)
            tensors = list(small.weights().state_dict().values())
            kept = sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())
            own = list({tensor.data_ptr(): tensor for tensor in tensors}.values())
            cloned.append(timed(lambda own=own: [tensor.clone() for tensor in own])[0])
            del tensors, own
            small.unload()
        ratio = median(pruned) / median(cloned)
        cells = [f"{sparsity:.0%}", f"{kept / 1e6:,.0f} MB", f"{median(pruned):.3f} s", f"{median(cloned):.3f} s"]
        rows.append([*cells, f"{ratio:.2f} x", "yes" if ratio <= AIM else "no"])
    columns = ["sparsity", "kept", "`nv.prune`", "copy of the kept bytes", "ratio", f"at most {AIM:g} x"]
    return markdown(columns, rows)


if __name__ == "__main__":
    print(table())
