"""A family's tiny model, written, loaded and pruned once for each test class."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirvana.calibration.sets import CalibrationSet
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.surgery import prune
from tests.families.base import Read, some_plan
from tests.uneven import with_output_biases

# Reads lines of JSON; each names a checkpoint, the class to read it with, a file with the tokens, and what to write.
# Logits are those of the tokens; `grown` tells whether a backward pass reached every weight.
READER = """
import json, sys
sys.modules["nirvana"] = None  # installed beside transformers or not, it can't be imported here
import numpy, torch, transformers
for line in sys.stdin:
    folder, reader, tokens, output = json.loads(line)
    model = getattr(transformers, reader).from_pretrained(folder, trust_remote_code=True).eval()
    inputs = {name: torch.from_numpy(values) for name, values in numpy.load(tokens).items()}
    with torch.inference_mode():
        logits = model(**inputs).logits
    model(**inputs).logits.sum().backward()
    reached = all(weight.grad is not None for weight in model.parameters())
    prompt = {name: inputs[name][:1, :5] for name in ("input_ids", "attention_mask")}
    settings = {"do_sample": False, "min_new_tokens": 8, "max_new_tokens": 8}
    cached, uncached = (model.generate(**prompt, use_cache=cache, **settings) for cache in (True, False))
    agree = torch.equal(cached, uncached)
    numpy.savez(output, logits=logits.numpy(), reached=reached, agree=agree)
    print("done", flush=True)
"""
HERE = """
import json, sys
import numpy, torch
from nirvana.models.loading import load_model
for line in sys.stdin:
    folder, _, tokens, output = json.loads(line)
    inputs = {name: torch.from_numpy(values) for name, values in numpy.load(tokens).items()}
    with torch.inference_mode():
        numpy.savez(output, logits=load_model(folder, device="cpu").weights()(**inputs).logits.numpy())
    print("done", flush=True)
"""


def _reading(script: str, place: Path, directory: Path) -> Iterator[Read]:
    environment = {**os.environ, "HF_MODULES_CACHE": str(place / "modules"), "PYTHONPATH": ""}
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=directory, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def read(folder: Path, calibration: CalibrationSet, reader: str = "") -> dict[str, np.ndarray]:
            inputs = {
                "input_ids": calibration.input_ids,
                "attention_mask": calibration.attention_mask,
                "decoder_input_ids": calibration.decoder_input_ids,
            }
            arrays: dict[str, Any] = {name: ids.numpy() for name, ids in inputs.items() if ids is not None}
            np.savez(place / "tokens.npz", **arrays)
            paths = [str(folder), reader, str(place / "tokens.npz"), str(place / "output.npz")]
            stdin.write(json.dumps(paths) + "\n")
            stdin.flush()
            assert stdout.readline() == "done\n"
            with np.load(place / "output.npz") as output:
                return dict(output)

        yield read
        stdin.close()


@pytest.fixture(scope="session")
def read_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """`read_elsewhere(folder, calibration)`: logits from a process that knows nothing but the folder."""
    yield from _reading(HERE, tmp_path_factory.mktemp("elsewhere"), Path(__file__).parents[2])


@pytest.fixture(scope="session")
def read_without_us(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """As `read_elsewhere`, in a process that has transformers but not this project."""
    place = tmp_path_factory.mktemp("without")
    yield from _reading(READER, place, place)


@pytest.fixture(scope="class")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense model of the test class, as published. Read only."""
    folder = tmp_path_factory.mktemp("family") / "dense"
    request.cls.write(folder)
    return folder


@pytest.fixture(scope="class")
def lm(folder: Path) -> LM:
    return load_model(folder, device="cpu")


@pytest.fixture(scope="class")
def calibration(request: pytest.FixtureRequest, lm: LM) -> CalibrationSet:
    calibration: CalibrationSet = request.cls.sample(lm)
    return calibration


@pytest.fixture(scope="class")
def pruned(lm: LM) -> LM:
    return prune(lm, some_plan(lm, seed=1))


@pytest.fixture(scope="class")
def biased(lm: LM) -> LM:
    """Pruned, with random biases on output projections."""
    return with_output_biases(prune(lm, some_plan(lm, seed=1)))
