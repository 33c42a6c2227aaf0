"""Reference of all recipe values as Markdown: `python -m nirvana.reporting.reference > docs/recipes.md`."""

from __future__ import annotations

import inspect
import math

from nirvana.runs.recipe import SECTIONS
from nirvana.saliency.criteria import CRITERIA
from nirvana.schema import Option, options

HEAD = """# Recipes

A recipe determines a run: one section a step. As JSON it is an object of these sections; missing sections and values
take their defaults. `nirvana run recipe.json` reads one, options override its values, and `recommended` and `paper`
name two that come with the program. This page is generated from the schema.

```json
{"model": {"name": "tiny-llama"}, "allocation": {"sparsity": 0.3, "gamma": "inf"}}
```
"""


def recipe_reference() -> str:
    """A table for each section: value, option, range, default and meaning."""
    parts = [HEAD]
    for name, schema in SECTIONS.items():
        lines = [f"## {name}\n", f"{inspect.cleandoc(schema.__doc__ or '')}\n"]
        lines += ["| value | option | range | default | meaning |", "|---|---|---|---|---|"]
        lines += [_row(option) for option in options(schema).values()]
        parts.append("\n".join(lines) + "\n")
    criteria = [f"| `{name}` | {each.title} | {each.description} |" for name, each in CRITERIA.items()]
    table = ["| name | title | score |", "|---|---|---|", *criteria]
    return "\n".join([*parts, "## Criteria\n", *table]) + "\n"


def _row(option: Option) -> str:
    default = ", ".join(map(str, option.default)) if option.many else option.default
    flag = f"`{option.flag}`" + (", `--no-…`" if option.kind is bool else "")
    meaning = option.help.partition(". ")[0].replace("|", "\\|")
    return f"| `{option.name}` | {flag} | {_range(option)} | {_shown(default)} | {meaning} |"


def _range(option: Option) -> str:
    if option.choices:
        return ", ".join(f"`{word}`" for word in option.choices) if len(option.choices) < 6 else "see Criteria"
    if option.kind is bool:
        return "true, false"
    if option.kind is str:
        return "text"
    low, high = ("" if bound is None else f"{bound:,}" for bound in (option.low, option.high))
    if option.high is None:
        return f"{low} or more"
    return f"{low} to {high}" if option.high < 1 << 62 else f"{low} to 2^63 - 1"


def _shown(value: object) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "`inf`"
    return "" if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(recipe_reference(), end="")
