"""What a worker can be asked to do with a run. Torch and the engine are imported by the task that needs them."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nirvana.checkpoints.sizes import FORMATS, export_sizes
from nirvana.errors import CheckpointError, RunError
from nirvana.jobs.sensitivity import SCAN, check_scan, scan
from nirvana.progress import Progress, within
from nirvana.runs.recipe import STEPS
from nirvana.runs.run import Run
from nirvana.runs.speed import SIZES, SPEED, check_schemes, check_speed, measure_speeds, quality_against_bytes
from nirvana.runs.validation import check_recipe
from nirvana.studies.matrix import MATRIX, check_matrix, matrix_task
from nirvana.studies.search_task import TUNE, check_tune, tune_run
from nirvana.studies.sweep import ARGUMENTS as SWEEP
from nirvana.studies.sweep import check_sweep, sweep_task

if TYPE_CHECKING:
    from nirvana.jobs.worker import Reporter
    from nirvana.models.lm import LM
    from nirvana.runs.model_cache import ModelCache

PROMPT_LENGTH = 8_000  # characters
NEW_TOKENS = 512
TITLES = {"checkpoint": "Checkpoint", "uniform": "Uniform checkpoint", "gguf": "GGUF file"}
CHUNK = 1 << 22
MARGIN = 32 << 20  # bytes beside the weights: tokenizer, configs


class Task(NamedTuple):
    """`perform(run, models=, reporter=, until=, **arguments)` does the work and returns the job's result.

    `check(run, until, **arguments)` refuses before it is queued what cannot succeed.
    """

    perform: Callable[..., dict[str, Any] | None]
    defaults: dict[str, Any]  # of its arguments; it takes no others
    check: Callable[..., None] = lambda run, until, **arguments: None


def check_task(run: Run, task: str, until: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse a job that cannot succeed before it is queued; the arguments with their defaults.

    Raises:
        RunError: the task, step or an argument is unknown or out of range, or there is no pruned model yet.
        CheckpointError: the model cannot be exported in that format.
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
    clean = {**defaults, **arguments}
    TASKS[task].check(run, until, **clean)
    return clean


def run_steps(run: Run, *, models: ModelCache, reporter: Reporter, until: str) -> None:
    """Compute every step up to `until` that is not current."""
    from nirvana.runs.pipeline import compute_steps

    compute_steps(run, until=until, progress=reporter.progress, models=models, on_step=reporter.step)


def export(
    run: Run, *, models: ModelCache, reporter: Reporter, until: str, format: str = "checkpoint"
) -> dict[str, Any]:
    """Write the pruned model in a format, verify it by reading it back, and pack a folder into one file.

    Returns:
        "path", "bytes", "format", "plan" (fingerprint of the plan it was made by), "checks" (what was verified).

    Raises:
        CheckpointError: the model cannot be written in this format, or what was read back differs.
        RunError: the disk has too little room.
    """
    from nirvana.checkpoints.exporting import export as write
    from nirvana.runs.workspace import Workspace

    reporter.step("export", 1, 1)
    small = Workspace.of(run, models=models, progress=reporter.progress).pruned()
    _check_room(run, small, format)
    plan = str((run.info("allocation") or {}).get("fingerprint", ""))
    name = f"{_file_name(run.recipe.model.name)}-pruned-{plan[:8]}"
    measured = run.report() if run.step_state("evaluate") == "done" else None
    parts = 1 if format == "gguf" else 2
    with tempfile.TemporaryDirectory(prefix=".export-", dir=run.folder) as temporary:
        written = write(
            small,
            Path(temporary) / (f"{name}.gguf" if format == "gguf" else name),
            format=format,
            recipe=run.recipe.portable().to_json(),
            measured=measured,
            progress=within(reporter.progress, TITLES[format], 0, parts),
        )
        ready, path = written.path, run.folder / f"{name}.gguf"
        if written.path.is_dir():
            ready, path = Path(temporary) / "archive.zip", run.folder / f"{name}-{format}.zip"
            _pack(written.path, ready, reporter)
        ready.replace(path)
    result = {"path": str(path), "bytes": path.stat().st_size, "format": format, "plan": plan}
    return result | {"checks": list(written.verification.checks)}


def continue_both(
    run: Run, *, models: ModelCache, reporter: Reporter, until: str, prompt: str, chat: bool, max_new_tokens: int
) -> dict[str, Any]:
    """Let both models continue a prompt, and keep the texts with the run."""
    from nirvana.runs.continuation import continue_with_both
    from nirvana.runs.workspace import Workspace

    reporter.step("continue", 1, 1)
    both = Workspace.of(run, models=models, progress=reporter.progress).subjects()
    continuation = continue_with_both(
        both["dense"], both["pruned"], prompt, chat=chat, max_new_tokens=max_new_tokens, progress=reporter.progress
    )
    run.add_continuation(continuation)
    return continuation.to_json()


def time_both(run: Run, *, models: ModelCache, reporter: Reporter, until: str, **protocol: Any) -> dict[str, Any]:
    """Time the dense and the pruned model of a run in turns, and keep the result with the run."""
    from nirvana.runs.workspace import Workspace

    reporter.step("speed", 1, 1)
    report = measure_speeds(Workspace.of(run, models=models, progress=reporter.progress), **protocol)
    run.attach("speed", report)
    return {"models": list(report.models)}


def weigh_both(
    run: Run, *, models: ModelCache, reporter: Reporter, until: str, schemes: Sequence[str]
) -> dict[str, Any]:
    """Measure quality against bytes of a run's models, and keep the result with the run."""
    from nirvana.runs.workspace import Workspace

    reporter.step("sizes", 1, 1)
    report = quality_against_bytes(Workspace.of(run, models=models, progress=reporter.progress), schemes=schemes)
    run.attach("sizes", report)
    return {"measurements": len(report.measurements)}


def _check_run(run: Run, until: str) -> None:
    check_recipe(run.recipe, STEPS[: STEPS.index(until) + 1])


def _check_pruned(run: Run) -> None:
    if run.info("prune") is None:
        raise RunError("There is no pruned model yet.", "Prune first.")


def _check_export(run: Run, until: str, format: Any) -> None:
    _check_pruned(run)
    if format not in FORMATS:
        raise CheckpointError(f"There is no export format {format!r}.", f"Formats are {', '.join(FORMATS)}.")
    summary = run.pruned()
    if summary is not None and format in summary.refused:
        raise CheckpointError(summary.refused[format], "Choose another format.")


def _check_continue(run: Run, until: str, prompt: Any, chat: Any, max_new_tokens: Any) -> None:
    _check_pruned(run)
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > PROMPT_LENGTH:
        raise RunError(f"A prompt has 1 to {PROMPT_LENGTH:,} characters.", "Write a prompt.")
    if not isinstance(chat, bool):
        raise RunError("chat is true or false.", "Correct it.")
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or not 1 <= max_new_tokens <= NEW_TOKENS:
        raise RunError(f"max_new_tokens is a whole number from 1 to {NEW_TOKENS}.", "Correct it.")


def _check_speed(run: Run, until: str, **protocol: Any) -> None:
    _check_pruned(run)
    check_speed(run, **protocol)


def _check_sizes(run: Run, until: str, schemes: Any) -> None:
    _check_pruned(run)
    check_schemes(schemes)


TASKS = {
    "run": Task(run_steps, {}, _check_run),
    "export": Task(export, {"format": "checkpoint"}, _check_export),
    "continue": Task(continue_both, {"prompt": "", "chat": False, "max_new_tokens": 64}, _check_continue),
    "speed": Task(time_both, SPEED, _check_speed),
    "sizes": Task(weigh_both, SIZES, _check_sizes),
    "sensitivity": Task(scan, SCAN, check_scan),
    "tune": Task(tune_run, TUNE, check_tune),
    "sweep": Task(sweep_task, SWEEP, check_sweep),
    "matrix": Task(matrix_task, MATRIX, check_matrix),
}


def _check_room(run: Run, small: LM, format: str) -> None:
    dtype = str(small.dtype).removeprefix("torch.")
    size = export_sizes(small.layout, small.kept, dtype=dtype)[format]
    needed = (1 if format == "gguf" else 2) * size + MARGIN  # a folder lies there twice while it is packed
    free = shutil.disk_usage(run.folder).free
    if free < needed:
        raise RunError(
            f"The export needs {needed / 1e9:.1f} GB while it is made; {free / 1e9:.1f} GB are free.",
            "Free some space, or delete runs that are not needed.",
        )


def _pack(folder: Path, archive: Path, reporter: Reporter) -> None:
    """Pack `folder` without compressing: weights hardly shrink, and it would take minutes."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    total = sum(file.stat().st_size for file in files)
    progress = within(reporter.progress, "Packing", 1, 2)
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
