"""The import graph of the package, read from its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    found = {}
    for file in (ROOT / "nirvana").rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports, within functions too; imports for types alone do not count."""
    files = modules()
    return {
        name: {target for target in _imported(ast.parse(file.read_text(encoding="utf-8")), files) if target != name}
        for name, file in files.items()
        if name != "nirvana"  # which loads each public name from its module on first use
    }


def typed_names() -> dict[str, str]:
    """Name -> module, of what `nirvana` imports for type checkers alone, under an alias that exports it."""
    tree = ast.parse(modules()["nirvana"].read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and _for_types(node)]
    found = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname: str(node.module) for node in found for alias in node.names if alias.asname}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected modules (Tarjan). An import of a module imports the packages that it lies in as well."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(_with_packages(graph.get(name, set()) | {name}) - {name}):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(members) > 1:
                found.append(sorted(members))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def _with_packages(names: set[str]) -> set[str]:
    return {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}


def _imported(tree: ast.AST, files: dict[str, Path]) -> Iterator[str]:
    for node in _nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "nirvana":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in files else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and _for_types(node):
            continue
        yield node
        yield from _nodes(node)


def _for_types(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
