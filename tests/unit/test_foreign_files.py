"""Values in files that no file of this project has: each is refused by name, or read as the standards say."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import nirvana as nv
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.calibration.sets import CalibrationSet
from nirvana.checkpoints.gguf_tokenizer import open_gguf
from nirvana.compensation.statistics import Moments, Statistics
from nirvana.errors import (
    CheckpointError,
    CompensationError,
    CorpusError,
    ModelError,
    NirvanaError,
    PlanError,
    RunError,
    TaskError,
)
from nirvana.evaluation.continuation import continue_prompt
from nirvana.evaluation.zero_shot.tasks import read_task
from nirvana.files import pack, parse_json, read_file, unpack, user_path
from nirvana.layout import Site
from nirvana.models.inspection import inspect_model
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.plan import PruningPlan
from nirvana.runs.folder import StepFolder
from nirvana.runs.step_cache import through_cache
from tests.foreign_files import write
from tests.uneven import uneven_plan

pytest_plugins = ("tests.foreign_files",)

DEEP = "[" * 100_000 + "]" * 100_000


MOMENTS = {Site("decoder", layer, "mlp"): Moments(np.arange(5.0), np.eye(5, dtype=np.float32)) for layer in range(2)}
TOKENS = b"tokenizer.ggml.tokens\x09\0\0\0"  # a key, and that its value is a list


@pytest.mark.parametrize("name", ["num_layers", "num_decoder_layers", "relative_attention_num_buckets"])
@pytest.mark.parametrize("value", [2_000_000_000, -3, float("inf"), [3], "three"])
def test_sizes_of_an_encoder_decoder_are_bounded(name: str, value: object, t5_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(t5_folder, tmp_path / "t5"))
    write(folder / "config.json", json.loads((folder / "config.json").read_text()) | {name: value})
    with pytest.raises(NirvanaError):
        load_model(folder, device="cpu")
    if "layers" in name:
        with pytest.raises(ModelError, match=r"config\.json (has|lacks or garbles)"):
            inspect_model(str(folder))


def test_an_archive_is_damaged_where_a_header_claims_more_than_it_holds(tmp_path: Path) -> None:
    whole = pack({"a": 1}, {"values": np.arange(6, dtype=np.float32)}, compress=False)
    for claim in ("(7,)", "(9_999_999_999_999,)", "(-6,)", "(-2, -3)", f"({'-' * 3000}6,)"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("meta.npy", zipfile.ZipFile(io.BytesIO(whole)).read("meta.npy"))
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {claim}, }}\n".encode()
            start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
            archive.writestr("values.npy", start + header + bytes(24))
        with pytest.raises(ValueError, match="archive cannot be read"):
            unpack(stream.getvalue())
    assert unpack(whole)[1]["values"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "change",
    [
        {"decoder.0.mlp.mean": np.zeros((5, 1))},
        {"decoder.0.mlp.mean": np.zeros(5, np.int64)},
        {"decoder.0.mlp.mean": np.full(5, np.nan)},
        {"decoder.0.mlp.mean": np.zeros(10**6)},  # a square of 10^12 numbers
        {"decoder.1.mlp.second": np.zeros(15)},
        {"decoder.1.mlp.second": np.zeros(16, np.float32)},
        {"tokens": {}},
        {"tokens": {"decoder": "many"}},
        {"sites": ["decoder.7.mlp"]},
        {"sites": 3},
        {"seconds": None},
    ],
    ids=str,
)
def test_statistics_of_other_shapes_or_types_are_refused(change: dict[str, Any]) -> None:
    meta, arrays = unpack(Statistics(MOMENTS, {"decoder": 9}, "hash").to_bytes())
    changed_meta = meta | {name: value for name, value in change.items() if name in meta}
    content = pack(changed_meta, arrays | {name: value for name, value in change.items() if name in arrays})
    with pytest.raises(CompensationError):
        Statistics.from_bytes(content)


def test_a_result_that_does_not_fit_in_memory_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StepFolder(tmp_path)
    drawn = CalibrationSet(np.arange(24).reshape(3, 8), source="text", texts=["a", "b", "c"])
    folder.put("calibration", drawn.to_bytes(), {"fingerprint": ""})

    def cached() -> CalibrationSet:
        return through_cache("a-set", CalibrationSet.from_bytes, CalibrationSet.to_bytes, lambda: drawn)[0]

    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    cached()
    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "read_array", out_of_memory)
        with pytest.raises(MemoryError):
            folder.read("calibration")
        with pytest.raises(MemoryError):
            cached()
    assert folder.read("calibration").hash == cached().hash == drawn.hash


def test_deep_nesting_is_refused_everywhere(dense: Path, pruned: Path, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        (dense / name).write_text(DEEP)
        with pytest.raises(ModelError):
            load_model(dense, device="cpu")
    (pruned / "pruning.json").write_text(DEEP)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        inspect_model(str(pruned))
    lines = tmp_path / "lines.jsonl"
    lines.write_text(DEEP)
    with pytest.raises(CorpusError, match=r"Line 1 of lines\.jsonl is not JSON: it is nested too deeply"):
        load_corpus(lines)
    with pytest.raises(TaskError, match="nested too deeply"):
        read_task(lines)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)
    folder = StepFolder(tmp_path / "run")
    folder.put("evaluate", DEEP.encode(), {"fingerprint": ""})
    assert folder.read("evaluate") is None
    (tmp_path / "run" / "report.info.json").write_text(DEEP)
    assert folder.info("evaluate") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TOKENS + b"\x08\0\0\0\x03\x01", TOKENS + b"\x08\0\0\0" + b"\xff" * 5, "truncated"),
        (TOKENS + b"\x08\0\0\0\x03\x01", TOKENS + b"\0\0\0\0" + b"\xff" * 5, "truncated"),
        (TOKENS + b"\x08", TOKENS + b"\x09", "lists of an unknown type"),
        (b"general.name", b"general.na\xff\xfe", "utf-8"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_k.weight", "occurs twice"),
        (b"GGUF\x03", b"GGUF\x09", "version is 9"),
    ],
)
def test_a_damaged_header_of_a_gguf_file_is_refused(
    old: bytes, new: bytes, message: str, gguf: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    assert old in gguf
    file.write_bytes(gguf.replace(old, new, 1))
    with pytest.raises(ModelError, match=f"not a readable GGUF file: .*{message}"):
        inspect_model(str(file))
    with pytest.raises(CheckpointError, match=f"not a readable GGUF file: .*{message}"):
        open_gguf(file)


def test_a_gguf_file_without_tensors_holds_no_model(gguf: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(gguf[:8] + bytes(8) + gguf[16:])
    with pytest.raises(ModelError, match="does not describe a language model"):
        inspect_model(str(file))


@pytest.mark.parametrize("count", [2_000_000_000, -1, 1.5, "three", None, 10**30])
def test_a_count_of_layers_is_bounded_before_it_is_used(count: object, pruned: Path) -> None:
    record = json.loads((pruned / "pruning.json").read_text())
    write(pruned / "pruning.json", record | {"base_layers": {"decoder": count}})
    with pytest.raises(CheckpointError, match=r"pruning\.json cannot be read: .* is no whole number from 0 to 1,000"):
        inspect_model(str(pruned))


@pytest.mark.parametrize("units", [[2**70], [float("inf")], [float("nan")], [1.5], ["0"], [True], {}, "012", [-1]])
def test_unit_indices_are_whole_numbers(units: object, pruned: Path, tiny_lm: LM) -> None:
    record = json.loads((pruned / "pruning.json").read_text())
    write(pruned / "pruning.json", record | {"kept": {**record["kept"], "decoder.0.mlp": units}})
    with pytest.raises(CheckpointError, match="whole number"):
        inspect_model(str(pruned))
    plan = uneven_plan(tiny_lm).to_json()
    with pytest.raises(PlanError, match=r"not a pruning plan: .* whole number"):
        PruningPlan.from_json(plan | {"kept": {**plan["kept"], "decoder.0.mlp": units}})


@pytest.mark.parametrize("layout", [None, [], "x", {"sites": []}, {"sites": {"decoder.0.mlp": [1, 2, "head"]}}])
def test_a_plan_with_a_layout_of_another_type_is_refused(layout: object, tiny_lm: LM) -> None:
    with pytest.raises(PlanError, match="not a pruning plan"):
        PruningPlan.from_json(uneven_plan(tiny_lm).to_json() | {"layout": layout})


@pytest.mark.parametrize(
    ("name", "value"),
    [("tie_word_embeddings", None), ("max_position_embeddings", None), ("hidden_act", 3), ("rms_norm_eps", {})],
)
def test_a_config_value_of_a_wrong_type_is_named(name: str, value: object, dense: Path) -> None:
    config = json.loads((dense / "config.json").read_text())
    write(dense / "config.json", config | {name: value})
    with pytest.raises(ModelError) as caught:
        load_model(dense, device="cpu")
    assert name in caught.value.message and caught.value.hint


def test_only_regular_files_are_read(tmp_path: Path, dense: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        read_file(pipe)
    with pytest.raises(CorpusError, match="not a regular file"):
        load_corpus(pipe)
    with pytest.raises(TaskError, match="not a regular file"):
        read_task(pipe)
    vocabulary = tmp_path / "vocabulary.gguf"
    os.mkfifo(vocabulary)
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_gguf(vocabulary)
    endless = tmp_path / "endless.txt"
    endless.symlink_to("/dev/zero")
    with pytest.raises(CorpusError, match="not a regular file"):
        load_corpus(endless)
    for name in ("tokenizer.json", "generation_config.json", "config.json"):
        (dense / name).unlink(missing_ok=True)
        os.mkfifo(dense / name)
        with pytest.raises(ModelError, match="not a regular file"):
            load_model(dense, device="cpu")
    with pytest.raises(ModelError, match="not a regular file"):
        inspect_model(str(dense))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0" * 63])
def test_a_damaged_hash_of_weights_is_computed_again(content: bytes, dense: Path, own_home: Path) -> None:
    computed = load_model(dense, device="cpu").hash
    (kept,) = (own_home / "cache" / "hashes").iterdir()
    kept.write_bytes(content)
    assert load_model(dense, device="cpu").hash == computed


def test_a_path_of_an_unknown_user_is_refused() -> None:
    for read in (load_corpus, inspect_model):
        with pytest.raises(NirvanaError, match="home directory"):
            read("~nobody-of-this-name/text.txt")
    with pytest.raises(RunError, match="home directory"):
        user_path("~nobody-of-this-name/text.txt", RunError)


def test_a_checkpoint_is_not_saved_for_an_unknown_user(tiny_lm: LM) -> None:
    for write_to in (nv.save, nv.export_uniform, nv.export_gguf):
        with pytest.raises(CheckpointError, match="home directory"):
            write_to(tiny_lm, "~nobody-of-this-name/model")


def test_text_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    item = {"query": "Two and two?", "choices": ["four", "five"], "gold": 0}
    (tmp_path / "task.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(item).encode() + b"\r\n")
    assert read_task(tmp_path / "task.jsonl").items == (item,)
    (tmp_path / "text.jsonl").write_bytes(
        b"\xef\xbb\xbf" + "\n".join(json.dumps({"text": f"{n} words " * 900}) for n in range(4)).encode()
    )
    assert load_corpus(tmp_path / "text.jsonl").split("calibration").characters


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(dense: Path) -> None:
    tokenizer = json.loads((dense / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["far"] = 9_999
    write(dense / "tokenizer.json", tokenizer)
    with pytest.raises(ModelError, match="ids up to 9,999; the model has"):
        load_model(dense, device="cpu")


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_text_with_a_token_beyond_the_embeddings_is_refused(
    kind: str, dense: Path, t5_folder: Path, tmp_path: Path
) -> None:
    folder = dense if kind == "llama" else Path(shutil.copytree(t5_folder, tmp_path / "t5"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"unk_token": "<unknown>"})
    tokenizer.save_pretrained(folder)
    lm = load_model(folder, device="cpu")  # which texts without it can be read with
    item = {"query": "Two and <unknown>?", "choices": ["four", "five"], "gold": 0}
    (tmp_path / "task.jsonl").write_text(json.dumps(item))
    text = "Some <unknown> words. " * 400
    refused = r"has the token '<unknown>' with the id 258; .* has 258 embeddings"
    for read in (
        lambda: nv.perplexity(lm, text, window=32),
        lambda: nv.sample_calibration(lm, text, samples=2, length=32),
        lambda: continue_prompt(lm, "Some <unknown> words"),
        lambda: nv.zero_shot(lm, str(tmp_path / "task.jsonl")),
    ):
        with pytest.raises(ModelError, match=refused):
            read()
    assert nv.perplexity(lm, "Some known words. " * 400, window=32).value > 1


def test_sentinels_beyond_the_embeddings_are_not_used(t5_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(t5_folder, tmp_path / "t5"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"]})
    tokenizer.save_pretrained(folder)
    lm = load_model(folder, device="cpu")
    assert nv.perplexity(lm, "Some known words. " * 400, window=32).task == "continuation"
    with pytest.raises(CorpusError, match="has no sentinels"):
        nv.perplexity(lm, "Some known words. " * 400, window=32, task="span corruption")


def test_zero_shot_needs_a_token_to_begin_with(dense: Path) -> None:
    settings_file = json.loads((dense / "tokenizer_config.json").read_text())
    write(
        dense / "tokenizer_config.json", {k: v for k, v in settings_file.items() if k not in ("eos_token", "bos_token")}
    )
    lm = load_model(dense, device="cpu")
    assert lm.tokenizer.eos_token_id is None and lm.tokenizer.bos_token_id is None
    with pytest.raises(TaskError, match="neither a begin nor an end token"):
        nv.zero_shot(lm, "minimal-pairs", items=1)
