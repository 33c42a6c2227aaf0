"""The code that goes with a pruned checkpoint, for loading it where this project is not installed.

`modeling_pruned.py` is a working module for Llama, and the template for every family with the same module names.
"""

from __future__ import annotations

from pathlib import Path

MODULE = "modeling_pruned"
TEMPLATE_FAMILY = "Llama"


def remote_code(architecture: str) -> str:
    """The source of `modeling_pruned.py` for models whose transformers class is `architecture`."""
    template = Path(__file__).with_name(f"{MODULE}.py").read_text(encoding="utf-8")
    return template.replace(TEMPLATE_FAMILY, architecture.removesuffix("ForCausalLM"))


def class_name(architecture: str) -> str:
    """The class that the code defines, e.g. PrunedLlamaForCausalLM."""
    return f"Pruned{architecture}"


def auto_map(architecture: str) -> dict[str, str]:
    """What config.json needs for `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`."""
    return {"AutoModelForCausalLM": f"{MODULE}.{class_name(architecture)}"}
