"""Train checkpoints with transformers alone, save them and load them again, without this project.

`python -I train_with_transformers.py FOLDER ...`: for every folder FOLDER-trained (of a Trainer's last checkpoint),
FOLDER-saved (save_pretrained) and, where peft is installed, FOLDER-merged (an adapter, trained and merged) are written,
each with expected.npz, the token ids and logits of the model that was saved. Runs on transformers 4.57 and 5; prints a
line of JSON for each.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

IDS = torch.arange(3, 35).reshape(2, 16)


def load(folder: Path, **options: Any) -> Any:
    config = json.loads((folder / "config.json").read_text())
    reader: Any = AutoModelForSeq2SeqLM if config.get("is_encoder_decoder") else AutoModelForCausalLM
    return reader.from_pretrained(folder, dtype="auto", trust_remote_code=True, **options)


def logits(model: Any, **options: Any) -> Any:
    inputs = {"input_ids": IDS}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = IDS
    with torch.no_grad():
        return model.eval()(**inputs, **options)


def write(model: Any, folder: Path, tokenizer: Any) -> float:
    """Save `model` and load it again; the largest difference of logits."""
    expected = logits(model).logits
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    np.savez(folder / "expected.npz", ids=IDS.numpy(), logits=expected.float().numpy())
    return float((logits(load(folder)).logits - expected).abs().max())


def try_all(folder: Path, *, train: bool = True) -> dict[str, Any]:
    """Save, compute with eager attention and, with `train`, train by Trainer and by peft; differences of logits."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    about: dict[str, Any] = {"folder": folder.name, "transformers": transformers.__version__}
    try:
        model = load(folder)
    except ImportError as error:
        return about | {"refused": str(error)}
    about["saved"] = write(model, folder.with_name(f"{folder.name}-saved"), tokenizer)
    eager = load(folder, attn_implementation="eager")
    given = logits(eager, output_attentions=True)
    kinds = ["encoder_attentions", "decoder_attentions", "cross_attentions"]
    seen = [getattr(given, kind) for kind in (kinds if eager.config.is_encoder_decoder else ["attentions"])]
    sums = torch.cat([weights.sum(-1).flatten() for layers in seen for weights in layers])
    about["heads"] = [[weights.shape[1] for weights in layers] for layers in seen]
    about["attentions_sum_to_one"] = bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-5))
    about["eager"] = float((given.logits - logits(model).logits).abs().max())
    if train:
        from transformers import Trainer, TrainingArguments

        place = folder.with_name(f"{folder.name}-trained")
        options: dict[str, Any] = {
            "max_steps": 2,
            "save_steps": 2,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
        }
        arguments = TrainingArguments(
            output_dir=str(place), report_to=[], disable_tqdm=True, use_cpu=True, gradient_checkpointing=True, **options
        )
        rows = [{"input_ids": row, "labels": row} for row in IDS]
        before = logits(model).logits
        Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
        written = place / "checkpoint-2"
        after = logits(model).logits
        np.savez(written / "expected.npz", ids=IDS.numpy(), logits=after.float().numpy())
        about["trained"] = float((logits(load(written)).logits - after).abs().max())
        about["moved"] = float((after - before).abs().max())
    if train and find_spec("peft") is not None:
        import peft

        wrapped: Any = peft.get_peft_model(load(folder), peft.LoraConfig(target_modules="all-linear", r=2))
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.05)
        merged = wrapped.merge_and_unload()
        about["merged"] = write(merged, folder.with_name(f"{folder.name}-merged"), tokenizer)
    return about


if __name__ == "__main__":
    sys.modules["nirvana"] = None  # type: ignore[assignment]  # importing it fails, installed or not
    quieten: Any = transformers.logging.set_verbosity_error
    quieten()
    for argument in sys.argv[1:]:
        print(json.dumps(try_all(Path(argument))), flush=True)
