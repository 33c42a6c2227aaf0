"""Base of all subcommands, and the files that they read and write."""

from __future__ import annotations

import argparse
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from nirvana.errors import Cancelled, NirvanaError, RunError
from nirvana.files import local_path, read_file, well_formed
from nirvana.runs.recipe import STEPS, Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import Store

Value = TypeVar("Value")


class Command(ABC):
    """A subcommand of `nirvana`. The first line of the docstring is its help text.

    Class attributes:
        name: as typed.
        group: heading in the overview.
        example: a command line, shown below the options.
        has_json: whether it takes --json.
    """

    name: str
    group: str
    example: str = ""
    has_json: bool = True

    @property
    def help(self) -> str:
        """One sentence."""
        return (type(self).__doc__ or "").partition("\n")[0]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027 (some take none)
        """Give `parser` the options of the subcommand."""

    @abstractmethod
    def run(self, arguments: argparse.Namespace) -> int | None:
        """Perform the subcommand and print its result, as JSON with --json; returns an exit code other than 0.

        Raises:
            NirvanaError: an input is wrong, or the work failed.
        """


def add_json(parser: argparse.ArgumentParser, default: bool | str = False) -> None:
    """The option --json."""
    text = "print the result as JSON, and nothing else, on stdout"
    parser.add_argument("--json", action="store_true", default=default, help=text)


@contextmanager
def new_run(store: Store, recipe: Recipe, name: str) -> Iterator[Run]:
    """A new run, which is deleted if the block fails before the run has any result."""
    run = store.create(recipe, name=name)
    try:
        yield run
    except NirvanaError as error:
        begun = any(map(run.info, STEPS)) or store.children(run.id) or any(run.folder.glob("*.jsonl"))
        if not begun and not isinstance(error, Cancelled):
            store.delete(run.id)
        raise


def output_file(name: str) -> Path:
    """The file to write.

    Raises:
        RunError: it exists and is not a file, or cannot be written.
    """
    path = local_path(name, RunError)
    if path.exists() and not path.is_file():
        raise RunError(f"{name} is not a regular file; it was not changed.", "Give the name of a file.")
    check_folder(path)
    return path


def check_folder(path: Path) -> None:
    """Raises: RunError, where `path` lies in no folder that can be written or made."""
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise RunError(f"{path} cannot be written: {place} is not a folder with write permission.", "Choose another.")


def read_input(name: str, parse: Callable[[bytes], Value], kind: str, hint: str) -> Value:
    """The parsed content of a file.

    Args:
        kind: the expected content, for messages.
        hint: origin of such a file.

    Raises:
        RunError: it is missing, unreadable, or of another kind.
    """
    try:
        content = read_file(local_path(name, RunError))
    except FileNotFoundError:
        raise RunError(f"There is no file {name}.", hint) from None
    except OSError as error:
        raise RunError(f"{name} cannot be read: {error.strerror}.", hint) from error
    with well_formed(f"{name} is not a {kind}", RunError, hint):
        return parse(content)
