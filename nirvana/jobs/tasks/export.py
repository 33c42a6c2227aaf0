"""The task "export": the pruned or recovered model as one verified file in the run's folder."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.checkpoints.sizes import FORMATS, ITEM_BYTES, export_sizes
from nirvana.errors import CheckpointError, RunError
from nirvana.jobs.task import Task, require_pruned
from nirvana.progress import Progress, Reporter, within
from nirvana.runs.recovery import has_weights
from nirvana.runs.run import Run
from nirvana.schema import Schema, option

if TYPE_CHECKING:
    from nirvana.models.lm import LM
    from nirvana.runs.model_cache import ModelCache

TITLES = {"checkpoint": "Checkpoint", "uniform": "Uniform checkpoint", "gguf": "GGUF file"}
CHUNK = 1 << 22
MARGIN = 32 << 20  # bytes for tokenizer and configs


class ExportRequest(Schema):
    """Format and dtype of an export."""

    format: str = option(
        FORMATS[0],
        "--export",
        "checkpoint: each layer at its own size; uniform: padded to the widest layer, plain; gguf: for llama.cpp",
        choices=lambda: FORMATS,
        error=CheckpointError,
    )
    subject: str = option(
        "final",
        "--export-model",
        "pruned, recovered, or final: recovered if the recipe trains, else pruned",
        choices=lambda: ("final", "pruned", "recovered"),
        error=CheckpointError,
    )
    dtype: str = option(
        "auto",
        "--export-dtype",
        "of the weights in the files; auto: that of the model's files, or the one in memory if it takes fewer bytes",
        choices=lambda: ("auto", *ITEM_BYTES),
        error=CheckpointError,
    )


class Export(Task[ExportRequest]):
    """Write the chosen model in a format, verify it by reading it back, and pack a folder into one file. The result has
    the request's fields, "path", "bytes", "model" (hash of its weights) and "checks" (verified properties).
    """

    name = "export"
    title = "Exporting"
    request = ExportRequest

    def check(self, run: Run, request: ExportRequest) -> None:
        require_pruned(run)
        summary = run.pruned()
        if request.subject == "recovered" and not has_weights(run):
            raise RunError("This run has no weights of a recovered model.", "Recover it first.")
        if summary is not None and request.format in summary.refused:
            raise CheckpointError(summary.refused[request.format], "Choose another format.")

    def perform(self, run: Run, request: ExportRequest, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        from nirvana.checkpoints.exporting import export
        from nirvana.runs.workspace import Workspace

        format = request.format
        reporter.step("export", 1, 1)
        workspace = Workspace.of(run, models=models, progress=reporter.progress)
        found = {"final": workspace.final, "pruned": workspace.pruned, "recovered": workspace.recovered}
        small = found[request.subject]()
        _check_room(run, small, request)
        plan = str((run.info("allocation") or {}).get("fingerprint", ""))
        kind = "recovered" if small.recoveries else "pruned"
        name = f"{_file_name(run.recipe.model.name)}-{kind}-{plan[:8]}"
        measured = run.report() if run.step_state("evaluate") == "done" else None
        parts = 1 if format == "gguf" else 2
        with tempfile.TemporaryDirectory(prefix=".export-", dir=run.folder) as temporary:
            written = export(
                small,
                Path(temporary) / (f"{name}.gguf" if format == "gguf" else name),
                format=format,
                dtype=request.dtype,
                recipe=run.recipe.portable().to_json(),
                measured=measured,
                progress=within(reporter.progress, TITLES[format], 0, parts),
            )
            if request.dtype != "auto":
                name += f"-{request.dtype}"
            ready, path = written.path, run.folder / f"{name}.gguf"
            if written.path.is_dir():
                ready, path = Path(temporary) / "archive.zip", run.folder / f"{name}-{format}.zip"
                _pack(written.path, ready, reporter)
            ready.replace(path)
        result = {"path": str(path), "bytes": path.stat().st_size, "model": small.hash, **request.to_json()}
        return result | {"checks": list(written.verification.checks)}


def _check_room(run: Run, small: LM, request: ExportRequest) -> None:
    from nirvana.checkpoints.saving import file_dtype

    format = request.format
    size = export_sizes(small.layout, small.kept, dtype=file_dtype(small, request.dtype, format=format))[format]
    needed = (1 if format == "gguf" else 2) * size + MARGIN  # a folder exists twice while it is packed
    free = shutil.disk_usage(run.folder).free
    if free < needed:
        raise RunError(
            f"The export needs {needed / 1e9:.1f} GB of temporary space; {free / 1e9:.1f} GB are free.",
            "Free some space, or delete runs that are not needed.",
        )


def _pack(folder: Path, archive: Path, reporter: Reporter) -> None:
    """Pack `folder` without compression, which takes minutes and hardly reduces weights."""
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
