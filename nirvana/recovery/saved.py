"""The state of an interrupted recovery on disk: weights, moments of AdamW, and the history so far."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nirvana.errors import RecoveryError
from nirvana.files import read_json, write_bytes
from nirvana.recovery.history import STATE_FILE, RecoveryHistory
from nirvana.recovery.trainer import Trainer

TENSORS = "recovery.safetensors"


class SavedState:
    """A folder with the state of one recovery; without a folder nothing is saved."""

    def __init__(self, folder: Path | None, protocol: dict[str, Any]) -> None:
        self._folder, self._protocol = folder, json.loads(json.dumps(protocol))

    def restore(self, trainer: Trainer) -> RecoveryHistory | None:
        """Continue from the folder: `trainer` as it was, and the history; None where nothing is saved.

        Raises:
            RecoveryError: it is the state of another recovery, or damaged.
        """
        if self._folder is None or not (self._folder / STATE_FILE).exists():
            return None
        hint = "Give another folder, or delete this one."
        try:
            data = read_json(self._folder / STATE_FILE)
            history, steps, tokens = RecoveryHistory.from_json(data["history"]), int(data["steps"]), int(data["tokens"])
            tensors = load_file(self._folder / str(data["tensors"]))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise RecoveryError(f"The saved recovery in {self._folder} is damaged: {error}.", hint) from error
        if data["protocol"] != self._protocol:
            raise RecoveryError(f"{self._folder} has the state of another recovery.", hint)
        state = {}
        with torch.no_grad():
            for index, (name, weight) in enumerate(trainer.trained.items()):
                weight.copy_(tensors[f"weight.{name}"])
                trainer.best[name] = tensors[f"best.{name}"].to(weight.device)
                if steps:
                    state[index] = {
                        "step": torch.tensor(float(steps)),
                        "exp_avg": tensors[f"mean.{name}"],
                        "exp_avg_sq": tensors[f"square.{name}"],
                    }
        trainer.optimiser.load_state_dict({**trainer.optimiser.state_dict(), "state": state})
        trainer.steps, trainer.tokens, trainer.bfloat16 = steps, tokens, bool(data["bfloat16"])
        return history

    def write(self, trainer: Trainer, history: RecoveryHistory) -> None:
        """Save the state after the last finished step, in place of the one before.

        Raises:
            RecoveryError: the disk is full or not writable.
        """
        if self._folder is None:
            return
        tensors = dict[str, torch.Tensor]()
        for name, weight in trainer.trained.items():
            moments = trainer.optimiser.state.get(weight, {})
            tensors |= {f"weight.{name}": weight.detach(), f"best.{name}": trainer.best[name]}
            if moments:
                tensors |= {f"mean.{name}": moments["exp_avg"], f"square.{name}": moments["exp_avg_sq"]}
        name = f"{trainer.steps}-{TENSORS}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f".{name}"
            save_file({key: values.contiguous().cpu() for key, values in tensors.items()}, partial)
            partial.replace(self._folder / name)
        except (OSError, SafetensorError) as error:
            raise RecoveryError(f"The recovery cannot be saved: {error}.", "Free some disk space.") from error
        header = {"protocol": self._protocol, "history": history.to_json(), "tensors": name}
        header |= {"steps": trainer.steps, "tokens": trainer.tokens, "bfloat16": trainer.bfloat16}
        write_bytes(self._folder / STATE_FILE, json.dumps(header).encode())
        for old in self._folder.glob(f"*-{TENSORS}"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the state: the recovery is complete."""
        if self._folder is not None and self._folder.is_dir():
            for file in (self._folder / STATE_FILE, *self._folder.glob(f"*-{TENSORS}")):
                file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds something else
                self._folder.rmdir()
