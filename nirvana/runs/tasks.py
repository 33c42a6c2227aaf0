"""What a worker can be asked to do with a run. Torch and the engine are imported by the task that needs them."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nirvana.errors import CheckpointError, RunError
from nirvana.progress import Progress, within
from nirvana.runs.recipe import STEPS
from nirvana.runs.results import Continuation
from nirvana.runs.run import Run
from nirvana.runs.validation import check_recipe

if TYPE_CHECKING:
    from nirvana.models.lm import LM
    from nirvana.runs.models import Models
    from nirvana.runs.worker import Reporter

PROMPT_LENGTH = 8_000  # characters
NEW_TOKENS = 512
CHUNK = 1 << 22
MARGIN = 32 << 20  # bytes beside the weights: tokenizer, configs


class Task(NamedTuple):
    """`perform(run, models=, reporter=, until=, **arguments)` does the work and returns the job's result."""

    perform: Callable[..., dict[str, Any] | None]
    defaults: dict[str, Any]  # of its arguments; it takes no others


def check_task(run: Run, task: str, until: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse a job that cannot succeed before it is queued; the arguments with their defaults.

    Raises:
        RunError: the task, step or an argument is unknown or out of range, or there is no pruned model yet.
        NirvanaError: the recipe asks for what cannot be.
    """
    if task not in TASKS:
        raise RunError(f"There is no task {task!r}.", f"Tasks are {', '.join(TASKS)}.")
    if until not in STEPS:
        raise RunError(f"There is no step {until!r}.", f"Steps are {', '.join(STEPS)}.")
    defaults = TASKS[task].defaults
    unknown = set(arguments) - set(defaults)
    if unknown:
        raise RunError(f"The task {task} does not take {', '.join(sorted(unknown))}.", "Leave it out.")
    if task == "run":
        check_recipe(run.recipe, STEPS[: STEPS.index(until) + 1])
    elif task in ("export", "continue") and run.info("prune") is None:
        raise RunError("There is no pruned model yet.", "Prune first.")
    clean = {**defaults, **arguments}
    if task == "continue":
        _check_continue(**clean)
    return clean


def run_steps(run: Run, *, models: Models, reporter: Reporter, until: str) -> None:
    """Compute every step up to `until` that is not current."""
    from nirvana.runs.pipeline import execute

    execute(run, until=until, progress=reporter.progress, models=models, on_step=reporter.step)


def export(run: Run, *, models: Models, reporter: Reporter, until: str) -> dict[str, Any]:
    """Write the pruned checkpoint, see that it reads back bit-equal, and pack it: {"path", "bytes"}.

    Raises:
        CheckpointError: what was read back differs.
        RunError: the disk has too little room.
    """
    from nirvana.checkpoints.saving import save
    from nirvana.models.loading import load_model

    reporter.step("export", 1, 1)
    _, small = _both(run, models, reporter)
    free = shutil.disk_usage(run.folder).free
    needed = 2 * small.weight_bytes + MARGIN
    if free < needed:
        raise RunError(
            f"The checkpoint needs {needed / 1e9:.1f} GB while it is packed; {free / 1e9:.1f} GB are free.",
            "Free some space, or delete runs that are not needed.",
        )
    info = run.info("allocation") or {}
    name = f"{_file_name(run.recipe.model.name)}-pruned-{str(info.get('fingerprint', ''))[:8]}"
    with tempfile.TemporaryDirectory(prefix=".export-", dir=run.folder) as temporary:
        folder = save(small, Path(temporary) / name, progress=within(reporter.progress, "Writing", 0, 3))
        again = load_model(
            str(folder),
            device=str(small.device),
            dtype=str(small.dtype).removeprefix("torch."),
            progress=within(reporter.progress, "Reading back", 1, 3),
        )
        _check_equal(small, again)
        again.unload()
        archive = Path(temporary) / "archive.zip"
        _pack(folder, archive, reporter)
        path = run.folder / f"{name}.zip"
        archive.replace(path)
    return {"path": str(path), "bytes": path.stat().st_size}


def continue_both(
    run: Run, *, models: Models, reporter: Reporter, until: str, prompt: str, chat: bool, max_new_tokens: int
) -> dict[str, Any]:
    """Let both models continue a prompt, and keep the texts with the run."""
    from nirvana.evaluation.continuation import continue_prompt

    reporter.step("continue", 1, 1)
    texts = {}
    for part, (subject, lm) in enumerate(zip(("dense", "pruned"), _both(run, models, reporter), strict=True)):
        progress = within(reporter.progress, subject.capitalize(), part, 2)
        texts[subject] = continue_prompt(lm, prompt, chat=chat, max_new_tokens=max_new_tokens, progress=progress)
    continuation = Continuation(prompt, chat, max_new_tokens, **texts)
    run.add_continuation(continuation)
    return continuation.to_json()


TASKS = {
    "run": Task(run_steps, {}),
    "export": Task(export, {}),
    "continue": Task(continue_both, {"prompt": "", "chat": False, "max_new_tokens": 64}),
}


def _check_continue(prompt: Any, chat: Any, max_new_tokens: Any) -> None:
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > PROMPT_LENGTH:
        raise RunError(f"A prompt has 1 to {PROMPT_LENGTH:,} characters.", "Write a prompt.")
    if not isinstance(chat, bool):
        raise RunError("chat is true or false.", "Correct it.")
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or not 1 <= max_new_tokens <= NEW_TOKENS:
        raise RunError(f"max_new_tokens is a whole number from 1 to {NEW_TOKENS}.", "Correct it.")


def _both(run: Run, models: Models, reporter: Reporter) -> tuple[LM, LM]:
    """The dense model and the pruned one that the run holds, made again where they are not in memory."""
    plan, card = run.plan(), run.model()
    if plan is None or card is None:
        raise RunError("There is no pruned model yet.", "Prune first.")
    lm = models.dense(run.recipe.model, reporter.progress)
    if lm.hash != card.hash:
        raise RunError("The model's files have changed since the plan was made.", "Start a new run.")
    return lm, models.pruned(lm, plan, reporter.progress)


def _check_equal(small: LM, again: LM) -> None:
    import torch

    written, read = small.weights().state_dict(), again.weights().state_dict()
    same = written.keys() == read.keys() and all(torch.equal(written[name], read[name]) for name in written)
    if not same:
        raise CheckpointError("The checkpoint that was written differs from the model.", "Check the disk; try again.")


def _pack(folder: Path, archive: Path, reporter: Reporter) -> None:
    """Pack `folder` without compressing: weights hardly shrink, and it would take minutes."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    total = sum(file.stat().st_size for file in files)
    progress = within(reporter.progress, "Packing", 2, 3)
    assert progress is not None
    done = 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for file in files:
            entry = zipfile.ZipInfo.from_file(file, str(Path(folder.name) / file.relative_to(folder)))
            with file.open("rb") as source, target.open(entry, "w", force_zip64=True) as sink:
                while chunk := source.read(CHUNK):
                    sink.write(chunk)
                    done += len(chunk)
                    progress(Progress(file.name, done, total))


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name).strip(".-") or "model"
