"""A family's tiny model, written, loaded and pruned once for each test class."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nirvana.calibration.sets import CalibrationSet
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.surgery import prune
from tests.families.base import Read, some_plan

# Reads lines of JSON; each names a checkpoint, a calibration set and where its logits should go.
READER = """
import json, sys
import numpy, torch
from nirvana import CalibrationSet, load_model
from tests.oracle import all_logits
for line in sys.stdin:
    folder, tokens, logits = json.loads(line)
    with open(tokens, "rb") as file:
        calibration = CalibrationSet.from_bytes(file.read())
    with torch.inference_mode():
        numpy.save(logits, all_logits(load_model(folder, device="cpu"), calibration).numpy())
    print("done", flush=True)
"""


@pytest.fixture(scope="session")
def read_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """`read_elsewhere(folder, calibration)`: logits from a process that knows nothing but the folder."""
    place = tmp_path_factory.mktemp("elsewhere")
    process = subprocess.Popen([sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def read(folder: Path, calibration: CalibrationSet) -> np.ndarray:
        (place / "tokens").write_bytes(calibration.to_bytes())
        stdin.write(json.dumps([str(folder), str(place / "tokens"), str(place / "logits.npy")]) + "\n")
        stdin.flush()
        assert stdout.readline() == "done\n"
        values: np.ndarray = np.load(place / "logits.npy")
        return values

    yield read
    stdin.close()
    process.wait(timeout=30)


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
