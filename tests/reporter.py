"""Tasks without a worker."""

from __future__ import annotations

from nirvana.progress import Progress


class Reporter:
    """What a task reports to, without a worker."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def step(self, step: str, number: int, steps: int) -> None: ...

    def row(self, row: object) -> None: ...

    def progress(self, progress: Progress) -> None:
        self.seen.append(progress)
