"""Files that may hold anything: whatever is in them, only errors of this project are raised, and soon."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import nirvana as nv
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.checkpoints.gguf_tokenizer import open_gguf
from nirvana.compensation.statistics import Moments, Statistics
from nirvana.errors import (
    NirvanaError,
)
from nirvana.evaluation.zero_shot.tasks import read_task
from nirvana.layout import Site
from nirvana.models.inspection import inspect_model
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.plan import PruningPlan
from nirvana.runs.folder import FORMATS, StepFolder
from nirvana.runs.recipe import Recipe
from nirvana.saliency.scores import Saliency
from tests.foreign_files import write
from tests.uneven import uneven_plan

pytest_plugins = ("tests.foreign_files",)

ODD: list[Any] = [
    None, True, 0, 1, -1, 7, 1.5, -0.0, 1e308, 10**30, float("nan"), float("inf"), float("-inf"), 2**31, 2**63,
    "", "x", "inf", "5", "decoder.0.mlp", "../../etc/passwd", "\u0000", [], [0], [None], [[]], {}, {"a": 1}, [1] * 300,
]  # fmt: skip
FUZZ = settings(
    max_examples=int(os.environ.get("NIRVANA_FUZZ_EXAMPLES", "150")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in a JSON document, the first few entries of each list."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 3)):
            yield from places(value[index], (*path, index))


def changed(document: Any, changes: list[tuple[int, int, int]]) -> Any:
    """The document with some values replaced, removed or added, as the numbers say."""
    document = copy.deepcopy(document)
    for where, what, how in changes:
        paths = list(places(document))
        path = paths[where % len(paths)]
        new = copy.deepcopy(ODD[what % len(ODD)])  # or later changes would reach it
        if not path:
            document = new if how == 3 else document
            continue
        parent = document
        for step in path[:-1]:
            parent = parent[step]
        if how == 0:
            del parent[path[-1]]
        elif how == 1 and isinstance(parent, dict):
            parent[str(new)[:20]] = copy.deepcopy(parent[path[-1]])
        else:
            parent[path[-1]] = new
    return document


MOMENTS = {Site("decoder", layer, "mlp"): Moments(np.arange(5.0), np.eye(5, dtype=np.float32)) for layer in range(2)}
TOKENS = b"tokenizer.ggml.tokens\x09\0\0\0"  # a key, and that its value is a list
COUNTS = (0, 1, 1 << 20, 1 << 31, (1 << 40) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)
NUMBER = st.integers(0, 10_000)
CHANGES = st.lists(st.tuples(NUMBER, NUMBER, st.integers(0, 3)), min_size=1, max_size=3)
DAMAGE = st.lists(st.tuples(NUMBER, st.integers(0, 255)), min_size=1, max_size=6)


def damaged(content: bytes, damage: list[tuple[int, int]]) -> bytes:
    """The bytes with some overwritten; every fourth is cut too, which alone would hide what lies before the end."""
    data = bytearray(content)
    for place, byte in damage:
        data[place * len(data) // 10_001] = byte
    cut = damage[-1][0] % 97 if damage[-1][1] % 4 == 0 else 0
    return bytes(data[: len(data) - cut])


def survives(read: Callable[[], object]) -> None:
    """Run `read`; errors of this project are answers, counted with --hypothesis-show-statistics."""
    try:
        read()
    except NirvanaError as error:
        event(type(error).__name__)
    else:
        event("read")


@FUZZ
@given(changes=CHANGES)
def test_config(changes: list[tuple[int, int, int]], dense: Path, tiny_folder: Path) -> None:
    good = json.loads((tiny_folder / "config.json").read_text())
    write(dense / "config.json", changed(good, changes))
    survives(lambda: inspect_model(str(dense)))
    survives(lambda: load_model(dense, device="cpu"))


@FUZZ
@given(changes=CHANGES)
def test_config_of_an_encoder_decoder(changes: list[tuple[int, int, int]], t5_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(t5_folder, folder, dirs_exist_ok=True)
    write(folder / "config.json", changed(json.loads((t5_folder / "config.json").read_text()), changes))
    survives(lambda: inspect_model(str(folder)))
    survives(lambda: load_model(folder, device="cpu"))


@FUZZ
@given(damage=DAMAGE, kind=st.sampled_from(["values", "tensors", "counts", "cut"]))
def test_headers_of_gguf_files(damage: list[tuple[int, int]], kind: str, gguf: bytes, tmp_path: Path) -> None:
    values, tensors = gguf.index(TOKENS), gguf.index(b"token_embd")  # between them lies the vocabulary
    end = gguf.rindex(b".weight") + 40
    if kind == "values":
        content = damaged(gguf[:values], damage[:1]) + gguf[values:]
    elif kind == "tensors":
        content = gguf[:tensors] + damaged(gguf[tensors:end], damage[:1]) + gguf[end:]
    elif kind == "counts":
        place = damage[0][0] * (end - 8) // 10_000
        content = gguf[:place] + COUNTS[damage[0][1] % len(COUNTS)].to_bytes(8, "little") + gguf[place + 8 :]
    else:
        content = gguf[: len(gguf) * damage[0][0] // 10_001]
    file = tmp_path / "tiny.gguf"
    file.write_bytes(content)
    survives(lambda: inspect_model(str(file)))
    survives(lambda: load_model(file, device="cpu"))
    survives(lambda: open_gguf(file))


@FUZZ
@given(changes=CHANGES, name=st.sampled_from(["generation_config.json", "tokenizer_config.json", "tokenizer.json"]))
def test_files_beside_the_config(
    changes: list[tuple[int, int, int]], name: str, dense: Path, tiny_folder: Path
) -> None:
    shutil.copytree(tiny_folder, dense, dirs_exist_ok=True)
    source = tiny_folder / name
    good = json.loads(source.read_text()) if source.is_file() else {"eos_token_id": 1, "max_length": 20}
    write(dense / name, changed(good, changes))
    survives(lambda: load_model(dense, device="cpu"))


@FUZZ
@given(changes=CHANGES, name=st.sampled_from(["pruning.json", "config.json"]))
def test_pruning_records(changes: list[tuple[int, int, int]], name: str, pruned: Path, pruned_folder: Path) -> None:
    shutil.copytree(pruned_folder, pruned, dirs_exist_ok=True)
    write(pruned / name, changed(json.loads((pruned_folder / name).read_text()), changes))
    survives(lambda: inspect_model(str(pruned)))
    survives(lambda: load_model(pruned, device="cpu"))


@FUZZ
@given(changes=CHANGES)
def test_plans(changes: list[tuple[int, int, int]], tiny_lm: LM) -> None:
    survives(lambda: PruningPlan.from_json(changed(uneven_plan(tiny_lm).to_json(), changes)))


@FUZZ
@given(changes=CHANGES)
def test_recipes(changes: list[tuple[int, int, int]]) -> None:
    survives(lambda: Recipe.from_json(changed(json.loads(json.dumps(Recipe().to_json())), changes)))


@FUZZ
@given(changes=CHANGES, suffix=st.sampled_from([".jsonl", ".txt"]))
def test_corpora(changes: list[tuple[int, int, int]], suffix: str, tmp_path: Path) -> None:
    records = [changed({"text": "Some words. " * 40}, [change]) for change in changes] + [{"text": "More. " * 400}] * 4
    path = tmp_path / f"text{suffix}"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    survives(lambda: load_corpus(path))


@FUZZ
@given(changes=CHANGES)
def test_zero_shot_tasks(changes: list[tuple[int, int, int]], tmp_path: Path) -> None:
    items = [changed({"query": "Two and two?", "choices": ["four", "five"], "gold": 0}, [change]) for change in changes]
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    survives(lambda: read_task(path))


@FUZZ
@given(damage=DAMAGE)
def test_scores_calibration_sets_and_statistics(damage: list[tuple[int, int]], tiny_lm: LM) -> None:
    scores = nv.score(tiny_lm, None, criterion="magnitude").to_bytes()
    drawn = CalibrationSet(np.arange(24).reshape(3, 8), source="text", texts=["a", "b", "c"]).to_bytes()
    statistics = Statistics(MOMENTS, {"decoder": 9}, "hash", ({"seed": 1},)).to_bytes()
    stored = (scores, Saliency.from_bytes), (drawn, CalibrationSet.from_bytes), (statistics, Statistics.from_bytes)
    for content, read in stored:
        survives(lambda read=read, content=content: read(damaged(content, damage)))  # type: ignore[misc]
    survives(lambda: CalibrationSelection.from_bytes(damaged(drawn, damage)))


@FUZZ
@given(changes=CHANGES, step=st.sampled_from(["model", "allocation", "prune", "evaluate"]))
def test_results_and_records_of_a_run(changes: list[tuple[int, int, int]], step: str, tmp_path: Path) -> None:
    from nirvana.runs.store import EXAMPLE_FOLDER

    folder = tmp_path / "run"
    shutil.copytree(EXAMPLE_FOLDER, folder, dirs_exist_ok=True)
    form = FORMATS[step]
    record = folder / f"{form.name}.info.json"
    info = json.loads(record.read_text())
    content = json.dumps(changed(json.loads((folder / info["file"]).read_text()), changes)).encode()
    StepFolder(folder).put(step, content, info)
    assert StepFolder(folder).read(step) is None or StepFolder(folder).info(step) is not None
    write(record, changed(info, changes))
    StepFolder(folder).read(step)
