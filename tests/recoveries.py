"""Short recoveries of tiny models."""

from __future__ import annotations

from typing import Any

import torch

import nirvana as nv
from nirvana.models.lm import LM

SHORT: dict[str, Any] = {"minutes": 0, "tokens": 700, "batch": 4, "micro_batch": 2, "length": 24, "checks": 3}
SHORT |= {"learning_rate": 2e-3, "warmup": 2, "autocast": "never"}


def pruned(lm: LM, sparsity: float = 0.4) -> LM:
    return nv.prune(lm, nv.allocate(nv.score(lm, None, criterion="magnitude"), sparsity=sparsity))


def same_weights(one: LM, two: LM) -> bool:
    first, second = one.weights().state_dict(), two.weights().state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(5, 45).reshape(2, 20)).logits
    return found
