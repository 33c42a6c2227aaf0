"""A run's folder: one result and one record a step, each whole or absent."""

from __future__ import annotations

import base64
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.costs import CostTables
from nirvana.errors import RunError
from nirvana.evaluation.ablation_results import Ablations
from nirvana.evaluation.plan_trials import PlanTrials
from nirvana.evaluation.results import Report
from nirvana.evaluation.speed_report import SpeedReport
from nirvana.evaluation.unit_inspection_results import UnitInspections
from nirvana.files import content_hash, parse_json, read_file, read_json, unpack, write_bytes, write_json
from nirvana.loss_curves import Sensitivity
from nirvana.plan import PruningPlan
from nirvana.recovery.history import RecoveryHistory
from nirvana.runs.results import Continuation, ModelCard, PruneSummary
from nirvana.saliency.scores import Saliency

CONTINUATIONS = "continuations.json"
log = logging.getLogger(__name__)


class Format(NamedTuple):
    """File format of a step's result."""

    name: str
    suffix: str
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]


def _json_format(name: str, kind: Any) -> Format:
    return Format(
        name,
        ".json",
        lambda value: json.dumps(value.to_json(), ensure_ascii=False).encode(),
        lambda content: kind.from_json(parse_json(content)),
    )


def _read_calibration(content: bytes) -> CalibrationSelection | CalibrationSet:
    meta, _ = unpack(content)
    return CalibrationSelection.from_bytes(content) if "candidates" in meta else CalibrationSet.from_bytes(content)


def _write_plan(plan: PruningPlan) -> bytes:
    """The plan's JSON with one bit a unit, in base64, instead of lists of kept indices."""
    bits = {}
    for site, kept in plan.kept.items():
        mask = np.zeros(plan.layout[site].units, bool)
        mask[kept] = True
        bits[site.key] = base64.b64encode(np.packbits(mask).tobytes()).decode()
    return json.dumps(plan.to_json() | {"kept": bits}).encode()


def _read_plan(content: bytes) -> PruningPlan:
    data = parse_json(content)
    kept = {}
    for key, text in data["kept"].items():
        mask = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))
        kept[key] = np.flatnonzero(mask[: data["layout"]["sites"][key][0]])
    return PruningPlan.from_json(data | {"kept": kept})


FORMATS = {
    "model": _json_format("model", ModelCard),
    "calibration": Format("calibration", ".npz", lambda value: value.to_bytes(), _read_calibration),
    "saliency": Format("saliency", ".npz", Saliency.to_bytes, Saliency.from_bytes),
    "allocation": Format("plan", ".json", _write_plan, _read_plan),
    "prune": _json_format("pruned", PruneSummary),
    "recover": _json_format("recovery", RecoveryHistory),
    "evaluate": _json_format("report", Report),
}


class Attachment(NamedTuple):
    """Attachment of the result of `step`: an object of `kind`, which converts to JSON and back. A report that measures
    the recovered model belongs to that.
    """

    step: str
    kind: Any


ATTACHMENTS = {
    "costs": Attachment("model", CostTables),
    "speed": Attachment("prune", SpeedReport),
    "sizes": Attachment("prune", Report),
    "sensitivity": Attachment("saliency", Sensitivity),
    "ablation": Attachment("saliency", Ablations),
    "removals": Attachment("saliency", Ablations),
    "units": Attachment("saliency", UnitInspections),
    "plans": Attachment("saliency", PlanTrials),
}


def _link(source: Path, target: Path) -> None:
    """A second name for a file that is not written any more; a copy where the disk has no links."""
    try:
        target.unlink(missing_ok=True)
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _last_step(subjects: Iterable[str]) -> str:
    """The step that the last of these models is a result of."""
    return "recover" if any(subject.startswith("recovered") for subject in subjects) else "prune"


def _step_of(name: str, attached: Any) -> str:
    """The step whose result an attachment belongs to."""
    if isinstance(attached, Report):
        return _last_step(item.subject for item in attached.measurements)
    return ATTACHMENTS[name].step


class StepFolder:
    """Results by step, and their attachments.

    A result's file carries the hash of its content in its name, e.g. `saliency-3f2a91c05d7e.npz`, and the record
    `saliency.info.json` names the file. So a new result takes effect atomically, is never paired with another's record,
    and damage is detected.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def info(self, step: str) -> dict[str, Any] | None:
        """The record of a step, or None without a complete result."""
        info = self._read_record(step)
        while info is not None and not (self.path / info["file"]).is_file():
            newer = self._read_record(step)
            if newer == info:
                return None
            info = newer  # a newer result took its place since the record was read
        return info

    def _read_record(self, step: str) -> dict[str, Any] | None:
        try:
            info: dict[str, Any] = read_json(self._record(step))
            return {**info, "file": str(info["file"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged and counts as missing: %s", self._record(step), error)
            return None

    def read(self, step: str) -> Any:
        """The result of a step, or None. A damaged one is logged and then counts as missing."""
        while info := self.info(step):
            path = self.path / info["file"]
            try:
                content = read_file(path)
                if content_hash(content)[:12] not in path.name:
                    raise ValueError("its content has changed since it was written")
                return FORMATS[step].read(content)
            except FileNotFoundError:
                continue  # a newer result took its place since the record was read
            except MemoryError:
                raise  # nothing is wrong with the file
            except Exception as error:  # whatever a parser makes of foreign bytes
                log.warning("%s is damaged and counts as missing: %s", path, error)
                if self.info(step) != info:
                    continue
                try:
                    self._record(step).unlink(missing_ok=True)
                except OSError:
                    log.warning("%s cannot be removed", self._record(step))
                return None
        return None

    def put(self, step: str, content: bytes, info: dict[str, Any]) -> None:
        """Store a result's bytes and its record; the earlier one stays until the new one is complete.

        Raises:
            NirvanaError: the disk is full or the folder cannot be written.
        """
        form = FORMATS[step]
        file = f"{form.name}-{content_hash(content)[:12]}{form.suffix}"
        write_bytes(self.path / file, content)
        write_json(self._record(step), {**info, "file": file})
        for old in self.path.glob(f"{form.name}-*{form.suffix}"):
            if old.name != file:
                old.unlink(missing_ok=True)

    def copy(self, step: str, source: StepFolder, *, weights: bool = True) -> None:
        """Copy a step from another run's folder, with the weights that its record names unless `weights` is False; one
        that cannot be read, or whose weights are not there, is skipped.
        """
        while info := source.info(step):
            beside = str(info["weights"]) if weights and "weights" in info else ""
            if beside and not (source.path / beside).is_file() and source.info(step) == info:
                return
            try:
                content = read_file(source.path / info["file"])
                if beside:
                    _link(source.path / beside, self.path / beside)
            except FileNotFoundError:
                continue  # a newer result took its place since the record was read
            except OSError as error:
                log.warning("The %s result of %s was not copied: %s", step, source.path.name, error)
                return
            self.put(step, content, info)
            return

    def _record(self, step: str) -> Path:
        return self.path / f"{FORMATS[step].name}.info.json"

    def continuations(self) -> list[Continuation]:
        """Continuations by the present models, oldest first."""
        return [
            Continuation.from_json({key: value for key, value in item.items() if key != "fingerprint"})
            for item in self._continuations()
            if self._is_present(item)
        ]

    def add_continuation(self, continuation: Continuation) -> None:
        """Append a continuation, replacing one by the present models with the same prompt and settings.

        Raises:
            RunError: a model that wrote it is missing.
            NirvanaError: the disk is full or the folder cannot be written.
        """
        data = continuation.to_json()
        record = {**data, "fingerprint": self._require(_last_step(data["texts"]))}
        same = ("prompt", "chat", "max_new_tokens")
        kept = [
            item
            for item in self._continuations()
            if any(item[name] != record[name] for name in same) or not self._is_present(item)
        ]
        write_json(self.path / CONTINUATIONS, [*kept, record])

    def _is_present(self, item: dict[str, Any]) -> bool:
        return bool(item["fingerprint"] == self._fingerprint(_last_step(item["texts"])))

    def _continuations(self) -> list[dict[str, Any]]:
        try:
            items = read_json(self.path / CONTINUATIONS)
            required = {"prompt", "chat", "max_new_tokens", "texts", "fingerprint"}
            return [item for item in items if required <= set(item)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read: %s", self.path / CONTINUATIONS, error)
            return []

    def attachment(self, name: str) -> Any:
        """The attachment of that name to the step's present result, or None."""
        try:
            record = read_json(self.path / f"{name}.json")
            found = ATTACHMENTS[name].kind.from_json(record["result"])
            return found if record["fingerprint"] == self._fingerprint(_step_of(name, found)) else None
        except FileNotFoundError:
            return None
        except MemoryError:
            raise
        except Exception as error:  # whatever a parser makes of foreign bytes
            log.warning("%s cannot be read: %s", self.path / f"{name}.json", error)
            return None

    def attach(self, name: str, result: Any) -> None:
        """Store an attachment, replacing an earlier one of that name.

        Raises:
            RunError: its step has no result.
            NirvanaError: the disk is full or the folder cannot be written.
        """
        fingerprint = self._require(_step_of(name, result))
        write_json(self.path / f"{name}.json", {"fingerprint": fingerprint, "result": result.to_json()})

    def copy_attachments(self, source: StepFolder) -> None:
        """Copy attachments and continuations of the results that both folders hold."""

        def is_here(step: str) -> bool:
            return self._fingerprint(step) == source._fingerprint(step)

        for name in ATTACHMENTS:
            found = source.attachment(name)
            if found is not None and is_here(_step_of(name, found)):
                self.attach(name, found)
        for continuation in source.continuations():
            if is_here(_last_step(continuation.texts)):
                self.add_continuation(continuation)

    def _fingerprint(self, step: str) -> str | None:
        info = self.info(step)
        return None if info is None else str(info.get("fingerprint"))

    def _require(self, step: str) -> str:
        fingerprint = self._fingerprint(step)
        if fingerprint is None:
            noun = "pruned model" if step == "prune" else f"{step} result"
            raise RunError(f"This run has no {noun}.", "Compute that step first.")
        return fingerprint

    def sweep(self) -> None:
        """Remove incomplete files of killed writers; only while there is no other writer."""
        for leftover in self.path.glob(".*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes of all files."""
        total = 0
        for file in self.path.rglob("*"):
            try:
                total += file.stat().st_size if file.is_file() else 0
            except OSError:
                continue  # removed since it was listed
        return total
