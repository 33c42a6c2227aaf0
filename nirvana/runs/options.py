"""Command-line options for every value of a recipe; the dashboard's "show as code" writes what the CLI reads."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from nirvana.runs.recipe import Recipe
from nirvana.saliency.criteria import CRITERIA


class Option(NamedTuple):
    """An option and the recipe value that it sets; a `many` option may be given several times.

    A `bool` option takes no value, and has a `--no-` form.
    """

    flag: str
    section: str
    name: str
    kind: Callable[[str], Any]
    help: str
    many: bool = False

    @property
    def destination(self) -> str:
        return f"{self.section}.{self.name}"


CRITERIA_HELP = "; ".join(f"{name}: {criterion.description}" for name, criterion in CRITERIA.items())
OPTIONS = (
    Option("--model", "model", "name", str, "built-in name, hub id, folder or .gguf file"),
    Option("--device", "model", "device", str, "auto, cpu, cuda, cuda:1 or mps"),
    Option("--dtype", "model", "dtype", str, "auto, float32, bfloat16 or float16"),
    Option(
        "--corpus",
        "calibration",
        "corpus",
        str,
        "text to calibrate on: a name that `corpora` lists, a file, or several in equal shares, 'first + second'",
    ),
    Option(
        "--or-corpus",
        "calibration",
        "alternatives",
        str,
        "another text, between which and --corpus KL chooses; may be repeated",
        True,
    ),
    Option("--mixtures", "calibration", "mixtures", bool, "let KL choose equal shares of these texts as well"),
    Option("--candidates", "calibration", "candidates", int, "sets of each text to choose from by KL; 1 draws one"),
    Option("--samples", "calibration", "samples", int, "windows in a calibration set"),
    Option("--length", "calibration", "length", int, "tokens in a window"),
    Option("--seed", "calibration", "seed", int, "of the draw of calibration sets"),
    Option("--probe-samples", "calibration", "probe_samples", int, "windows that KL is measured on"),
    Option("--probe-length", "calibration", "probe_length", int, "tokens in a probe"),
    Option("--probe-seed", "calibration", "probe_seed", int, "of the draw of probes"),
    Option("--trial-criterion", "calibration", "trial_criterion", str, "criterion of the candidates' trial prunings"),
    Option("--trial-sparsity", "calibration", "trial_sparsity", float, "sparsity of the trial prunings"),
    Option("--trial-gamma", "calibration", "trial_gamma", float, "gamma of the trial prunings"),
    Option("--trial-allocation", "calibration", "trial_method", str, "of the trial prunings: shared or published"),
    Option("--trial-protect", "calibration", "trial_protected", int, "a layer that the trials leave whole", True),
    Option("--trial-normalisation", "calibration", "trial_normalisation", float, "normalisation of the trials"),
    Option("--task", "calibration", "task", str, "of an encoder-decoder: auto, 'span corruption' or continuation"),
    Option("--criterion", "saliency", "criterion", str, f"how units are scored. {CRITERIA_HELP}"),
    Option("--sparsity", "allocation", "sparsity", float, "share of attention and MLP weights to remove"),
    Option("--gamma", "allocation", "gamma", float, "MLP rate over attention rate, from 0 to inf"),
    Option("--multiple-of", "allocation", "multiple_of", int, "MLP widths stay multiples of this"),
    Option("--protect", "allocation", "protected", int, "a layer that keeps all its units; may be repeated", True),
    Option("--uniform", "allocation", "uniform", bool, "the same widths in all layers"),
    Option("--allocation", "allocation", "method", str, "shared, or published: as the criterion's authors do it"),
    Option("--normalisation", "allocation", "normalisation", float, "0 to 1: bring layers' scores to the same mean"),
    Option("--compensation", "prune", "compensation", str, "of the output projections: none, bias or least_squares"),
    Option("--statistics-samples", "prune", "samples", int, "windows that the compensation is computed from"),
    Option("--statistics-length", "prune", "length", int, "tokens in such a window"),
    Option("--statistics-seed", "prune", "seed", int, "of the draw of such windows"),
    Option("--evaluate-on", "evaluation", "corpora", str, "a corpus to measure perplexity on; may be repeated", True),
    Option("--window", "evaluation", "window", int, "tokens in a window of the perplexity"),
    Option("--max-tokens", "evaluation", "max_tokens", int, "tokens read of each evaluation corpus"),
    Option(
        "--zero-shot",
        "evaluation",
        "zero_shot",
        str,
        "minimal-pairs, a hub task such as piqa, a .jsonl file or folder; may be repeated",
        True,
    ),
    Option("--zero-shot-items", "evaluation", "zero_shot_items", int, "items asked of each task; 0 asks all"),
)


def add_options(parser: argparse.ArgumentParser, *sections: str, only: Iterable[str] = ()) -> None:
    """Give `parser` the options of some recipe sections. What is not given on the command line becomes None."""
    default, flags = Recipe(), set(only)
    for option in OPTIONS:
        if option.section in sections and (not flags or option.flag in flags):
            value = getattr(getattr(default, option.section), option.name)
            shown = " ".join(map(str, value)) or "none" if option.many else value
            words = f"{option.help} (default: {shown})"
            if option.kind is bool:
                action = argparse.BooleanOptionalAction
                parser.add_argument(option.flag, dest=option.destination, action=action, default=None, help=words)
                continue
            parser.add_argument(
                option.flag,
                dest=option.destination,
                type=option.kind,
                action="append" if option.many else "store",
                metavar=option.name.upper(),
                help=words,
            )


def apply_options(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """`recipe` with the values that were given on the command line."""
    given = vars(arguments)
    for option in OPTIONS:
        value = given.get(option.destination)
        if value is not None:
            recipe = recipe.change(option.section, **{option.name: tuple(value) if option.many else value})
    return recipe


def option_words(recipe: Recipe, always: Iterable[str] = ()) -> list[str]:
    """Words of a command line that gives `recipe`; values at their default are left out, but for `always`."""
    default, shown, words = Recipe(), set(always), []
    for option in OPTIONS:
        value = getattr(getattr(recipe, option.section), option.name)
        if option.flag in shown or value != getattr(getattr(default, option.section), option.name):
            if option.kind is bool:
                words.append(option.flag if value else option.flag.replace("--", "--no-", 1))
                continue
            for item in value if option.many else (value,):
                words += [option.flag, str(item).removesuffix(".0") if isinstance(item, float) else str(item)]
    return words
