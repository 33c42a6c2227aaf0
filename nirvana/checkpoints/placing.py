"""Atomic replacement of folders and files: the target is complete or unchanged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nirvana.errors import CheckpointError
from nirvana.files import existing_folder

CHECKPOINT_SUFFIXES = {".json", ".safetensors", ".jinja", ".model", ".txt", ".md", ".py"}
GGUF_SUFFIX = ".gguf"


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` for a folder or file, which replaces `target` on success.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    from safetensors import SafetensorError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            staged = Path(temporary) / target.name
            yield staged
            _swap(staged, target, Path(temporary) / "replaced")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target.name} could not be written: {getattr(error, 'strerror', None) or error}.",
            f"Free some space or check the permissions of {existing_folder(target)}.",
        ) from error


def refuse_foreign(target: Path) -> None:
    """Check that `target` holds only a checkpoint's files, since saving replaces the whole folder.

    Raises:
        CheckpointError: there is something else at `target`.
    """
    if not target.exists():
        return
    contents = list(target.iterdir()) if target.is_dir() else []
    names = {item.name for item in contents}
    own = (
        "config.json" in names
        and any(name.endswith(".safetensors") for name in names)
        and all(item.is_file() and item.suffix in CHECKPOINT_SUFFIXES for item in contents)
    )
    if not target.is_dir() or (contents and not own):
        raise CheckpointError(
            f"{target} exists and holds more than a checkpoint; it was not changed.", "Choose a new or an empty folder."
        )


def refuse_other_file(target: Path) -> None:
    """Check that `target` is a .gguf file or free; an export replaces nothing else.

    Raises:
        CheckpointError: the name does not end in .gguf, or `target` is not a file.
    """
    if target.suffix != GGUF_SUFFIX:
        raise CheckpointError(
            f"{target.name} is not the name of a GGUF file.", f"Use a name that ends in {GGUF_SUFFIX}."
        )
    if target.exists() and not target.is_file():
        raise CheckpointError(f"{target} exists and is not a file; it was not changed.", "Choose another name.")


def _swap(staged: Path, target: Path, replaced: Path) -> None:
    """Replace `target` by `staged`, or leave it unchanged."""
    if not target.exists():
        staged.replace(target)
        return
    target.replace(replaced)
    try:
        staged.replace(target)
    except BaseException:
        replaced.replace(target)
        raise
