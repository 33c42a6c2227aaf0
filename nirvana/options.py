"""Command-line options of a `Schema`: generated from its fields, parsed, and written as words."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

from nirvana.schema import Option, Schema, options


def add_fields(parser: argparse.ArgumentParser, schema: type[Schema], *, only: Iterable[str] = ()) -> None:
    """Give `parser` an option for each field of `schema` that has a flag. An option that is not given stays None.

    Args:
        only: flags to add; all by default.
    """
    wanted = set(only)
    for option in options(schema).values():
        if option.flag and (not wanted or option.flag in wanted):
            _add(parser, option, destination(schema, option.name))


def given(schema: type[Schema], arguments: argparse.Namespace) -> dict[str, Any]:
    """Field name -> value, of the options that were given on the command line."""
    found = {}
    for option in options(schema).values():
        value = getattr(arguments, destination(schema, option.name), None)
        if value is not None:
            found[option.name] = tuple(dict.fromkeys(value)) if option.many else value
    return found


def words(values: Schema, always: Iterable[str] = ()) -> Iterator[str]:
    """Command-line words for `values`, without defaults except for the flags in `always`."""
    shown = set(always)
    for option in options(type(values)).values():
        value = getattr(values, option.name)
        if not option.flag or (value == option.default and option.flag not in shown):
            continue
        if option.kind is bool:
            yield option.flag if value else option.flag.replace("--", "--no-", 1)
            continue
        for item in value if option.many else (value,):
            yield option.flag
            yield str(item).removesuffix(".0") if isinstance(item, float) else str(item)


def destination(schema: type[Schema], name: str) -> str:
    """Name of the field's value among the parsed arguments."""
    return f"{schema.section}.{name}" if schema.section else name


def _add(parser: argparse.ArgumentParser, option: Option, dest: str) -> None:
    default = (" ".join(map(str, option.default)) or "none") if option.many else option.default
    if option.kind is bool:
        help_text = f"{option.help} (default: {'on' if default else 'off'})"
        parser.add_argument(option.flag, dest=dest, action=argparse.BooleanOptionalAction, default=None, help=help_text)
        return
    bounds = _bounds(option)
    parser.add_argument(
        option.flag,
        dest=dest,
        type=option.kind,
        action="append" if option.many else "store",
        metavar=option.flag.strip("-").upper().replace("-", "_"),
        help=f"{option.help}{bounds} (default: {default})".replace("%", "%%"),
    )


def _bounds(option: Option) -> str:
    if option.choices and "; " not in option.help:
        return f": {', '.join(option.choices)}"
    if option.low is not None and option.high is not None and option.high < 1 << 62:
        return f", {option.low:,} to {option.high:,}"
    return ""
