"""Zero-shot tasks: the built-in probe, local .jsonl files, and the harness's tasks on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nirvana.errors import TaskError
from nirvana.evaluation.zero_shot.minimal_pairs import minimal_pairs
from nirvana.evaluation.zero_shot.phenomena import PHENOMENA
from nirvana.files import content_hash, local_path, parse_json, read_text

MINIMAL_PAIRS = "minimal-pairs"
SUFFIX = ".jsonl"
LIMIT = 256 << 20  # bytes of one file
MAX_ITEMS = 1_000_000


@dataclass(frozen=True)
class HubTask:
    """A task defined by the harness with items on the hub; `folder` holds its definition in the harness."""

    name: str
    title: str
    folder: str


@dataclass(frozen=True, eq=False)
class LocalTask:
    """A task with its items in memory.

    Each item has `query`, `choices` and `gold`: the index of the best continuation; or `context_options`,
    `continuation` and `gold`: the context after which the continuation is likeliest (`contexts` is true), as WinoGrande
    is scored. `gold` counts from 0. `delimiter` stands between the two texts.
    """

    name: str
    items: tuple[dict[str, Any], ...]
    contexts: bool = False
    delimiter: str = " "

    @property
    def hash(self) -> str:
        """Hash of the items, 64 hex digits."""
        return content_hash(json.dumps(self.items, sort_keys=True, ensure_ascii=False), self.delimiter)


Task = HubTask | LocalTask

HUB = {
    task.name: task
    for task in (
        HubTask("boolq", "BoolQ", "super_glue/boolq"),
        HubTask("piqa", "PIQA", "piqa"),
        HubTask("hellaswag", "HellaSwag", "hellaswag"),
        HubTask("winogrande", "WinoGrande", "winogrande"),
        HubTask("arc_easy", "ARC easy", "arc"),
        HubTask("arc_challenge", "ARC challenge", "arc"),
        HubTask("openbookqa", "OpenBookQA", "openbookqa"),
        HubTask("lambada_openai", "LAMBADA", "lambada"),
    )
}


def find_tasks(names: Iterable[str], *, items: int = 0) -> list[Task]:
    """Tasks by name, each with at most its first `items` items; 0 for all.

    Args:
        names: "minimal-pairs", names of `HUB`, .jsonl files, or folders of them.
        items: of each task; of each phenomenon of the minimal pairs.

    Raises:
        TaskError: a name is unknown, a file cannot be read or is malformed, or two tasks have the same name.
    """
    if isinstance(items, bool) or not isinstance(items, int) or not 0 <= items <= MAX_ITEMS:
        raise TaskError(f"{items} is not a number of items.", "Use 0 for all, or a whole number.")
    found: list[Task] = []
    for name in names:
        check_name(name)
        if name == MINIMAL_PAIRS:
            found += [_phenomenon(key, items) for key in PHENOMENA]
        elif name in HUB:
            found.append(HUB[name])
        else:
            found += [read_task(file, items=items) for file in files(name)]
    seen: set[str] = set()
    for task in found:
        if task.name in seen:
            raise TaskError(f"Two tasks are called {task.name}.", "Remove one, or rename its file.")
        seen.add(task.name)
    if not found:
        raise TaskError("No zero-shot task is named.", f"Use {MINIMAL_PAIRS}, {', '.join(HUB)}, or a .jsonl file.")
    return found


def check_name(name: str) -> None:
    """Check that a task of that name exists, without reading items.

    Raises:
        TaskError: it does not.
    """
    if name != MINIMAL_PAIRS and name not in HUB:
        files(name)


def check_fit(names: Iterable[str], model: str, *, encoder: bool) -> None:
    """Check that the tasks suit the model.

    Raises:
        TaskError: minimal pairs, for a model with an encoder.
    """
    if encoder and any(name.partition("/")[0] == MINIMAL_PAIRS for name in names):
        raise TaskError(
            f"Minimal pairs are sentences without an input, which {model}, an encoder-decoder, needs.",
            "Choose tasks with a question and answers, such as a local .jsonl file.",
        )


def files(name: str) -> list[Path]:
    """The .jsonl files that a path names: itself, or those in a folder, by name.

    Raises:
        TaskError: there are none.
    """
    path = local_path(name, TaskError) if name.strip() else Path()
    if name.strip() and path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix == SUFFIX and file.is_file())
        if not inside:
            raise TaskError(f"The folder {name} has no {SUFFIX} files.", "Give a folder of local tasks.")
        return inside
    if path.suffix == SUFFIX and path.is_file():
        return [path]
    raise TaskError(
        f"There is no zero-shot task {name!r}.",
        f"Use {MINIMAL_PAIRS}, {', '.join(HUB)}, a {SUFFIX} file, or a folder of them.",
    )


def read_task(path: Path, *, items: int = 0) -> LocalTask:
    """Read a local task from a .jsonl file, one item a line.

    Raises:
        TaskError: it cannot be read, or a line does not have the fields of `LocalTask`.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise TaskError(f"{path.name} is larger than {LIMIT >> 20} MB.", "Give fewer items.")
        lines = read_text(path).split("\n")  # splitlines would cut inside strings, at U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path.name} cannot be read: {error}.", "Give a .jsonl file in UTF-8.") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise TaskError(f"{path.name} has no items.", "Give one JSON object a line.")
    numbered = numbered[: items or None]
    read = [_item(line, f"{path.name}, line {number}") for number, line in numbered]
    kinds = {"continuation" in item for item in read}
    if len(kinds) > 1:
        raise TaskError(f"{path.name} mixes two kinds of items.", "Give each kind a file of its own.")
    return LocalTask(path.name, tuple(read), contexts=kinds.pop())


def characters(names: Sequence[str], items: int) -> int | None:
    """Number of characters of the tasks of these names; None where some are on the hub.

    Raises:
        TaskError: see `find_tasks`.
    """
    total = 0
    for task in find_tasks(names, items=items) if names else ():
        if isinstance(task, HubTask):
            return None
        for item in task.items:
            options, rest = ("context_options", "continuation") if task.contexts else ("choices", "query")
            total += sum(map(len, item[options])) + len(item[options]) * len(item[rest])
    return total


def harness_version() -> str:
    """E.g. "lm-eval 0.4.13": accuracies of different versions are not comparable."""
    return f"lm-eval {metadata.version('lm-eval')}"


def task_title(name: str) -> str:
    """Display name of a task, e.g. "PIQA", "Reflexive agrees in gender", "piqa.jsonl"."""
    if name == MINIMAL_PAIRS:
        return "Minimal pairs"
    group, _, key = name.partition("/")
    if group == MINIMAL_PAIRS and key in PHENOMENA:
        return PHENOMENA[key].title
    return HUB[name].title if name in HUB else name


def _phenomenon(key: str, items: int) -> LocalTask:
    """The right choice alternates, so that a constant model is right half the time."""
    pairs = minimal_pairs(key, count=items) if items else minimal_pairs(key)
    rows = tuple(
        {"query": "", "choices": list(pair if index % 2 == 0 else pair[::-1]), "gold": index % 2}
        for index, pair in enumerate(pairs)
    )
    return LocalTask(f"{MINIMAL_PAIRS}/{key}", rows, delimiter="")


def _item(line: str, place: str) -> dict[str, Any]:
    try:
        data = parse_json(line)
    except ValueError as error:
        raise TaskError(f"{place} is not JSON: {error}.", "Give one JSON object a line.") from error
    for options, rest in (("choices", "query"), ("context_options", "continuation")):
        if isinstance(data, dict) and {options, rest, "gold"} <= data.keys():
            texts, other, gold = data[options], data[rest], data["gold"]
            sound = isinstance(texts, list) and len(texts) > 1 and all(isinstance(t, str) and t for t in texts)
            if not sound or not isinstance(other, str) or (rest == "continuation" and not other):
                raise TaskError(f"{place}: {options} must be two texts or more, {rest} one text.", "Correct it.")
            if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(texts):
                raise TaskError(f"{place}: gold is {gold!r}, not the index of a choice.", "Count from 0.")
            return {options: texts, rest: other, "gold": gold}
    raise TaskError(
        f"{place} is not an item of a task.",
        "Give query, choices and gold, or context_options, continuation and gold.",
    )
