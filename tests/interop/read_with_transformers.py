"""Read checkpoints with transformers alone, as those do who never heard of this project.

`python -I read_with_transformers.py FOLDER ...`: every folder holds a checkpoint and expected.npz with the token ids
that it was given, an encoder too, and the logits that it gave. Runs on transformers 4.57 and 5; prints a line of JSON
for each, also where the checkpoint's own code refuses this transformers.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

sys.modules["nirvana"] = None  # type: ignore[assignment]  # importing it fails, installed or not


def read(folder: Path) -> dict[str, Any]:
    with np.load(folder / "expected.npz") as file:
        ids, expected = torch.from_numpy(file["ids"]), torch.from_numpy(file["logits"])
    has_code = bool(list(folder.glob("*.py")))
    options = {"trust_remote_code": True} if has_code else {}
    quieten: Any = transformers.logging.set_verbosity_error
    quieten()
    encoder_decoder = json.loads((folder / "config.json").read_text()).get("is_encoder_decoder", False)
    reader: Any = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    about = {"folder": folder.name, "transformers": transformers.__version__}
    try:
        model: Any = reader.from_pretrained(folder, dtype="auto", **options)
    except ImportError as error:
        return about | {"refused": str(error)}
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    inputs = {"input_ids": ids, "decoder_input_ids": ids} if encoder_decoder else {"input_ids": ids}
    with torch.no_grad():
        logits = model(**inputs).logits
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
    model(input_ids=ids, labels=ids).loss.backward()
    layers = [] if encoder_decoder else model.model.layers
    return about | {
        "class": type(model).__name__,
        "difference": float((logits.float() - expected).abs().max()),
        "scale": float(expected.abs().max()),
        "cached_generation_is_uncached": bool(torch.equal(*runs)),
        "without_gradient": [name for name, value in model.named_parameters() if value.grad is None],
        "layer_idx": [layer.self_attn.layer_idx for layer in layers],
        "tokens": tokenizer("To be").input_ids,
    }


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(read(Path(argument))), flush=True)
