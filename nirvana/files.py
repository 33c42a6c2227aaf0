"""Safe reading of untrusted files, and atomic writing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import secrets
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.lib import format as npy

from nirvana.errors import NirvanaError

APPLICATION = "nirvana-studio"
MOST_BYTES = 1 << 30  # of a file that is read whole


def data_folder() -> Path:
    """The folder of runs: `$NIRVANA_HOME`, or the user's data folder."""
    home = os.environ.get("NIRVANA_HOME")
    return user_path(home) if home else Path(platformdirs.user_data_dir(APPLICATION))


def cache_folder() -> Path:
    """Folder of reproducible files (converted weights, corpora, step results): `$NIRVANA_HOME/cache`, or the user's."""
    home = os.environ.get("NIRVANA_HOME")
    return user_path(home) / "cache" if home else Path(platformdirs.user_cache_dir(APPLICATION))


def user_path(given: str | os.PathLike[str], error: type[NirvanaError] = NirvanaError) -> Path:
    """A typed path with `~` expanded.

    Raises:
        NirvanaError: of the class `error`, where `~` names an unknown user or the path holds a null character.
    """
    text = os.fspath(given)
    try:
        path = Path(text).expanduser()
        os.fspath(path).encode()
    except (RuntimeError, UnicodeEncodeError) as problem:
        raise error(f"{text[:100]!r} cannot be opened: {str(problem).rstrip('.')}.", "Check the path.") from problem
    if "\0" in text:
        raise error(f"{text[:100]!r} cannot be opened: it holds a null character.", "Check the path.")
    return path


def local_path(text: str, error: type[NirvanaError]) -> Path:
    """A typed path with `~` expanded; it need not exist.

    Raises:
        NirvanaError: of the class `error`, where it is too long, of an unknown user, or forbidden.
    """
    path = user_path(text, error)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError) as problem:
        reason = str(getattr(problem, "strerror", None) or problem).rstrip(".")
        raise error(f"{text[:100]!r} cannot be opened: {reason}.", "Check the path.") from problem
    return path


def existing_folder(path: Path) -> Path:
    """The nearest folder above `path` that exists, for a hint where its own folder could not be made."""
    return next((folder for folder in path.parents if folder.is_dir()), path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically, making its folder.

    Raises:
        NirvanaError: the disk is full or the folder cannot be written; an earlier file at `path` is unchanged.
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
            f"Free some space or check the permissions of {existing_folder(path)}.",
        ) from error


def append_line(path: Path, line: str) -> None:
    """Append a line to a file and sync it; a last line that a killed program left incomplete is ended first.

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
            f"Free some space or check the permissions of {existing_folder(path)}.",
        ) from error


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json.dumps(value, indent=1, ensure_ascii=False).encode())


def read_file(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it is missing, no regular file, larger than `most` bytes, or cannot be read.
    """
    if regular_file(path) > most:
        raise OSError(errno.EFBIG, f"larger than {most / 1e6:,.0f} MB", str(path))
    return path.read_bytes()


def regular_file(path: Path) -> int:
    """Bytes of a file that may be opened: a pipe would block, and a device may never end.

    Raises:
        OSError: it is missing or no regular file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return status.st_size


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8, without a byte order mark; line ends are those of Unix.

    Raises:
        OSError: see `read_file`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return decode(read_file(path))


def decode(content: bytes) -> str:
    """UTF-8 text without a byte order mark; line ends are those of Unix.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    return content.decode("utf-8-sig").replace("\r\n", "\n")


def parse_json(content: str | bytes) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


# Errors of a parser on malformed content.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError)


@contextlib.contextmanager
def well_formed(subject: str, error: type[NirvanaError], hint: str) -> Iterator[None]:
    """Turn a parser's exceptions within the block into `error`: "<subject>: <cause>".

    Raises:
        NirvanaError: of the class `error`; one raised within the block passes through.
    """
    try:
        yield
    except NirvanaError:
        raise
    except MALFORMED as cause:
        lines = str(cause).splitlines()
        reason = (
            f"{type(cause).__name__} {cause}" if isinstance(cause, KeyError) else lines[0] if lines else repr(cause)
        )
        raise error(f"{subject}: {reason[:300].rstrip('.')}.", hint) from cause


def whole_number(value: Any, most: int = 1 << 53) -> int:
    """`value`, if it is a whole number from 0 to `most`.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is no whole number from 0 to {most:,}")
    return value


def whole_numbers(values: Any) -> np.ndarray:
    """A list or array of whole numbers from 0 to 2**31 as int64 (n,).

    Raises:
        ValueError: it is something else.
    """
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.integer):
        values = values.tolist()
    if not isinstance(values, list):
        raise ValueError(f"{str(values)[:40]!r} is no list of whole numbers")
    return np.array([whole_number(value, 1 << 31) for value in values], np.int64)


def read_json(path: Path) -> Any:
    """The JSON value of a regular file.

    Raises:
        OSError: see `read_file`.
        ValueError: see `parse_json`.
    """
    return parse_json(read_text(path))


def pack(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, compress: bool = True) -> bytes:
    """An .npz of `arrays` with `meta` as JSON beside them, under the name `meta`.

    Without `compress` writing is several times faster, for measured values, which hardly compress.
    """
    buffer = io.BytesIO()
    contents: dict[str, Any] = {"meta": np.array(json.dumps(meta)), **arrays}
    (np.savez_compressed if compress else np.savez)(buffer, **contents)
    return buffer.getvalue()


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The reverse of `pack`. Never unpickles.

    Raises:
        ValueError: it is damaged or of another kind.
        MemoryError: the arrays that the archive does hold need more memory than is free.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {file.filename.removesuffix(".npy"): _member(archive, file) for file in archive.infolist()}
    except MemoryError:
        raise
    except Exception as error:  # of zipfile, zlib, NumPy and its header parser
        raise ValueError(f"the .npz archive cannot be read: {error}") from error
    if "meta" not in arrays:
        raise ValueError("the .npz archive lacks its description")
    return parse_json(str(arrays.pop("meta"))), arrays


def _member(archive: zipfile.ZipFile, file: zipfile.ZipInfo) -> np.ndarray:
    """One array. Its header must claim as many bytes as follow it: NumPy would allocate them unseen."""
    if file.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others name their memory in the stream
        raise ValueError(f"{file.filename} is compressed in another way")
    stream = io.BytesIO(archive.read(file))
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
    try:
        shape, _, dtype = read_header(stream)
    except MemoryError as error:  # Python's parser raises it for an expression nested too deeply
        raise ValueError(f"the header of {file.filename} cannot be parsed") from error
    held = len(stream.getbuffer()) - stream.tell()
    if math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{file.filename} holds {held:,} bytes; its header claims {dtype} of shape {shape}")
    stream.seek(0)
    return npy.read_array(stream, allow_pickle=False)


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
    """`value` with NaN as None and infinities as "inf" and "-inf", which JSON can hold."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
