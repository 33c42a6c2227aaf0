"""Runs as bytes, to compute them in a store of another machine and take them back with their results."""

from __future__ import annotations

import re
import secrets
import shutil

from nirvana.errors import RunError
from nirvana.files import read_file, write_bytes
from nirvana.runs.identity import ID
from nirvana.runs.record import FILE, adopt
from nirvana.runs.run import Run
from nirvana.runs.store import Store

SUFFIXES = (".json", ".npz")  # of records and results; weights and journals stay
NAME = re.compile(r"\w[\w.-]*")
Packed = tuple[str, dict[str, bytes]]  # id, and content by file name


def pack_run(run: Run) -> Packed:
    """A run with its results, without recovered weights and the journals of its studies."""
    files = [path for path in run.folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    return run.id, {path.name: read_file(path) for path in files if NAME.fullmatch(path.name)}


def unpack_run(store: Store, packed: Packed) -> Run:
    """Add a packed run to `store`, in place of an earlier state of the same run.

    Raises:
        RunError: it is not a packed run, or its files cannot be written.
        NirvanaError: the disk is full.
    """
    run_id, files = packed
    if not ID.fullmatch(run_id) or FILE not in files or not all(map(NAME.fullmatch, files)):
        raise RunError("These are not the files of a run.", "Compute the run again.")
    folder = store.root / "runs" / run_id
    arriving, leaving = (folder.with_name(f".{way}-{run_id}-{secrets.token_hex(3)}") for way in ("arriving", "leaving"))
    try:
        for name, content in files.items():
            write_bytes(arriving / name, content)
        with store.index.connect() as connection:  # no other process may list the folder first
            if folder.exists():
                folder.rename(leaving)
            arriving.rename(folder)
            adopt(connection, folder.parent)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error}.", "Check its permissions, and try again.") from error
    finally:
        for rest in (arriving, leaving):
            shutil.rmtree(rest, ignore_errors=True)
    return store.open(run_id)
