"""The documentation: commands parse, snippets compile, links exist, and the reference follows the schema."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import nirvana as nv
from nirvana.cli import build_parser
from nirvana.reporting.reference import recipe_reference

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:)([^)#]+)")


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        found += [
            (page.name, code) for kind, code in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language
        ]
    return found


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for _, code in blocks("sh") for line in code.splitlines()]
    return [line for line in lines if line.startswith("nirvana ")]


def test_there_are_commands_and_snippets_to_check() -> None:
    assert len(commands()) > 15 and len(blocks("python")) > 4


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    if words[-1:] == ["--help"]:
        with pytest.raises(SystemExit, match=r"^0$"):
            build_parser().parse_args(words)
        return
    assert build_parser().parse_args(words)


def test_python_snippets_compile_and_use_public_names() -> None:
    for page, code in blocks("python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nv":
                assert node.attr in nv.__all__, f"{page}: nv.{node.attr}"


def test_names_in_the_text_are_public() -> None:
    for page in PAGES:
        for name in re.findall(r"`nv\.(\w+)", page.read_text(encoding="utf-8")):
            assert name in nv.__all__, f"{page.name}: nv.{name}"


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_recipe_reference_is_that_of_the_schema() -> None:
    assert (ROOT / "docs/recipes.md").read_text(encoding="utf-8") == recipe_reference(), (
        "run python -m nirvana.reporting.reference > docs/recipes.md"
    )
