"""Data sets of the Hugging Face hub, with their own splits: calibrate on train, evaluate on test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nirvana.calibration.corpora.corpus import (
    SEPARATOR,
    SHARES,
    Corpus,
    CorpusInfo,
    assign,
    gather,
    sections,
    unique,
)
from nirvana.calibration.corpora.stored import Splits, stored
from nirvana.errors import CorpusError

HUB_ID = re.compile(r"^([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([\w.-]+))?$")  # owner/name[:config]
LIMIT = 4_000_000  # characters read of each split: a million tokens, far more than any measurement here uses
DOCUMENT = 2_000  # characters: rows that are shorter are joined, e.g. sentences
LONG = 16_000  # characters: rows that are longer are cut, e.g. whole books

_TRAIN = ("train", "training")
_TEST = ("test", "validation", "valid", "dev", "eval")
_COLUMNS = ("text", "sentence", "content", "document", "article")
_ARTICLE = re.compile(r"^ ?= [^=].*[^=] = *$")  # " = Title = " in WikiText; sections have more signs


@dataclass(frozen=True)
class DataSet:
    """How one data set is read.

    `streamed`: only the rows that are used are fetched. `articles`: rows are lines, and a line such as ` = Title = `
    begins a new document. `separator` joins the rows of one document.
    """

    path: str
    config: str | None = None
    column: str | None = None
    files: Mapping[str, str] | None = None
    revision: str | None = None
    streamed: bool = True
    articles: bool = False
    separator: str = SEPARATOR


ALIASES: dict[str, tuple[CorpusInfo, DataSet]] = {
    info.name: (info, data_set)
    for info, data_set in (
        (
            CorpusInfo(
                "wikitext-2",
                "WikiText-2 (raw)",
                "Wikipedia articles: the field's usual perplexity text. Evaluates on the standard test split.",
                offline=False,
            ),
            DataSet("Salesforce/wikitext", "wikitext-2-raw-v1", "text", streamed=False, articles=True),
        ),
        (
            CorpusInfo(
                "ptb",
                "Penn Treebank",
                "Wall Street Journal sentences, lower case, rare words replaced by <unk>. Evaluates on the test split.",
                offline=False,
            ),
            # The repository itself is a script, which `datasets` no longer runs; the hub keeps it converted as well.
            DataSet(
                "ptb-text-only/ptb_text_only",
                column="sentence",
                files={name: f"penn_treebank/{name}/*.parquet" for name in ("train", "test")},
                revision="refs/convert/parquet",
                streamed=False,
            ),
        ),
        (
            CorpusInfo(
                "lambada",
                "LAMBADA",
                "Passages of novels whose last word needs the whole passage. Evaluates on the test split.",
                offline=False,
            ),
            DataSet("cimec/lambada", column="text"),
        ),
        (
            CorpusInfo(
                "c4",
                "C4 (English)",
                "Cleaned web pages. Evaluates on the first pages of the validation split.",
                offline=False,
            ),
            DataSet("allenai/c4", "en", "text"),
        ),
        (
            CorpusInfo(
                "bookcorpus",
                "BookCorpus",
                "Sentences of free novels, the paper's calibration text. One split, divided into three.",
                offline=False,
            ),
            DataSet("rojagtap/bookcorpus", column="text", separator=" "),
        ),
    )
}


def load_alias(name: str) -> Corpus:
    info, data_set = ALIASES[name]
    return _load(name, info.description, data_set)


def load_hub(name: str) -> Corpus:
    """Any data set with a column of text, as `owner/name` or `owner/name:config`.

    Raises:
        CorpusError: the name has another form, the data set cannot be read, or it has no text.
    """
    match = HUB_ID.match(name)
    if match is None:
        raise CorpusError(f"{name!r} is not a data set of the hub.", "Write owner/name or owner/name:config.")
    return _load(name, f"The data set {name} of the Hugging Face hub.", DataSet(match[1], match[2]))


def _load(name: str, description: str, data_set: DataSet) -> Corpus:
    splits = stored({"data set": asdict(data_set), "limit": LIMIT}, lambda: _build(name, data_set))
    return Corpus(name, description, "data set", splits)


def _build(name: str, data_set: DataSet) -> Splits:
    try:
        tables = _tables(data_set)
        train = next((split for split in _TRAIN if split in tables), next(iter(tables)))
        test = next((split for split in _TEST if split in tables and split != train), None)
        documents = _documents(_rows(tables[train], name, data_set), data_set)
        held_out = _documents(_rows(tables[test], name, data_set), data_set) if test else []
    except (CorpusError, MemoryError):
        raise
    except Exception as error:  # the libraries below raise many kinds for the same few causes
        raise _explained(name, error) from error
    if not test:
        return dict(Corpus.from_documents(documents, name=name, kind="data set").splits)
    evaluation = unique(held_out)
    shares = {split: SHARES[split] for split in ("calibration", "probe")}
    return {**assign(unique(documents, without=evaluation), shares), "evaluation": tuple(evaluation)}


def _tables(data_set: DataSet) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    from datasets import load_dataset

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    options: dict[str, Any] = {"data_files": dict(data_set.files)} if data_set.files else {}
    if data_set.revision:
        options["revision"] = data_set.revision
    tables: Mapping[str, Iterable[Mapping[str, Any]]] = load_dataset(
        data_set.path,
        data_set.config,
        streaming=data_set.streamed and not offline,  # a data set in the local cache can be read, but not streamed
        **options,
    )
    return tables


def _rows(table: Iterable[Mapping[str, Any]], name: str, data_set: DataSet) -> Iterator[str]:
    """The text of the rows, until `LIMIT` characters."""
    column, length = data_set.column, 0
    for row in table:
        column = column or _text_column(row, name)
        text = row[column]
        if isinstance(text, str):
            yield text
            length += len(text)
        if length >= LIMIT:
            return


def _text_column(row: Mapping[str, Any], name: str) -> str:
    named = [column for column in _COLUMNS if isinstance(row.get(column), str)]
    texts = [column for column, value in row.items() if isinstance(value, str)]
    if not texts:
        raise CorpusError(
            f"The data set {name} has no column of text; its columns are {', '.join(row)}.",
            "Save its text as a .jsonl file with a text field and load that file.",
        )
    return named[0] if named else max(texts, key=lambda column: len(row[column]))


def _documents(rows: Iterable[str], data_set: DataSet) -> list[str]:
    if data_set.articles:
        return _articles(rows)
    parts = (
        part for row in rows if row.strip() for part in (sections(row, size=LONG // 2) if len(row) > LONG else [row])
    )
    return gather(parts, size=DOCUMENT, separator=data_set.separator)


def _articles(rows: Iterable[str]) -> list[str]:
    """Documents of articles; joined with blank lines they give all rows joined with blank lines, the usual protocol."""
    articles: list[list[str]] = [[]]
    for row in rows:
        if _ARTICLE.match(row.rstrip("\n")) and any(line.strip() for line in articles[-1]):
            articles.append([])
        articles[-1].append(row)
    return [SEPARATOR.join(article) for article in articles]


def _explained(name: str, error: Exception) -> CorpusError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "scripts are no longer supported" in reason:
        return CorpusError(
            f"The data set {name} is a program, which is never run.", "Choose a copy of it that holds plain data files."
        )
    if "onfig" in reason and isinstance(error, ValueError):
        return CorpusError(f"The data set {name} cannot be opened: {reason}", "Write owner/name:config.")
    return CorpusError(
        f"The data set {name} cannot be read: {reason}",
        "Check the name and the network, or use a built-in corpus (python-docs, library-docs, stdlib-code) or a file.",
    )
