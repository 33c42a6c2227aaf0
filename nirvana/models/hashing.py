"""Hash of a model's weight files, computed once per file and cached."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from nirvana.errors import ModelError, NirvanaError
from nirvana.files import cache_folder, content_hash, read_text, write_bytes

CHUNK = 1 << 22


def weight_hash(files: Sequence[Path]) -> Callable[[], str]:
    """A function that gives the SHA-256 over the contents of the weight files, 64 hex digits.

    File names and folders do not count. Call `weight_hash` before the files are read: the returned function raises
    `ModelError` if they were changed or removed since, so the hash always belongs to the weights in memory.
    """
    before = [_identity(file) for file in files]

    def compute() -> str:
        try:
            if before == [_identity(file) for file in files]:
                return content_hash(*map(_file_hash, files, before))
        except OSError:
            pass  # removed
        raise ModelError(f"The files in {files[0].parent} have changed since they were read.", "Load the model again.")

    return compute


def _identity(file: Path) -> str:
    stat = file.stat()
    return content_hash(str(file.resolve()), str(stat.st_size), str(stat.st_mtime_ns))[:32]


def _file_hash(file: Path, identity: str) -> str:
    known = cache_folder() / "hashes" / identity
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", stored := read_text(known)):
            return stored
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    with contextlib.suppress(NirvanaError):  # without a writable cache it is computed again next time
        write_bytes(known, digest.hexdigest().encode("ascii"))
    return digest.hexdigest()
