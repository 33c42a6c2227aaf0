"""Speed-up of pruned models beside the ratio of their floating-point operations.

    python -m benchmarks.inference

Dense and pruned models take turns; the ratio is that of a turn to the dense model's turn beside it, median of all.
"""

from __future__ import annotations

import numpy as np

import nirvana as nv
from benchmarks.tables import markdown

SPARSITIES = (0.2, 0.4, 0.6)
AIM = 0.9  # of the ratio of operations, prefill


def table(model: str = "smollm2-135m", prompt: int = 512, new_tokens: int = 24, repeats: int = 7) -> str:
    lm = nv.load_model(model, device="cpu")
    draw = np.random.default_rng(0)
    found = {site: draw.random(place.units).astype(np.float32) for site, place in lm.layout.items()}
    saliency = nv.Saliency(found, lm.layout, "random")
    models = {"dense": lm}
    for sparsity in SPARSITIES:
        models[f"{sparsity:.0%}"] = nv.prune(lm, nv.allocate(saliency, sparsity=sparsity, gamma=3.36, multiple_of=8))
    speeds = nv.measure_speed(models, prompt=prompt, new_tokens=new_tokens, repeats=repeats)
    rows, dense = [], speeds.models["dense"]
    for name in list(models)[1:]:
        cells = [name]
        for phase, work in (("prefill", "prefill_flops"), ("decode", "decode_flops")):
            ideal = getattr(dense, work) / getattr(speeds.models[name], work)
            spread = speeds.ratio(name, phase)
            share = (spread.median - 1) / (ideal - 1) if ideal > 1 else 1.0
            cells += [f"{ideal:.2f} x", f"{spread.median:.2f} x ({spread.low:.2f} to {spread.high:.2f})"]
            cells += (
                [f"{spread.median / ideal:.2f}", f"{share:.0%}"]
                if phase == "prefill"
                else [f"{spread.median / ideal:.2f}"]
            )
        rows.append(cells)
    return markdown(
        [
            "sparsity",
            "prefill: operations",
            "measured (quartiles)",
            "measured / operations",
            "of the gain",
            "decode: operations",
            "measured (quartiles)",
            "measured / operations",
        ],
        rows,
    )


if __name__ == "__main__":
    print(table())
