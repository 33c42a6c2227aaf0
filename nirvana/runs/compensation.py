"""Compensation of a recipe's pruned model: its statistics, cached in memory and on disk, and its record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.sampling import sample_calibration
from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation.statistics import (
    Statistics,
    check_memory,
    collect_statistics,
    input_widths,
    statistics_bytes,
)
from nirvana.errors import RunError
from nirvana.models.limits import available_memory
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback
from nirvana.runs.model_cache import cache_fields
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import PruneSummary
from nirvana.runs.step_cache import Origin, cache_key, through_cache

FILE_BYTES = 512 << 20  # of statistics in a file; larger ones are not cached
MEMORY_SHARE = 0.25  # of the free memory that statistics may take between prunings


class StatisticsCache:
    """Statistics by model and windows, on disk and, if `holds` is set, the last ones in memory."""

    def __init__(self) -> None:
        self.holds = False
        self.clear()

    def clear(self) -> None:
        """Release the memory of the last statistics."""
        self._key = ""
        self._last: Statistics | None = None

    def collect(
        self, lm: LM, windows: CalibrationSet, *, second: bool, progress: ProgressCallback | None
    ) -> tuple[Statistics, Origin]:
        """`collect_statistics(lm, windows, second_moments=second)`, through memory and disk."""
        key = cache_key("statistics", windows=windows.hash, second=second, **cache_fields(lm))
        if self._last is not None and self._key == key:
            return self._last, {"cached": True, "seconds": self._last.seconds}
        self.clear()  # release the last ones before others are in memory
        statistics, origin = through_cache(
            key,
            Statistics.from_bytes,
            Statistics.to_bytes,
            lambda: collect_statistics(lm, windows, second_moments=second, progress=progress),
            keep=not second or statistics_bytes(input_widths(lm).values()) // 2 <= FILE_BYTES,
            progress=progress,
        )
        if self.holds and statistics.size <= MEMORY_SHARE * available_memory("cpu"):
            self._key, self._last = key, statistics
        return statistics, origin


def statistics_windows(recipe: Recipe, lm: LM, corpus: Corpus) -> CalibrationSet:
    """Draw the recipe's windows for statistics from `corpus`.

    Raises:
        CorpusError: the text is too short for them.
    """
    choice = recipe.prune
    drawn: dict[str, Any] = {"samples": choice.samples, "length": choice.length, "seed": choice.seed}
    return sample_calibration(lm, corpus, task=recipe.calibration.task, **drawn)


def check_statistics(recipe: Recipe, lm: LM, corpora: Iterable[Corpus]) -> None:
    """Check before the expensive steps that the statistics can be collected from every text that may be chosen.

    Raises:
        CompensationError: they do not fit in memory.
        CorpusError: a text is too short for their windows.
    """
    if recipe.prune.compensation == "least_squares":
        check_memory(lm)
    for corpus in corpora if recipe.prune.compensation != "none" else ():
        statistics_windows(recipe, lm, corpus)


def compensation_record(lm: LM, small: LM, origin: Origin) -> dict[str, Any]:
    """The record of the compensation that `small` adds to `lm`, with the time of its statistics; {} without one."""
    made = small.compensations[len(lm.compensations) :]
    return made[-1] | {"seconds": origin.get("seconds"), "cached": origin.get("cached", False)} if made else {}


def check_compensation(summary: PruneSummary | None, lm: LM, small: LM) -> None:
    """Check that `small`, pruned again, has the compensation of the run's measured model.

    Raises:
        RunError: the recipe or the calibration text has changed since.
    """
    noted, made = (summary.compensation if summary else {}), compensation_record(lm, small, {})
    if any(noted.get(name) != made.get(name) for name in ("method", "regularisation")):
        raise RunError("The pruned model of this run was compensated in another way.", "Prune again.")
    if [each["hash"] for each in noted.get("sets", ())] != [each["hash"] for each in made.get("sets", ())]:
        raise RunError("The calibration text of the compensation has changed.", "Prune again in a new run.")
