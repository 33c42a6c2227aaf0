"""Recovery of a run's pruned model: its weights, its course while it trains, and its interrupted state."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.errors import NirvanaError, RunError
from nirvana.files import json_hash, read_json, write_bytes
from nirvana.progress import ProgressCallback
from nirvana.recovery.history import STATE_FILE, RecoveryHistory
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run

if TYPE_CHECKING:
    from nirvana.models.lm import LM

LIVE, STATE = "recovering.json", "recovering-"
EVERY = 1.0  # seconds between writes of the course


def check_recovery(recipe: Recipe, lm: LM, texts: Iterable[Corpus]) -> None:
    """Check before the expensive steps that the recovery can be trained on every text that may be chosen.

    Raises:
        RecoveryError: there is no budget.
        CorpusError: a text is too short for a step's windows.
    """
    from nirvana.calibration.sampling import sample_probe
    from nirvana.recovery.checks import WINDOWS
    from nirvana.recovery.trainer import batches_of

    options = recipe.recovery.options
    options.check()
    for text in texts:
        next(batches_of(lm, text, options).of_step(0))
        sample_probe(lm, text, samples=WINDOWS, length=options.length, seed=options.seed)


def train(run: Run | None, recipe: Recipe, small: LM, dense: LM, text: Corpus, progress: ProgressCallback | None) -> LM:
    """The recovered model of a recipe. In a run, an interrupted recovery continues, and pages can follow its course.

    Raises:
        NirvanaError: see `nirvana.recover`.
    """
    from nirvana.recovery.recover import recover

    options = recipe.recovery.options
    if run is None:
        return recover(small, text, teacher=dense, options=options, progress=progress)
    state = _state_folder(run, recipe, small.hash, text.hash)
    for other in run.folder.glob(f"{STATE}*"):
        if other != state:
            shutil.rmtree(other, ignore_errors=True)
    if not state.is_dir():
        (run.folder / LIVE).unlink(missing_ok=True)
    written = 0.0

    def follow(history: RecoveryHistory) -> None:
        nonlocal written
        if time.monotonic() - written > EVERY:
            written = time.monotonic()
            write_bytes(run.folder / LIVE, json.dumps(history.to_json()).encode())

    return recover(small, text, teacher=dense, options=options, state=state, on_step=follow, progress=progress)


def keep_weights(run: Run, healed: LM) -> None:
    """Store the weights in the run's folder, in place of earlier ones.

    Raises:
        RecoveryError: the disk is full or not writable.
    """
    from nirvana.recovery.weights import write_weights

    path = run.folder / weights_file(healed.hash)
    write_weights(healed, path)
    for other in run.folder.glob(weights_file("*")):
        if other != path:
            other.unlink(missing_ok=True)
    (run.folder / LIVE).unlink(missing_ok=True)


def drop_weights(run: Run) -> None:
    """Delete the weights from the run's folder. Its course and measurements stay."""
    for file in run.folder.glob(weights_file("*")):
        file.unlink(missing_ok=True)


def load_recovered(run: Run, small: LM) -> LM:
    """The run's recovered model, from its stored weights.

    Raises:
        RunError: they are missing, or have changed.
        RecoveryError: they are damaged.
    """
    from nirvana.recovery.weights import read_weights

    history, info = run.recovery(), run.info("recover") or {}
    path = run.folder / str(info.get("weights", ""))
    if history is None or not path.is_file():
        raise RunError(
            "The weights of the recovered model are not stored here.",
            "Points of a sweep and the example keep none. Recover it in a run of its own, on the Recover page.",
        )
    healed = read_weights(small, path, history)
    if healed.hash != info.get("weight_hash"):
        raise RunError("The weights of the recovered model have changed.", "Recover it again.")
    return healed


def has_weights(run: Run) -> bool:
    """Whether the run has recovered, and its folder the weights."""
    info = run.info("recover")
    return info is not None and (run.folder / str(info.get("weights", ""))).is_file()


def recovery_terms(run: Run) -> str:
    """Identity of a run's recovery, equal for runs with the same options and text; empty without one."""
    history = run.recovery() if "recover" in run.recipe.steps else None
    return json_hash([history.protocol.get(name) for name in ("options", "text_hash")]) if history else ""


def weights_file(weight_hash: str) -> str:
    """Name of the file with a recovered model's weights in its run's folder."""
    return f"recovered-{weight_hash[:12]}.safetensors"


def course(run: Run) -> RecoveryHistory | None:
    """The course of a recovery that runs or was interrupted, as far as it was written."""
    with contextlib.suppress(OSError, ValueError, NirvanaError):
        return RecoveryHistory.from_json(read_json(run.folder / LIVE))
    return None


def interrupted(run: Run, recipe: Recipe) -> RecoveryHistory | None:
    """The saved course of an interrupted recovery that `recipe` continues."""
    seen = course(run)
    same = run.step_state("prune", recipe) == "done" and recipe.recovery.corpus == run.recipe.recovery.corpus
    if seen is None or not same or run.step_state("recover", recipe) == "done":
        return None
    model, text = (str(seen.protocol.get(name)) for name in ("model", "text_hash"))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, NirvanaError):
        saved = read_json(_state_folder(run, recipe, model, text) / STATE_FILE)
        return RecoveryHistory.from_json(saved["history"])
    return None


def _state_folder(run: Run, recipe: Recipe, model: str, text: str) -> Path:
    """Folder of the interrupted state of a recovery.

    Args:
        model: hash of the pruned model.
        text: hash of the text.
    """
    return run.folder / f"{STATE}{json_hash([recipe.recovery.options.to_json(), model, text])[:12]}"
