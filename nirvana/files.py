"""Files that are whole or absent: everything is written beside its place and moved there at the end."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from nirvana.errors import NirvanaError

APPLICATION = "nirvana-studio"


def data_folder() -> Path:
    """Where runs are kept: `$NIRVANA_HOME`, or the user's data folder."""
    home = os.environ.get("NIRVANA_HOME")
    return Path(home).expanduser() if home else Path(platformdirs.user_data_dir(APPLICATION))


def cache_folder() -> Path:
    """What can be made again (converted weights, corpora, step results): `$NIRVANA_HOME/cache`, or the user's."""
    home = os.environ.get("NIRVANA_HOME")
    return Path(home).expanduser() / "cache" if home else Path(platformdirs.user_cache_dir(APPLICATION))


def local_path(text: str, error: type[NirvanaError]) -> Path:
    """The path that someone typed, with `~` expanded; there need be nothing at it.

    Raises:
        NirvanaError: of the class `error`, where it cannot be looked at: too long, of an unknown user, forbidden.
    """
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, RuntimeError, ValueError) as problem:
        reason = str(getattr(problem, "strerror", None) or problem).rstrip(".")
        raise error(f"{text[:100]!r} cannot be opened: {reason}.", "Check the path.") from problem
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically, making its folder.

    Raises:
        NirvanaError: the disk is full or the folder cannot be written; an earlier file at `path` is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise NirvanaError(
            f"Could not write {path.name}: {error.strerror or error}.",
            f"Free some space or check the permissions of {path.parent}.",
        ) from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a file and put it on the disk; one that a killed program left half written is ended first.

    Raises:
        NirvanaError: the disk is full or the folder cannot be written.
    """
    content = (line + "\n").encode()
    try:
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                content = content if file.read(1) == b"\n" else b"\n" + content
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise NirvanaError(
            f"Could not write {path.name}: {error.strerror or error}.",
            f"Free some space or check the permissions of {path.parent}.",
        ) from error


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json.dumps(value, indent=1, ensure_ascii=False).encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def pack(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, compress: bool = True) -> bytes:
    """An .npz of `arrays` with `meta` as JSON beside them, under the name `meta`.

    Without `compress` it is written in a fraction of the time: for many measured values, which hardly shrink.
    """
    buffer = io.BytesIO()
    contents: dict[str, Any] = {"meta": np.array(json.dumps(meta)), **arrays}
    (np.savez_compressed if compress else np.savez)(buffer, **contents)
    return buffer.getvalue()


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The reverse of `pack`. Never unpickles."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        return meta, {name: file[name] for name in file.files if name != "meta"}


def content_hash(*parts: bytes | str) -> str:
    """SHA-256 over `parts`, 64 hex digits; a separator keeps ("ab", "c") and ("a", "bc") apart."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def json_hash(value: Any) -> str:
    """Hash of a JSON value that does not depend on the order of keys."""
    return content_hash(json.dumps(value, sort_keys=True, ensure_ascii=False))


def strict(value: Any) -> Any:
    """`value` without what JSON cannot say."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
