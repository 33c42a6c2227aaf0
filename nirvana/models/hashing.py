"""What names a model's weights: the hash of its files' contents, computed once per file and kept."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from nirvana.errors import NirvanaError
from nirvana.files import cache_folder, content_hash, write_bytes

CHUNK = 1 << 22


def weight_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of the weight files, 64 hex digits; their names and places do not count."""
    return content_hash(*(_file_hash(file) for file in files))


def _file_hash(file: Path) -> str:
    stat = file.stat()
    identity = content_hash(str(file.resolve()), str(stat.st_size), str(stat.st_mtime_ns))[:32]
    known = cache_folder() / "hashes" / identity
    if known.is_file():
        return known.read_text(encoding="ascii")
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    with contextlib.suppress(NirvanaError):  # without a writable cache it is computed again next time
        write_bytes(known, digest.hexdigest().encode("ascii"))
    return digest.hexdigest()
