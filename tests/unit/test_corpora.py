"""Corpora: splits never share text, hashes follow the content alone, prose is prose, and bad input is explained."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nirvana.calibration.corpora import hub, registry
from nirvana.calibration.corpora.corpus import SPLITS, Corpus, normal, sections
from nirvana.calibration.corpora.docstrings import plain
from nirvana.calibration.corpora.files import SMALLEST, save_upload, uploads
from nirvana.calibration.corpora.prose import paragraphs
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.calibration.corpora.stored import Splits, stored
from nirvana.errors import CorpusError

BUILT_IN = ["python-docs", "library-docs", "stdlib-code"]


def texts(count: int, *, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"word{draw.randrange(10_000)}" for _ in range(draw.randint(20, 60))) for _ in range(count)]


def sets_of_documents(corpus: Corpus) -> list[set[str]]:
    return [{normal(document) for document in corpus.split(name).documents} for name in SPLITS]


@cache
def built_in(name: str) -> Corpus:
    return load_corpus(name)


def assert_disjoint(corpus: Corpus) -> None:
    calibration, probe, evaluation = sets_of_documents(corpus)
    assert calibration and probe and evaluation
    assert not calibration & probe and not calibration & evaluation and not probe & evaluation


# --- splits


def test_splits_of_documents_with_duplicates_share_nothing() -> None:
    documents = texts(40)
    repeated = documents + [text.upper() for text in documents] + [f"  {text}\n\n" for text in documents[::-1]]
    corpus = Corpus.from_documents(repeated, name="x", kind="file")
    assert_disjoint(corpus)
    assert sum(len(corpus.split(name).documents) for name in SPLITS) == 40


@pytest.mark.parametrize("count", [3, 4, 7, 50])
def test_no_split_is_empty_and_shares_are_kept(count: int) -> None:
    corpus = Corpus.from_documents(texts(count), name="x", kind="file")
    assert_disjoint(corpus)
    if count == 50:
        total = sum(corpus.split(name).characters for name in SPLITS)
        shares = [corpus.split(name).characters / total for name in SPLITS]
        assert shares == pytest.approx([0.45, 0.2, 0.35], abs=0.05)


def test_splits_keep_the_order_of_the_text() -> None:
    documents = texts(30)
    corpus = Corpus.from_documents(documents, name="x", kind="file")
    for name in SPLITS:
        places = [documents.index(text) for text in corpus.split(name).documents]
        assert places == sorted(places)


def test_hashes_depend_on_the_content_alone() -> None:
    documents = texts(12)
    one, other = (Corpus.from_documents(documents, name=name, kind=name) for name in ("a", "b"))
    assert one.hash == other.hash and len(one.hash) == 64
    changed = Corpus.from_documents([documents[0] + "!", *documents[1:]], name="a", kind="a")
    assert changed.hash != one.hash
    assert one.split("probe").source_hash == one.hash
    assert one.split("probe").hash != one.split("evaluation").hash


@pytest.mark.parametrize("documents", [[], ["", " \n"], ["one text"], ["one text", "One  Text", "other"]])
def test_too_few_documents_are_refused(documents: list[str]) -> None:
    with pytest.raises(CorpusError, match="Give more text"):
        Corpus.from_documents(documents, name="x", kind="file")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(CorpusError, match="calibration, probe, evaluation"):
        Corpus.from_documents(texts(5), name="x", kind="file").split("train")


@pytest.mark.parametrize("separator", ["\n\n", "\n", ". ", " "])
def test_sections_are_consecutive_pieces_of_the_text(separator: str) -> None:
    words = [f"sentence number {index}" for index in range(300)]
    text = separator.join(words)
    pieces = sections(text, size=200)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(200 <= len(piece) <= 400 for piece in pieces[:-1])
    assert len(pieces) > 10


# --- built-in corpora


@pytest.mark.usefixtures("library_texts")
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_corpora_load_offline_with_disjoint_splits(name: str) -> None:
    corpus = built_in(name)
    assert_disjoint(corpus)
    assert corpus.name == name and corpus.kind == "built-in" and corpus.description
    assert corpus.split("calibration").characters > 60_000
    assert corpus.split("probe").characters > 30_000


@pytest.mark.usefixtures("library_texts")
@pytest.mark.parametrize("name", ["python-docs", "library-docs"])
def test_no_paragraph_of_a_reference_is_in_two_splits(name: str) -> None:
    corpus = built_in(name)
    found = [{normal(p) for text in corpus.split(split).documents for p in text.split("\n\n")} for split in SPLITS]
    assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]


@pytest.mark.usefixtures("library_texts")
@pytest.mark.parametrize("name", ["python-docs", "library-docs"])
def test_prose_corpora_are_prose(name: str) -> None:
    for split in SPLITS:
        for paragraph in built_in(name).split(split).text.split("\n\n"):
            assert len(paragraph.split()) >= 8
            assert paragraph.rstrip("\"”’')]")[-1] in ".!?:"
            assert not any(mark in paragraph for mark in (">>>", "::=", "----", "====", ":class:", ":func:", "\n"))


def test_what_took_long_is_kept_until_its_key_changes_or_it_is_damaged(own_home: Path) -> None:
    built: list[int] = []

    def build() -> Splits:
        built.append(1)
        return {name: (f"{name} {len(built)}",) for name in SPLITS}

    first = stored({"version": 1}, build)
    assert stored({"version": 1}, build) == first and len(built) == 1
    assert stored({"version": 2}, build) != first and len(built) == 2
    for path in (own_home / "cache" / "corpora").iterdir():
        path.write_text("{", encoding="utf-8")
    assert stored({"version": 1}, build)["probe"] == ("probe 3",)


def test_names_are_listed_without_torch_or_datasets() -> None:
    program = (
        "import sys; from nirvana.calibration.corpora.registry import AVAILABLE, load_corpus;"
        "load_corpus('python-docs');"
        "print(sorted({'torch', 'datasets', 'transformers'} & set(sys.modules)), *AVAILABLE)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert answer.startswith("[] ") and all(name in answer for name in [*BUILT_IN, "self-generated", "wikitext-2"])
    assert sum(info.offline for info in registry.AVAILABLE.values()) >= 4


# --- prose


def test_paragraphs_are_unwrapped_and_code_headings_and_grammar_left_out() -> None:
    text = """The "try" statement
*******************

The *try* statement specifies handlers for a group of non-
local statements, and that is all there is to it. [1]

   try_stmt ::= "try" ":" suite

For example, this is how a statement of that kind is written:

   >>> try:
   ...     f()

* The first item of a list that goes
  over two lines and is a sentence.

object.__new__(cls)

   Called to create a new instance of the class that it is given.

Changed in version 3.8: It now does something else than it did before.
"""
    assert list(paragraphs(text)) == [
        "The try statement specifies handlers for a group of non-local statements, and that is all there is to it.",
        "The first item of a list that goes over two lines and is a sentence.",
        "Called to create a new instance of the class that it is given.",
    ]


def test_docstrings_keep_their_text_only() -> None:
    docstring = """Compute the thing, see :func:`~torch.abs` and ``x`` in `the guide <http://x>`_.

Parameters
----------
x : array_like
    The input that is going to be transformed.

Notes
-----
It is computed in place.

.. versionadded:: 1.0
   Something about the version.

.. note:: Never negative.

Like this::

    y = f(x)

Args:
    x: the input

    more of it
Back to text.

Examples
--------
>>> f(1)
2
"""
    text = plain(docstring)
    for kept in ("see torch.abs and x in the guide.", "computed in place", "Never negative.", "Back to text."):
        assert kept in text
    for gone in ("array_like", "version", "y = f(x)", ">>>", "the input", "----", "`", "http"):
        assert gone not in text


# --- files


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_novel_is_cut_into_sections(tmp_path: Path) -> None:
    chapters = "\n\n".join(texts(400))
    corpus = load_corpus(write(tmp_path / "novel.txt", "\ufeff" + chapters.replace("\n", "\r\n")))
    assert_disjoint(corpus)
    joined = "".join("".join(corpus.split(name).text for name in SPLITS).split())
    assert sorted(joined) == sorted("".join(chapters.split()))
    assert corpus.kind == "file" and corpus.name == "novel.txt"


def test_records_are_documents(tmp_path: Path) -> None:
    documents = texts(9)
    lines = "\n\n".join(json.dumps({"text": text, "id": 1}) for text in documents)
    corpus = load_corpus(str(write(tmp_path / "data.jsonl", lines)))
    assert {text for name in SPLITS for text in corpus.split(name).documents} == set(documents)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": ', "Line 2 of bad.jsonl is not JSON"),
        ('{"text": "a"}\n{"body": "b"}', "Line 2 of bad.jsonl has no text field"),
        ('{"text": "a"}\n{"text": "\\ud800"}', "Line 2 of bad.jsonl has half of a surrogate pair"),
        ('{"text": 3}', "Line 1"),
        ("[1]", "Line 1"),
        ("", "no text"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_bad_records_name_the_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(write(tmp_path / "bad.jsonl", content))
    assert caught.value.hint


@pytest.mark.parametrize(("content", "message"), [(b"", "no text"), (b" \n\n ", "no text"), (b"caf\xe9 ", "not UTF-8")])
def test_bad_text_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        load_corpus(write(tmp_path / "bad.txt", content))


def test_one_word_is_too_short(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="Give more text"):
        load_corpus(write(tmp_path / "short.txt", "word"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "cannot be read"),
        ("", "no corpus"),
        ("nonsense", "python-docs"),
        ("a/b/c", "no corpus"),
        ("../x", "no corpus"),
        ("~nobody-of-that-name/x.txt", "cannot be opened"),
        ("x" * 300 + ".txt", "cannot be opened"),
        ("x\0.txt", "cannot be opened"),
        ("self-generated", "generate_corpus"),
        ("upload:../../etc/passwd", "no uploaded text"),
        ("upload:", "no uploaded text"),
    ],
)
def test_unknown_names_say_what_there_is(name: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        load_corpus(name)


def test_records_may_hold_any_line_separator_but_a_newline(tmp_path: Path) -> None:
    records = [f"one{mark}two {number}" for number, mark in enumerate("\u2028\u2029\x85\r")]
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in records)
    corpus = load_corpus(write(tmp_path / "data.jsonl", content))
    assert {text for name in SPLITS for text in corpus.split(name).documents} == set(records)


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"not a \.txt, \.jsonl or \.json file"):
        load_corpus(write(tmp_path / "paper.pdf", "x"))
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(CorpusError, match="cannot be read"):
        load_corpus(tmp_path / "folder.txt")


# --- uploads


@pytest.mark.parametrize(
    "name", ["../../evil.txt", "/etc/passwd", "a\\b\\..\\c.txt", "..", "", "x\0y.txt", "ü ñ.txt", "con/../../.ssh/key"]
)
def test_an_upload_stays_in_its_folder(name: str, own_home: Path) -> None:
    kept = save_upload(name, "\n\n".join(texts(40)))
    files = [path for path in own_home.rglob("*") if path.is_file()]
    assert [path.parent for path in files] == [own_home / "uploads"]
    assert kept == f"upload:{files[0].name}" and ".." not in kept and not files[0].name.startswith(".")
    assert_disjoint(load_corpus(kept))
    assert load_corpus(kept).name == kept and uploads() == [kept]


def test_an_upload_never_overwrites_another() -> None:
    first, second = ("\n\n".join(texts(40, seed=seed)) for seed in (1, 2))
    names = [save_upload("notes.txt", first), save_upload("notes.txt", second), save_upload("notes.txt", first)]
    assert names[0] == names[2] == "upload:notes.txt" and names[1] != names[0]
    assert load_corpus(names[0]).hash != load_corpus(names[1]).hash


def test_an_upload_of_a_few_words_is_refused_with_what_is_needed() -> None:
    with pytest.raises(CorpusError, match=r"5 bytes: too few .* 5,000 or more"):
        save_upload("note.txt", "hello")
    assert save_upload("note.txt", "\n\n".join(texts(40))[: SMALLEST + 200]) == "upload:note.txt"


def test_an_upload_that_is_no_corpus_is_not_kept(own_home: Path) -> None:
    for name, content in (
        ("a.txt", ""),
        ("b.jsonl", '{"text"'),
        ("c.txt", b"\xff\xfe"),
        ("d.txt", "hello"),
        ("e.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": "c"}'),
        ("f.txt", "\ud800 " * SMALLEST),
    ):
        with pytest.raises(CorpusError):
            save_upload(name, content)
    assert not (own_home / "uploads").exists()


# --- data sets, read from local folders through `datasets`


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hub: `owner/name` is a folder of data files in it."""
    datasets = pytest.importorskip("datasets")
    original = datasets.load_dataset
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")

    def load(path: str, name: str | None = None, **options: object) -> object:
        options.pop("revision", None)
        return original(str(tmp_path / path), **options)

    monkeypatch.setattr(datasets, "load_dataset", load)
    return tmp_path


def table(path: Path, rows: list[str], column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps({"id": str(i), column: row}) for i, row in enumerate(rows)), encoding="utf-8")


def test_a_data_set_keeps_its_test_split(local_hub: Path) -> None:
    train, test = texts(60, seed=1), texts(30, seed=2)
    table(local_hub / "owner/name/train.jsonl", [*train, *test[:5]], column="content")
    table(local_hub / "owner/name/test.jsonl", test, column="content")
    corpus = load_corpus("owner/name")
    assert corpus.split("evaluation").text == "\n\n".join(test)
    rest = corpus.split("calibration").text + corpus.split("probe").text
    assert all(text in rest for text in train)
    assert_disjoint(corpus)
    assert corpus.kind == "data set"


def test_a_data_set_with_one_split_is_divided(local_hub: Path) -> None:
    table(local_hub / "owner/name/train.jsonl", texts(200))
    corpus = load_corpus("owner/name:config")
    assert_disjoint(corpus)


def test_a_data_set_is_read_once(local_hub: Path) -> None:
    table(local_hub / "owner/name/train.jsonl", texts(100))
    before = load_corpus("owner/name").hash
    (local_hub / "owner/name/train.jsonl").unlink()
    assert load_corpus("owner/name").hash == before


def test_articles_joined_are_the_rows_joined(local_hub: Path) -> None:
    def rows(seed: int) -> list[str]:
        parts = (
            (f" = Title {i} = \n", "", f" {text} \n", " = = Part = = \n") for i, text in enumerate(texts(8, seed=seed))
        )
        return ["", *(row for article in parts for row in article)]

    table(local_hub / "Salesforce/wikitext/train.jsonl", rows(1))
    table(local_hub / "Salesforce/wikitext/test.jsonl", rows(2))
    split = load_corpus("wikitext-2").split("evaluation")
    assert split.text == "\n\n".join(rows(2))
    assert len(split.documents) == 8


def test_a_long_data_set_is_read_to_a_limit(local_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "LIMIT", 5_000)
    table(local_hub / "allenai/c4/train.jsonl", texts(500, seed=1))
    table(local_hub / "allenai/c4/validation.jsonl", texts(500, seed=2))
    corpus = load_corpus("c4")
    for characters in (
        corpus.split("calibration").characters + corpus.split("probe").characters,
        corpus.split("evaluation").characters,
    ):
        assert 5_000 <= characters < 6_000


def test_a_data_set_without_text_is_refused(local_hub: Path) -> None:
    path = local_hub / "owner/name/train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"label": 1}\n{"label": 2}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match="no column of text; its columns are label"):
        load_corpus("owner/name")


@pytest.mark.parametrize("name", ["owner/unknown-data-set", "wikitext-2"])
def test_the_hub_out_of_reach_is_explained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(CorpusError, match="built-in corpus") as caught:
        load_corpus(name)
    assert name in caught.value.message


def test_ptb_is_read_from_its_converted_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: dict[str, Any] = {}
    rows = {name: [{"sentence": text} for text in texts(300, seed=seed)] for seed, name in enumerate(("train", "test"))}

    def load(path: str, name: str | None = None, **options: Any) -> object:
        asked.update(options, path=path)
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    corpus = load_corpus("ptb")
    assert asked["path"] == "ptb-text-only/ptb_text_only" and asked["revision"] == "refs/convert/parquet"
    assert set(asked["data_files"]) == {"train", "test"}
    assert corpus.split("evaluation").text == "\n\n".join(row["sentence"] for row in rows["test"])


@pytest.mark.skipif("NIRVANA_TEST_DATA" not in os.environ, reason="NIRVANA_TEST_DATA names no folder of real text")
def test_real_texts_split_without_overlap() -> None:
    files = sorted((Path(os.environ["NIRVANA_TEST_DATA"]) / "text").glob("*.txt"))
    assert files
    for path in files:
        corpus = load_corpus(path)
        assert_disjoint(corpus)
        sizes = [corpus.split(name).characters for name in SPLITS]
        assert sum(sizes) > 0.98 * len(path.read_text(encoding="utf-8"))
        assert min(sizes) > 0.15 * sum(sizes)


def test_a_data_set_that_is_a_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found name.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(CorpusError, match="plain data files"):
        load_corpus("owner/name")
