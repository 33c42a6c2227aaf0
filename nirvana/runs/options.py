"""Command-line options for every value of a recipe; the dashboard's "show as code" writes what the CLI reads."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from nirvana.options import add_fields, given, words
from nirvana.runs.recipe import SECTIONS, Recipe


def add_options(parser: argparse.ArgumentParser, *sections: str, only: Iterable[str] = ()) -> None:
    """Give `parser` the options of some recipe sections, or those flags of them that `only` names."""
    for section in sections:
        add_fields(parser, SECTIONS[section], only=only)


def apply_options(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """`recipe` with the values that were given on the command line.

    Raises:
        NirvanaError: a value is out of range.
    """
    for section, schema in SECTIONS.items():
        recipe = recipe.change(section, **given(schema, arguments))
    return recipe


def option_words(recipe: Recipe, always: Iterable[str] = ()) -> list[str]:
    """Command-line words for `recipe`, without defaults except for the flags in `always`."""
    shown = set(always)
    return [word for section in SECTIONS for word in words(getattr(recipe, section), shown)]
