"""Quantised copies of models, as a baseline for pruned models of the same size in bytes.

LLM.int8() (arXiv:2208.07339) and 4-bit NormalFloat (QLoRA, arXiv:2305.14314), both by bitsandbytes. The linear layers
of the blocks are quantised; embeddings, norms and the output head keep their type, as is usual.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, fields, replace
from importlib import metadata
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nirvana.errors import ModelError
from nirvana.evaluation.schemes import SCHEMES
from nirvana.files import content_hash
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, track

DEVICES = ("cpu", "cuda", "xpu")
OUTLIER = 6.0  # activations above this stay in 16 bit, as in LLM.int8()
BLOCK = 64  # weights that share one scale, as in QLoRA


@dataclass(eq=False, repr=False)
class QuantisedLM(LM):
    """An LM with quantised weights, accepted by every measurement.

    Attributes:
        stored: bytes of the weights, scales included.
    """

    stored: int = 0

    @property
    def weight_bytes(self) -> int:
        return self.stored


class PaddedLinear(nn.Module):
    """A linear layer that reads `missing` zeros after its inputs.

    On a CPU, bitsandbytes reads rows of 4-bit weights incorrectly unless they fill whole blocks.
    """

    def __init__(self, linear: nn.Module, missing: int) -> None:
        super().__init__()
        self.linear, self.missing = linear, missing

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # (..., in_features) -> (..., out_features)
        outputs: torch.Tensor = self.linear(functional.pad(inputs, (0, self.missing)))
        return outputs


def quantise(lm: LM, scheme: str = "int8", *, progress: ProgressCallback | None = None) -> QuantisedLM:
    """A copy of `lm` with the linear layers of its blocks in 8 or 4 bits; `lm` is unchanged.

    Layers that the library keeps in float32, such as T5's wo, are not quantised.

    Args:
        lm: dense or pruned, with its weights in memory.
        scheme: "int8", or "int4" for 4-bit NormalFloat in blocks of 64.
        progress: called after each layer; may raise `Cancelled`.

    Raises:
        ModelError: the scheme is unknown, bitsandbytes is missing or does not support the device, or the weights are
            not in memory.
    """
    if scheme not in SCHEMES:
        raise ModelError(f"There is no quantisation {scheme!r}.", f"Use {' or '.join(SCHEMES)}.")
    if isinstance(lm, QuantisedLM):
        raise ModelError(f"{lm.source.name} is quantised already.", "Start from the original model.")
    if lm.device.type not in DEVICES:
        raise ModelError(f"Quantised models do not run on {lm.device.type} here.", "Use the CPU or CUDA.")
    library = _library()
    source, layers = lm.weights(), _linear_layers(lm)
    quantised: dict[int, object] = {}  # id of a layer -> its replacement in the copy
    make = _int8 if scheme == "int8" else _int4
    for layer in track(layers, progress, f"Quantising to {scheme}", len(layers)):
        quantised[id(layer)] = make(library, layer, lm.dtype).to(lm.device).eval()
    model = copy.deepcopy(source, memo=quantised)  # deepcopy asks the memo first, so quantised layers are not copied
    base, version = lm.compute_hash, metadata.version("bitsandbytes")
    note = f"{scheme} weights in the blocks (bitsandbytes {version})"
    own = {item.name: getattr(lm, item.name) for item in fields(LM)}
    return QuantisedLM(
        **own
        | {
            "model": model,
            "source": replace(lm.source, note=f"{lm.source.note}, {note}" if lm.source.note else note),
            "compute_hash": lambda: content_hash(base(), f"{scheme} {version}"),
        },
        stored=stored_bytes(model),
    )


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all tensors of a saved `model`, shared ones counted once."""
    found: dict[tuple[int, int], int] = {}
    for tensor in model.state_dict().values():
        found[tensor.data_ptr(), tensor.nbytes] = tensor.nbytes
    return sum(found.values())


def _linear_layers(lm: LM) -> list[nn.Linear]:
    kept = set(getattr(lm.weights(), "_keep_in_fp32_modules", None) or ())
    blocks = lm.family.blocks(lm.weights())
    return [
        module
        for stack in blocks.values()
        for name, module in stack.named_modules()
        if isinstance(module, nn.Linear) and kept.isdisjoint(name.split("."))
    ]


def _int8(library: Any, layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    sizes = (layer.in_features, layer.out_features)
    made: nn.Module = library.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=OUTLIER)
    return _fill(made, layer, library.nn.Int8Params(_values(layer), requires_grad=False, has_fp16_weights=False))


def _int4(library: Any, layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    form = {"quant_type": "nf4", "compress_statistics": False}
    missing = -layer.in_features % BLOCK
    made: Any = library.nn.Linear4bit(
        layer.in_features + missing, layer.out_features, bias=False, compute_dtype=dtype, **form
    )
    # Some CPUs have a kernel whose packing supports only certain widths; pruned layers may have others.
    made.support_avx512bf16_for_cpu = False
    values = functional.pad(_values(layer), (0, missing))
    weight = library.nn.Params4bit(values, requires_grad=False, blocksize=BLOCK, module=made, **form)
    filled = _fill(made, layer, weight)
    return PaddedLinear(filled, missing) if missing else filled


def _fill(made: nn.Module, layer: nn.Linear, weight: nn.Parameter) -> nn.Module:
    made.weight = weight
    made.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    return made


def _values(layer: nn.Linear) -> torch.Tensor:
    """A copy on the CPU; the library quantises weights when they are moved to the device."""
    return layer.weight.detach().to("cpu", copy=True).contiguous()


def _library() -> Any:
    # It warns at every product of the cast to float16, which is part of LLM.int8().
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise ModelError("Quantised models need bitsandbytes.", "Install it: pip install bitsandbytes") from error
    return bitsandbytes
