"""The docstrings of installed libraries, read from their source files without importing them."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import re
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from nirvana.calibration.corpora.corpus import SEPARATOR, Corpus, CorpusInfo, gather
from nirvana.calibration.corpora.prose import first_seen, paragraphs
from nirvana.calibration.corpora.stored import Splits, stored
from nirvana.errors import CorpusError

INFO = CorpusInfo(
    name="library-docs",
    title="Docstrings of Python libraries",
    description="Docstrings of NumPy, pandas and PyTorch as prose. Scientific English, installed with the libraries.",
    offline=True,
)
LIBRARIES = ("numpy", "pandas", "torch")
DOCUMENT = 3_000  # characters: the docstrings of a module or so
EXPLANATION = 250  # characters: shorter ones are one-line summaries, which follow each other without connection
CLEANING = 1  # increase it when this module extracts other text from the same libraries

_PUBLIC_WITH_UNDERSCORE = {"_core", "_torch_docs.py", "_tensor_docs.py", "_tensor.py", "_methods.py"}
_SKIPPED = {"tests", "testing", "test", "vendor", "third_party", "static", "proto", "distutils", "conftest.py", "f2py"}
_KEPT_SECTIONS = {"notes", "note", "warnings", "warning", "description"}
_SECTION = re.compile(r"^([A-Z][A-Za-z ]{2,30})(::?)?$")
_UNDERLINE = re.compile(r"^[-=~]{3,}\s*$")
_DIRECTIVE = re.compile(r"^(\s*)\.\. +(?:([\w-]+)::|_|\[)(.*)$")
_ATTACHING = re.compile(r"\badd_\w*doc")  # calls that attach docstrings
_BLOCKS = (ast.stmt, ast.excepthandler, ast.match_case)
_KEPT_DIRECTIVES = {"note", "warning", "tip", "important", "caution", "admonition"}


def load() -> Corpus:
    """Raises: CorpusError: none of the libraries is installed with its source."""
    versions = {name: version for name in LIBRARIES if (version := _version(name))}
    if not versions:
        raise CorpusError(
            f"None of {', '.join(LIBRARIES)} is installed with its source.", "Choose the corpus python-docs instead."
        )

    def build() -> Splits:
        seen: set[str] = set()
        documents: list[str] = []
        for name in versions:
            documents += gather(_explanations(_folder(name), seen), size=DOCUMENT)
        return dict(Corpus.from_documents(documents, name=INFO.name, kind="built-in").splits)

    splits = stored({"corpus": INFO.name, "versions": versions, "cleaning": CLEANING}, build)
    return Corpus(INFO.name, INFO.description, "built-in", splits)


def docstrings(folder: Path) -> Iterator[str]:
    """Docstrings of the public modules, classes and functions below `folder`, in file order, cleaned of indentation.

    Also those that NumPy and PyTorch attach to compiled functions by calls such as `add_docstr(torch.abs, ...)`.
    """
    for path in sorted(folder.rglob("*.py")):
        if all(_is_public(part) for part in path.relative_to(folder).parts):
            try:
                source = path.read_text(encoding="utf-8")
                with warnings.catch_warnings(action="ignore"):  # invalid escapes in other people's strings
                    tree = ast.parse(source)
            except (SyntaxError, ValueError, OSError):  # templates with the suffix .py
                continue
            yield from _in_nodes(ast.walk(tree) if _ATTACHING.search(source) else _statements(tree))


def _explanations(folder: Path, seen: set[str]) -> Iterator[str]:
    for docstring in docstrings(folder):
        text = SEPARATOR.join(first_seen(paragraphs(plain(docstring)), seen))
        if len(text) >= EXPLANATION:
            yield text


def plain(docstring: str) -> str:
    """The prose of a docstring: no parameter tables, examples, references or rst markup."""
    lines = _without_literals(_without_sections(docstring.splitlines()))
    text = "\n".join(lines)
    text = re.sub(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`", r"\1", text)  # :func:`~torch.abs`
    text = re.sub(r"`([^`<]+?)\s*<[^`>]+>`_{1,2}", r"\1", text)  # `link <address>`_
    text = re.sub(r"``([^`]+)``", r"\1", text)
    text = re.sub(r"`([^`]+)`_{0,2}", r"\1", text)
    text = re.sub(r"`|:(?:class|func|meth|attr|mod|ref):|(?<![\w/])~(?=\w+\.)", "", text)  # remains of broken markup
    return re.sub(r"(?<=\w)_(?=[\s.,;)])|\|(?=\w)|(?<=\w)\|", "", text)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements in the order of `ast.walk`, without the expressions, which are nine tenths of all nodes."""
    todo = deque([tree])
    while todo:
        node = todo.popleft()
        yield node
        for _, value in ast.iter_fields(node):
            if isinstance(value, list):
                todo.extend(each for each in value if isinstance(each, _BLOCKS))


def _in_nodes(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and not getattr(node, "name", "").startswith("_"):
                yield text
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name.startswith("add_") and "doc" in name:
                for argument in node.args:
                    for part in ast.walk(argument):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str) and "\n" in part.value:
                            yield inspect.cleandoc(part.value)


def _without_sections(lines: list[str]) -> Iterator[str]:
    """Drop NumPy style (underlined) and Google style (indented) sections that are not prose."""
    kept, indented = True, False
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else ""
        heading = _SECTION.match(line)
        if heading and _UNDERLINE.match(following):
            kept, indented = heading[1].lower() in _KEPT_SECTIONS, False
            continue
        if heading and heading[2] and (not following.strip() or following.startswith(" ")):
            kept, indented = heading[1].lower() in _KEPT_SECTIONS, True
            continue
        if indented and line.strip() and not line.startswith(" "):
            kept, indented = True, False
        if kept and not _UNDERLINE.match(line):
            yield line


def _without_literals(lines: Iterator[str]) -> Iterator[str]:
    """Drop doctests, directives that are not notes, and blocks indented below `::`."""
    limit: int | None = None  # lines indented deeper than this are dropped
    doctest = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            doctest = False
            yield ""
            continue
        if limit is not None and indent > limit:
            continue
        limit = None
        doctest = doctest or line.lstrip().startswith((">>>", "..."))
        directive = _DIRECTIVE.match(line)
        if directive:
            if directive[2] in _KEPT_DIRECTIVES:
                yield ""
                yield directive[1] + directive[3].strip()
            else:
                limit = indent
                yield ""
        elif not doctest:
            if line.rstrip().endswith("::"):
                limit = indent
                yield re.sub(r"(?<=[.!?]):+$|:$", "", line.rstrip())
            else:
                yield line


def _is_public(part: str) -> bool:
    if part in _SKIPPED or part.startswith("test_"):
        return False
    return not part.startswith("_") or part in _PUBLIC_WITH_UNDERSCORE or part.endswith("_newdocs.py")


def _folder(library: str) -> Path:
    spec = importlib.util.find_spec(library)  # found, not imported
    locations = [] if spec is None else list(spec.submodule_search_locations or ())
    return Path(locations[0]) if locations else Path()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library) if _folder(library).is_absolute() else None
    except importlib.metadata.PackageNotFoundError:
        return None
