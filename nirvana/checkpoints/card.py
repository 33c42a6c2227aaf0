"""README.md of a checkpoint: base model, recipe, measurements, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nirvana.calibration.tasks import is_bytes
from nirvana.checkpoints.provenance import base_name, licence_of
from nirvana.checkpoints.remote_code import template_of
from nirvana.evaluation.results import Measurement, Report
from nirvana.layout import KV_GROUP, NEURON, Layout
from nirvana.models.lm import LM
from nirvana.models.sources import HUB_ID

LOAD_WITH_CODE = """Where this project is not installed, with transformers {release} or newer (`pip install
"transformers>={release}"`). {limits}The class in `modeling_pruned.py` builds the library's own layers one by one, with
the widths in `config.json`; it is short, read it first:

```python
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("folder", dtype="auto", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("folder"){tokens}
```
"""
LOAD_PLAIN = """With transformers alone; this checkpoint contains no code:

```python
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("folder", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("folder"){tokens}
```
"""
PROMPTS = "\n# Prompts: tokenizer(text, add_special_tokens=False); the default would append </s>."
LOAD_HERE = """With NIRVANA Studio, which runs no code from the folder:

```python
import nirvana as nv

lm = nv.load_model("folder")
```
"""


def checkpoint_card(
    lm: LM,
    *,
    recipe: Mapping[str, Any] | None = None,
    measured: Report | None = None,
    remote_code: bool = False,
    note: str = "",
) -> str:
    """The card of a checkpoint of `lm` as Markdown with the hub's front matter.

    Args:
        lm: the model, pruned or not.
        recipe: its recipe, as JSON data.
        measured: numbers, each with its protocol.
        remote_code: whether loading it with transformers needs the code in the folder.
        note: additional remark on this format.
    """
    template = template_of(lm.layout.architecture)
    parts = [
        _front_matter(lm),
        f"# {base_name(lm.source)}{', pruned' if lm.is_pruned else ''}{' and recovered' if lm.recoveries else ''}\n",
        _description(lm, note),
        _sizes(lm),
        "## How to load it\n",
        (LOAD_WITH_CODE if remote_code else LOAD_PLAIN).format(
            auto_class=template.auto_class,
            release=template.transformers,
            limits=f"{template.limits} " if template.limits else "",
            tokens=PROMPTS if is_bytes(lm.tokenizer) and not lm.family.encoder_decoder else "",
        ),
        LOAD_HERE,
    ]
    if measured is not None and measured.measurements:
        here = "recovered" if lm.recoveries else "pruned"
        which = f"This checkpoint is the {here} model.\n\n" if len(measured.subjects) > 2 else ""
        parts += ["## Measured\n", which + _measured(measured)]
    if recipe is not None:
        parts += ["## Recipe\n", f"```json\n{json.dumps(recipe, indent=1, ensure_ascii=False)}\n```\n"]
    return "\n".join(parts)


def _front_matter(lm: LM) -> str:
    purpose = "text2text-generation" if lm.family.encoder_decoder else "text-generation"
    lines = ["---", "library_name: transformers", f"pipeline_tag: {purpose}"]
    base, licence = base_name(lm.source), licence_of(lm.source)
    if "/" in base and HUB_ID.match(base):
        lines.append(f"base_model: {base}")
    if licence:
        lines.append(f"license: {licence}")
    lines += ["tags:", "- structured-pruning", "- nirvana"] if lm.is_pruned else []
    return "\n".join([*lines, "---", ""])


def _description(lm: LM, note: str) -> str:
    licence = licence_of(lm.source)
    sentences = []
    if lm.is_pruned:
        share = 1 - lm.layout.prunable / lm.dense.prunable
        sentences.append(
            f"Structured pruning removed {share:.1%} of the attention and MLP parameters of {base_name(lm.source)}: "
            "KV groups with their query heads, and MLP neurons, sliced out of the weights."
        )
        sentences += map(_compensation, lm.compensations)
        sentences += map(_recovery, lm.recoveries)
    else:
        sentences.append(f"The weights of {base_name(lm.source)}, not pruned.")
    if lm.source.note:
        sentences.append(f"The base model is of {lm.source.note}, and so are all measurements.")
    if not lm.family.generates_with_cache(lm.settings):
        sentences.append("It has more decoder than encoder layers: call `generate` with `use_cache=False`.")
    if note:
        sentences.append(note)
    if licence:
        sentences.append(f"The base model's licence, {licence}, applies.")
    else:
        sentences.append("The base model's files do not name a licence; its terms apply all the same.")
    return "\n".join(sentences) + "\n"


def _compensation(record: Mapping[str, Any]) -> str:
    counts = record["tokens"]
    tokens = " and ".join(f"{n:,} {stack + ' ' if len(counts) > 1 else ''}tokens" for stack, n in counts.items())
    texts = ", ".join(dict.fromkeys(each["source"] or "text without a name" for each in record["sets"]))
    if record["method"] == "bias":
        return f"The mean contribution of removed units became a bias of each output projection ({tokens}, {texts})."
    return (
        "Each output projection was then fitted by least squares to its outputs with all units "
        f"({tokens}, {texts}; regularisation {record['regularisation']:g})."
    )


def _recovery(record: Mapping[str, Any]) -> str:
    objectives = {"distill": "distillation from the dense model", "lora": "adapters, merged", "full": "fine-tuning"}
    return (
        f"It was then trained on {record['tokens']:,} tokens of {record['text'] or 'text without a name'}: "
        f"{objectives[record['method']]}."
    )


def _sizes(lm: LM) -> str:
    columns = {"base": lm.dense, "here": lm.layout} if lm.is_pruned else {"here": lm.layout}
    layouts = columns.values()
    return _table(
        ["", *columns],
        [
            ["parameters", *(f"{layout.parameters:,}" for layout in layouts)],
            ["attention and MLP parameters", *(f"{layout.prunable:,}" for layout in layouts)],
            ["layers", *(str(sum(len(layout.layers(stack)) for stack in layout.stacks)) for layout in layouts)],
            *([f"{kind}s in a layer", *(_span(layout, kind) for layout in layouts)] for kind in (KV_GROUP, NEURON)),
        ],
    )


def _span(layout: Layout, kind: str) -> str:
    counts = [layout[site].units for site in layout.pool(kind)]
    if not counts:
        return "-"
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


def _measured(report: Report) -> str:
    """A row for each metric and protocol, a column for each model."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for item in report.measurements:
        protocol = ", ".join(f"{name} {value}" for name, value in item.protocol.items() if value not in ("", None))
        found.setdefault((item.metric, protocol), {})[item.subject] = _value(item)
    subjects = list(dict.fromkeys(subject for values in found.values() for subject in values))
    rows = [
        [metric, *(values.get(subject, "") for subject in subjects), protocol]
        for (metric, protocol), values in found.items()
    ]
    return _table(["metric", *subjects, "protocol"], rows)


def _value(item: Measurement) -> str:
    if item.metric in ("parameters", "bytes"):
        return f"{item.value:,.0f}"
    error = "" if item.standard_error is None else f" ± {item.standard_error:.3g}"
    number = "" if item.n is None else f" (n = {item.n})"
    return f"{item.value:.5g}{error}{number}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)]) + "\n"
