"""Files of a recovery: a saved state that a killed process continues from, and exports with the trained weights."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

import nirvana as nv
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.models.gguf_names import gguf_name
from nirvana.models.loading import load_model
from tests.families.gguf_writing import write_gguf
from tests.families.test_sources import tiny
from tests.recoveries import SHORT, pruned, same_weights

KILLED = """
import os, signal, sys
import nirvana as nv
from tests.recoveries import SHORT, pruned

dense, text = nv.load_model("tiny-llama", device="cpu", dtype="float32"), nv.load_corpus(sys.argv[1])

def kill(history):
    if len(history.steps) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

nv.recover(pruned(dense), text, teacher=dense, held_out={"own": text}, state=sys.argv[2], on_step=kill, **SHORT)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_recovery_continues_bit_for_bit(sample_text: Path, tmp_path: Path) -> None:
    root, state = Path(__file__).parents[2], tmp_path / "state"
    command = [sys.executable, "-c", KILLED, str(sample_text), str(state)]
    assert subprocess.run(command, cwd=root, check=False).returncode == -signal.SIGKILL
    dense, text = load_model("tiny-llama", device="cpu", dtype="float32"), load_corpus(sample_text)
    small, how, steps = pruned(dense), {"teacher": dense, "held_out": {"own": text}, **SHORT}, list[int]()
    rest = nv.recover(small, text, state=state, on_step=lambda history: steps.append(len(history.steps)), **how)
    whole = nv.recover(small, text, **how)
    assert rest.history is not None and whole.history is not None
    assert 1 < steps[0] <= 5, "it continues from the last measurement"
    assert [step.loss for step in rest.history.steps] == [step.loss for step in whole.history.steps]
    assert same_weights(rest, whole)


def test_a_gguf_file_has_the_trained_weights(sample_text: Path, tmp_path: Path) -> None:
    dense = load_model(write_gguf(tmp_path / "dense.gguf", "llama", tiny("Llama")), device="cpu")
    small, text = pruned(dense), load_corpus(sample_text)
    healed = nv.recover(small, text, teacher=dense, held_out={"own": text}, **SHORT | {"tokens": 300})
    reader = GGUFReader(str(nv.export_gguf(healed, tmp_path / "healed.gguf", dtype="float32")))
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    before, after = (lm.weights().state_dict() for lm in (small, healed))
    names = [name for name in after if "mlp" in name]
    assert names
    for name in names:
        assert np.array_equal(found[gguf_name(name)], after[name].numpy())
        assert not np.array_equal(found[gguf_name(name)], before[name].numpy())
    nv.verify_export(healed, tmp_path / "healed.gguf")
