"""`nirvana generate`."""

from __future__ import annotations

import argparse
import json
from typing import ClassVar

from nirvana.commands.command import Command, load, output_file
from nirvana.commands.console import Bar, print_json
from nirvana.errors import CorpusError, NirvanaError
from nirvana.files import write_bytes
from nirvana.options import add_fields, given
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import LAST_SEED, Recipe
from nirvana.schema import Schema, option


class Sampling(Schema):
    """Arguments of `nirvana.generate_corpus`."""

    error: ClassVar[type[NirvanaError]] = CorpusError

    tokens: int = option(24_576, "--tokens", "tokens to write, about", ge=384, le=1 << 30)
    seed: int = option(0, "--seed", "seed of the sampling", ge=0, le=LAST_SEED)
    temperature: float = option(1.0, "--temperature", "sampling temperature", gt=0, le=100)


class GenerateCommand(Command):
    """A corpus in the model's own words, as .jsonl."""

    name = "generate"
    help = "Let a model write a corpus (.jsonl)."
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model")
        add_fields(parser, Sampling)
        parser.add_argument("--output", metavar="FILE", default="generated.jsonl")

    def run(self, arguments: argparse.Namespace) -> None:
        recipe, sampling = apply_options(Recipe(), arguments), Sampling(**given(Sampling, arguments))
        output = output_file(arguments.output)
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.calibration.generation import generate_corpus

            bar.step("text")
            corpus = generate_corpus(lm, **vars(sampling), progress=bar.progress)
        texts = [text for documents in corpus.splits.values() for text in documents]
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        write_bytes(output, lines.encode())
        if arguments.json:
            print_json({"output": arguments.output, "hash": corpus.hash, "documents": len(texts)})
        else:
            print(f"Wrote {arguments.output}: {len(texts):,} documents, {corpus.hash[:16]}.")
