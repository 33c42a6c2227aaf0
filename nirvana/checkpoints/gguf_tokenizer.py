"""The tokenizer of a GGUF file: copied from the model's source file, or converted from the tokenizer in its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.checkpoints.provenance import base_gguf, base_name, licence_of
from nirvana.errors import CheckpointError, ModelError
from nirvana.files import parse_json, user_path
from nirvana.models.gguf_header import read_header

if TYPE_CHECKING:
    from nirvana.models.lm import LM

BYTE_PAIRS = "gpt2"  # llama.cpp's name for byte-level byte-pair encoding
COPIED = ("tokenizer.ggml.", "tokenizer.chat_template", "general.languages", "general.license")
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Steps before byte pairs are merged -> llama.cpp's name for them.
SPLITS = {
    (("ByteLevel", True),): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("Split", QWEN2), ("ByteLevel", False)): "qwen2",
    (("Split", QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), ("ByteLevel", False)): "llama-bpe",
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
HINT = "Use the checkpoint or the uniform format."

Entry = tuple[Any, ...]  # value, GGUF type and, for a list, the type of its items


def tokenizer_entries(lm: LM, given: str | os.PathLike[str] | None = None) -> dict[str, Entry]:
    """Keys of the tokenizer for a GGUF file of `lm`, with licence and languages where they are known.

    Args:
        lm: the model; its source's file is copied where it came from a GGUF file.
        given: a GGUF file to copy the tokenizer from instead.

    Raises:
        CheckpointError: the tokenizer is of a kind that was not compared with llama.cpp's, or has another vocabulary.
        ModelError: `given` cannot be read.
    """
    path = base_gguf(lm.source) if given is None else user_path(given, ModelError)
    return dict(_converted(lm)) if path is None else dict(_copied(lm, path))


def _copied(lm: LM, path: Path) -> Iterator[tuple[str, Entry]]:
    reader = open_gguf(path)
    kind, tokens = value_of(reader, "tokenizer.ggml.model"), value_of(reader, "tokenizer.ggml.tokens") or []
    if kind != BYTE_PAIRS:
        raise CheckpointError(
            f"The tokenizer of {path.name} is of llama.cpp's kind {kind!r}, which was not verified; "
            f"{BYTE_PAIRS!r} (byte-level byte-pair encoding) was.",
            HINT,
        )
    size = lm.family.geometry(lm.settings)["vocabulary"]
    # The library may add tokens without embeddings.
    vocabulary = {token: index for token, index in lm.tokenizer.get_vocab().items() if index < size}
    shared = {token: index for index, token in enumerate(tokens) if token in vocabulary}
    if vocabulary != shared or len(tokens) != size:
        raise CheckpointError(
            f"{path.name} has another vocabulary ({len(tokens):,} tokens) than {base_name(lm.source)} ({size:,}).",
            "Use a GGUF file of the same base model.",
        )
    for key, field in reader.fields.items():
        if key.startswith(COPIED):
            yield key, (field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)


def _converted(lm: LM) -> Iterator[tuple[str, Entry]]:
    """The model's own tokenizer in llama.cpp's form."""
    from gguf import GGUFValueType as Kind

    described = _description(lm)
    model, added = described["model"], described.get("added_tokens") or []
    size = lm.family.geometry(lm.settings)["vocabulary"]
    tokens = [f"[PAD{index}]" for index in range(size)]  # embeddings without a token
    kinds = [UNUSED] * size
    for token, index in model["vocab"].items():
        if index < size:
            tokens[index], kinds[index] = token, NORMAL
    for each in added:
        if each["id"] < size:
            tokens[each["id"]], kinds[each["id"]] = each["content"], CONTROL if each["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    yield "tokenizer.ggml.model", (BYTE_PAIRS, Kind.STRING)
    yield "tokenizer.ggml.pre", (SPLITS[_steps(described)], Kind.STRING)
    yield "tokenizer.ggml.tokens", (tokens, Kind.ARRAY, Kind.STRING)
    yield "tokenizer.ggml.token_type", (kinds, Kind.ARRAY, Kind.INT32)
    yield "tokenizer.ggml.merges", (merges, Kind.ARRAY, Kind.STRING)
    tokenizer: Any = lm.tokenizer
    for name, index in (("bos", tokenizer.bos_token_id), ("eos", tokenizer.eos_token_id)):
        if index is not None:
            yield f"tokenizer.ggml.{name}_token_id", (index, Kind.UINT32)
    if tokenizer.pad_token_id is not None:
        yield "tokenizer.ggml.padding_token_id", (tokenizer.pad_token_id, Kind.UINT32)
    ids = tokenizer("a").input_ids
    for name, place, index in (("bos", 0, tokenizer.bos_token_id), ("eos", -1, tokenizer.eos_token_id)):
        yield f"tokenizer.ggml.add_{name}_token", (bool(ids) and index is not None and ids[place] == index, Kind.BOOL)
    if isinstance(tokenizer.chat_template, str):
        yield "tokenizer.chat_template", (tokenizer.chat_template, Kind.STRING)
    licence = licence_of(lm.source)
    if licence:
        yield "general.license", (licence, Kind.STRING)


def _description(lm: LM) -> dict[str, Any]:
    """The tokenizer as its library describes it, if it is of a kind that was verified.

    Raises:
        CheckpointError: it is not.
    """
    name, tokenizer = base_name(lm.source), getattr(lm.tokenizer, "backend_tokenizer", None)
    described: dict[str, Any] = {} if tokenizer is None else parse_json(tokenizer.to_str())
    model = described.get("model") or {}
    if model.get("type") != "BPE" or _steps(described) not in SPLITS:
        raise CheckpointError(
            f"The tokenizer of {name} cannot be converted to llama.cpp's form: byte-level byte-pair encoding that "
            f"splits text as {', '.join(dict.fromkeys(SPLITS.values()))} do was verified.",
            f"{HINT} In Python, the tokenizer of a GGUF file of the same base model can be copied: "
            "nv.export_gguf(..., tokenizer_from=path).",
        )
    if not model["merges"]:
        raise CheckpointError(
            f"The tokenizer of {name} reads single bytes, without merged pairs; llama.cpp has no such vocabulary.", HINT
        )
    return described


def _steps(described: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The steps before byte pairs are merged, each with its setting; unknown ones as they are."""
    before = described.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", []) if before.get("type") == "Sequence" else [before]
    found: list[tuple[str, Any]] = []
    for step in steps:
        kind = str(step.get("type"))
        plain = {
            "ByteLevel": not step.get("add_prefix_space"),
            "Digits": True,
            "Split": step.get("behavior") == "Isolated" and not step.get("invert"),
        }.get(kind, False)
        setting = {
            "ByteLevel": step.get("use_regex", True),
            "Digits": step.get("individual_digits"),
            "Split": (step.get("pattern") or {}).get("Regex"),
        }.get(kind)
        found.append((kind, setting if plain else ...))
    return tuple(found)


def open_gguf(path: Path) -> Any:
    """A reader of a GGUF file.

    Raises:
        CheckpointError: it is missing, truncated or not GGUF.
    """
    from gguf import GGUFReader

    try:
        read_header(path)  # the library's reader follows counts beyond the end of the file
        return GGUFReader(str(path))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable GGUF file: {error}.", "Write or download it again."
        ) from error


def value_of(reader: Any, key: str) -> Any:
    """The value of a header's key, or None."""
    field = reader.get_field(key)
    return None if field is None else field.contents()
