"""The code in a pruned checkpoint, for loading it without this project.

`modeling_pruned.py` is a working module for Llama, and the template for every family with the same module names;
`modeling_pruned_t5.py` is the one for encoder-decoders with T5's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MODULE = "modeling_pruned"


class Template(NamedTuple):
    """A working module for one family: its file, and the class name that another family's name replaces."""

    file: str
    family: str
    auto_class: str
    transformers: str  # oldest supported release
    limits: str = ""  # limits of older ones, for the model card
    body: str = ""  # ending of the class without output head, where the module has one


# Suffix of a transformers class -> its template.
TEMPLATES = {
    "ForCausalLM": Template("modeling_pruned.py", "Llama", "AutoModelForCausalLM", "4.57", body="Model"),
    "ForConditionalGeneration": Template(
        "modeling_pruned_t5.py",
        "T5",
        "AutoModelForSeq2SeqLM",
        "5.15",
        "Older releases, including all of transformers 4, cannot load it: their T5 has all heads of the base model in "
        "every block. A uniform export loads there.",
    ),
}


def template_of(architecture: str) -> Template:
    """The template for models whose transformers class is `architecture`."""
    return TEMPLATES[_ending(architecture)]


def remote_code(architecture: str) -> str:
    """The source of `modeling_pruned.py` for models whose transformers class is `architecture`."""
    template = template_of(architecture)
    source = Path(__file__).with_name(template.file).read_text(encoding="utf-8")
    return source.replace(template.family, architecture.removesuffix(_ending(architecture)))


def class_name(architecture: str) -> str:
    """The class that the code defines, e.g. PrunedLlamaForCausalLM."""
    return f"Pruned{architecture}"


def auto_map(architecture: str) -> dict[str, str]:
    """The `auto_map` of config.json, for `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`; the
    body too where the code has one, since vLLM builds that alone.
    """
    template = template_of(architecture)
    names = {template.auto_class: f"{MODULE}.{class_name(architecture)}"}
    if template.body:
        stem = architecture.removesuffix(_ending(architecture))
        names["AutoModel"] = f"{MODULE}.{class_name(stem)}{template.body}"
    return names


def _ending(architecture: str) -> str:
    return next(ending for ending in TEMPLATES if architecture.endswith(ending))
