"""Programs that read the exports, as README.md and the Export tab show them. Imports neither streamlit nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nirvana.files import read_json

FILE = Path(__file__).with_name("engines.json")


@dataclass(frozen=True)
class Engine:
    """A program that reads exports.

    Attributes:
        engine: its name.
        formats: export formats that it reads, of those that the entry is about.
        models: "all", or "decoders" where it reads no encoder-decoder.
        command: Python or shell, with fields for path and auto_class; empty where none was run.
        language: of the command, "python" or "bash".
        verified: versions that were run, and what was compared.
        lost: what the model or its file loses there.
    """

    engine: str
    formats: tuple[str, ...]
    models: str
    command: str
    language: str
    verified: str
    lost: str

    def call(self, path: str, auto_class: str = "AutoModelForCausalLM") -> str:
        """The command for a file or folder."""
        return self.command.format(path=path, auto_class=auto_class)


@lru_cache(maxsize=1)
def engines() -> tuple[Engine, ...]:
    """All entries, in the order of the table."""
    return tuple(Engine(**{**row, "formats": tuple(row["formats"])}) for row in read_json(FILE))


def engines_of(format: str, *, encoder_decoder: bool) -> list[Engine]:
    """Programs that read `format` of such a model."""
    return [each for each in engines() if format in each.formats and not (encoder_decoder and each.models != "all")]


def table() -> str:
    """All entries as a Markdown table."""
    rows = []
    for each in engines():
        command = f"`{each.call('out.gguf' if each.formats == ('gguf',) else 'out')}`" if each.command else ""
        rows.append(f"| {each.engine} | {', '.join(each.formats)} | {command} | {each.verified} | {each.lost} |")
    return "\n".join(["| engine | format | command | verified | lost |", "|---|---|---|---|---|", *rows]) + "\n"
