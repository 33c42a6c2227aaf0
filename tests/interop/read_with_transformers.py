"""Read checkpoints with transformers alone, as those do who never heard of this project.

`python -I read_with_transformers.py FOLDER ...`: every folder holds a checkpoint and expected.npz with the token ids
that it was given and the logits that it gave. Runs on transformers 4.57 and 5; prints a line of JSON for each.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.modules["nirvana"] = None  # type: ignore[assignment]  # importing it fails, installed or not


def read(folder: Path) -> dict[str, Any]:
    with np.load(folder / "expected.npz") as file:
        ids, expected = torch.from_numpy(file["ids"]), torch.from_numpy(file["logits"])
    has_code = bool(list(folder.glob("*.py")))
    options = {"trust_remote_code": True} if has_code else {}
    quieten: Any = transformers.logging.set_verbosity_error
    quieten()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(ids).logits
    runs = [
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            use_cache=use_cache,
            do_sample=False,
            min_new_tokens=16,
            max_new_tokens=16,
        )
        for use_cache in (True, False)
    ]
    model(ids, labels=ids).loss.backward()
    return {
        "folder": folder.name,
        "transformers": transformers.__version__,
        "class": type(model).__name__,
        "difference": float((logits.float() - expected).abs().max()),
        "scale": float(expected.abs().max()),
        "cached_generation_is_uncached": bool(torch.equal(*runs)),
        "without_gradient": [name for name, value in model.named_parameters() if value.grad is None],
        "layer_idx": [layer.self_attn.layer_idx for layer in model.model.layers],
        "tokens": tokenizer("To be").input_ids,
    }


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(read(Path(argument))), flush=True)
