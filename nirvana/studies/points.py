"""Measurement of a study's points in turn, each recorded in its journal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nirvana import out_of_memory
from nirvana.errors import Cancelled, NirvanaError
from nirvana.progress import ProgressCallback, within
from nirvana.studies.journal import Header, Journal, as_read_back
from nirvana.studies.session import Point, Row, Session

PointCallback = Callable[[str, int, int], None]
RowCallback = Callable[[Any], None]


def measure_points(
    session: Session[Point, Row],
    journal: Journal | None,
    *,
    request: dict[str, Any],
    progress: ProgressCallback | None = None,
    on_point: PointCallback | None = None,
    on_row: RowCallback | None = None,
) -> list[Row]:
    """Measure the points of a session in turn; returns all rows, those of the journal first.

    Each row is recorded when it is finished. A failed point, also by lack of memory, is recorded with its error.

    Args:
        journal: stores the rows; optional.
        request: recorded with them.
        progress: over each point; may raise `Cancelled`.
        on_point: called before each point with its label, number and the number of points (0 where unknown).
        on_row: called with each measured row.
    """
    header = Header(as_read_back(request), session.settings)
    rows = known_rows(session, journal, header) if journal is not None else []
    point = session.next(rows)
    if journal is not None:
        journal.begin(header)
    while point is not None:
        label, number, points = session.place(point, rows)
        if on_point is not None:
            on_point(label, number, points)
        start = time.perf_counter()
        row = measured(session, point, within(progress, label, 0, 1))
        row = replace(row, seconds=round(time.perf_counter() - start, 2))
        rows.append(row)
        if journal is not None:
            journal.append(header.key, row.to_json())
        if on_row is not None:
            on_row(row)
        point = session.next(rows)
    return rows


def known_rows(session: Session[Point, Row], journal: Journal, header: Header) -> list[Row]:
    """The rows in the journal that are of the session's settings, oldest first."""
    return [row for data in journal.rows(header.key) if (row := _read(session, data)) is not None]


def _read(session: Session[Point, Row], data: dict[str, Any]) -> Row | None:
    try:
        return session.read(data)
    except (KeyError, TypeError, ValueError, NirvanaError):
        return None  # of another version or recipe; it stays in the file


def measured(session: Session[Point, Row], point: Point, progress: ProgressCallback | None) -> Row:
    """The row of a point; that of a failure, also by lack of memory, where it cannot be measured.

    Raises:
        Cancelled: `progress` asked for it.
    """
    try:
        return session.measure(point, progress)
    except Cancelled:
        raise
    except NirvanaError as error:
        return session.failed(point, f"{error.message} {error.hint}".strip())
    except Exception as error:
        if not out_of_memory.is_out_of_memory(error):
            raise
        session.release()  # the next point may need less memory
        return session.failed(point, f"{out_of_memory.MESSAGE} {out_of_memory.HINT}")
