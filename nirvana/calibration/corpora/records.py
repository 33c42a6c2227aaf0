"""Records of JSON files as documents: a text, or an instruction and its answer in the Alpaca template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from nirvana.errors import CorpusError
from nirvana.files import parse_json

TEXT_FORM = '{"text": "..."}'
INSTRUCTION_FORM = '{"instruction": "...", "input": "...", "output": "..."}'


class Document(NamedTuple):
    """A text, of which the first `prompt` characters are a prompt; 0 for plain text."""

    text: str
    prompt: int = 0


def alpaca_prompt(instruction: str, context: str = "") -> str:
    """The prompt that the answer follows: the template of Alpaca, which LLM-Pruner and NIRVANA train on."""
    paired = ", paired with an input that provides further context" if context else ""
    given = f"### Input:\n{context}\n\n" if context else ""
    return (
        f"Below is an instruction that describes a task{paired}. "
        "Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{instruction}\n\n{given}### Response:\n"
    )


def read_records(text: str, name: str, *, lines: bool) -> list[Document]:
    """Documents of a file with one record a line or, without `lines`, also of a list of records.

    The first record decides whether all are texts (a `text` field) or instructions (the fields of Alpaca:
    `instruction`, `output` and, where there is one, `input`).

    Raises:
        CorpusError: the file is not JSON, or a record lacks a field; the line or the number of the record is named.
    """
    listed = not lines and text.lstrip().startswith("[")
    documents = list[Document]()
    read = _text
    for place, record in _items(text, name) if listed else _lines(text, name):
        if not documents and isinstance(record, dict) and "instruction" in record:
            read = _instruction
        documents.append(read(record, f"{place} of {name}"))
    return documents


def _lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would cut inside strings, at U+2028
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise CorpusError(
                f"Line {number} of {name} is not JSON: {error}.",
                f"Each line should be a record such as {TEXT_FORM} or {INSTRUCTION_FORM}.",
            ) from error
        yield f"Line {number}", record


def _items(text: str, name: str) -> Iterator[tuple[str, Any]]:
    try:
        records = parse_json(text)
    except ValueError as error:
        raise CorpusError(f"{name} is not JSON: {error}.", "It should be a list of records.") from error
    for number, record in enumerate(records, start=1):
        yield f"Record {number}", record


def _text(record: Any, subject: str) -> Document:
    return Document(_field(record, "text", subject, TEXT_FORM))


def _instruction(record: Any, subject: str) -> Document:
    instruction, answer = (_field(record, name, subject, INSTRUCTION_FORM) for name in ("instruction", "output"))
    context = "" if record.get("input") is None else _field(record, "input", subject, INSTRUCTION_FORM)
    prompt = alpaca_prompt(instruction, context)
    return Document(prompt + answer, len(prompt))


def _field(record: Any, name: str, subject: str, form: str) -> str:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, str):
        raise CorpusError(f"{subject} has no {name} field.", f"Each record should have the form {form}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{subject} has half of a surrogate pair, which is no character.", "Correct the record."
        ) from error
    return value
