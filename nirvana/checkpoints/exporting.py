"""Export in every format: written beside the target, read back, verified, and then moved there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nirvana.checkpoints.gguf_export import export_gguf, refuse_gguf
from nirvana.checkpoints.placing import placed, refuse_foreign, refuse_other_file
from nirvana.checkpoints.saving import save
from nirvana.checkpoints.sizes import FORMATS
from nirvana.checkpoints.uniform import export_uniform, refuse_uniform
from nirvana.checkpoints.verification import Verification, verify_export
from nirvana.errors import CheckpointError
from nirvana.evaluation.results import Report
from nirvana.files import user_path
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, within


@dataclass(frozen=True)
class Export:
    """A finished export: folder or file, size in bytes, and verification."""

    path: Path
    format: str
    bytes: int
    verification: Verification


def export(
    lm: LM,
    target: str | os.PathLike[str],
    *,
    format: str = "checkpoint",
    recipe: Mapping[str, Any] | None = None,
    measured: Report | None = None,
    dtype: str = "auto",
    tokenizer_from: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Export:
    """Write `lm` in one of the formats, verify it, and move it to `target`; on any failure `target` is unchanged.

    Args:
        lm: a model with its weights in memory.
        target: a folder, or for GGUF a file that ends in .gguf.
        format: "checkpoint" (`save`), "uniform" (`export_uniform`) or "gguf" (`export_gguf`).
        recipe: the model's recipe, for the model card of a folder.
        measured: numbers for that card.
        dtype: of the weights in the files, "float32", "bfloat16" or "float16"; see `file_dtype` for "auto".
        tokenizer_from: for GGUF, see `export_gguf`.
        progress: called often; may raise `Cancelled`, which leaves nothing behind.

    Raises:
        CheckpointError: the format is unknown or not possible for this model, the verification failed, or the disk is
            full or not writable.
        ModelError: the weights are not in memory.
    """
    if format not in FORMATS:
        raise CheckpointError(f"There is no export format {format!r}.", f"Formats are {', '.join(FORMATS)}.")
    place = user_path(target, CheckpointError).absolute()
    (refuse_other_file if format == "gguf" else refuse_foreign)(place)
    writing, reading = within(progress, "Writing", 0, 2), within(progress, "Verifying", 1, 2)
    with placed(place) as staged:
        if format == "gguf":
            export_gguf(lm, staged, dtype=dtype, tokenizer_from=tokenizer_from, progress=writing)
        else:
            write = save if format == "checkpoint" else export_uniform
            write(lm, staged, dtype=dtype, recipe=recipe, measured=measured, progress=writing)
        verification = verify_export(lm, staged, progress=reading)
    return Export(place, format, size_of(place), verification)


def refused_formats(lm: LM) -> dict[str, str]:
    """Format -> why `lm` cannot be written in it. Possible formats are absent; no weights are read."""
    reasons = {}
    for format, check in (("uniform", refuse_uniform), ("gguf", refuse_gguf)):
        try:
            check(lm)
        except CheckpointError as error:
            reasons[format] = error.message
    return reasons


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())
