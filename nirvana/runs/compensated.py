"""The pruned model of a recipe: its plan, and the compensation that it asks for, from statistics that are kept."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.sampling import sample_calibration
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.compensation.statistics import Statistics, collect_statistics, input_widths, statistics_bytes
from nirvana.errors import CompensationError, RunError
from nirvana.models.limits import available_memory
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, within
from nirvana.runs.cached import Origin, calibration_text, open_corpus
from nirvana.runs.models import Models, numerics
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import PruneSummary
from nirvana.runs.step_cache import cache_key, read_cached, write_cached

KEPT_BYTES = 512 << 20  # of statistics in a file; larger ones are collected anew
HELD_SHARE = 0.25  # of the free memory that statistics may take which are held for the next pruning


@dataclass
class Held:
    """The statistics that were used last, for who prunes again and again; none where they are too large."""

    key: str = ""
    statistics: Statistics | None = None

    def hold(self, key: str, statistics: Statistics) -> None:
        if statistics.size <= HELD_SHARE * available_memory("cpu"):
            self.key, self.statistics = key, statistics


def draw_statistics_set(recipe: Recipe, lm: LM, corpus: Corpus) -> CalibrationSet:
    """The windows that the recipe's statistics are collected from.

    Raises:
        CorpusError: the text is too short for them.
    """
    choice = recipe.prune
    drawn: dict[str, Any] = {"samples": choice.samples, "length": choice.length, "seed": choice.seed}
    return sample_calibration(lm, corpus, task=recipe.calibration.task, **drawn)


def pruned_model(
    recipe: Recipe,
    models: Models,
    lm: LM,
    plan: PruningPlan,
    *,
    corpus: Corpus | None = None,
    chosen: CalibrationSelection | CalibrationSet | None = None,
    held: Held | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[LM, Origin]:
    """`lm` pruned by `plan` with the recipe's compensation, and where its statistics came from; empty without any.

    Args:
        corpus: the calibration text, where it is open already.
        chosen: the calibration set, which tells the text where the recipe has KL choose among several.
        held: keeps the statistics for the next call.

    Raises:
        NirvanaError: see `nirvana.prune`, `collect_statistics` and `sample_calibration`.
    """
    method = recipe.prune.compensation
    if method == "none":
        return models.pruned(lm, plan, progress=progress), {}
    text = corpus or calibration_text(recipe.calibration, chosen, lambda name: open_corpus(name, lm, progress))
    windows = draw_statistics_set(recipe, lm, text)
    origin: Origin = {}

    def statistics() -> Statistics:
        reading = within(progress, "Statistics", 0, 2)
        found, how = _collect(windows, lm, reading, second=method == "least_squares", held=held or Held())
        origin.update(how)
        return found

    small = models.pruned(
        lm,
        plan,
        compensation=method,
        statistics=statistics,
        source=[windows.hash, windows.source, windows.seed],
        progress=within(progress, "Pruning", 1, 2),
    )
    return small, origin


def compensation_summary(lm: LM, small: LM, origin: Origin) -> dict[str, Any]:
    """What a run says of its compensation: the record of the model with how the statistics came about; {} without."""
    made = small.compensations[len(lm.compensations) :]
    return made[-1] | {"seconds": origin.get("seconds"), "cached": origin.get("cached", False)} if made else {}


def check_same_compensation(summary: PruneSummary | None, lm: LM, small: LM) -> None:
    """Refuse a model that was made again in another way than the one that a run's numbers are of.

    Raises:
        RunError: the recipe or the calibration text has changed since.
    """
    noted, made = (summary.compensation if summary else {}), compensation_summary(lm, small, {})
    if any(noted.get(name) != made.get(name) for name in ("method", "regularisation")):
        raise RunError("The pruned model of this run was compensated in another way.", "Prune again.")
    if [each["hash"] for each in noted.get("sets", ())] != [each["hash"] for each in made.get("sets", ())]:
        raise RunError("The text that the compensation was computed from has changed.", "Prune again in a new run.")


def check_statistics_fit(recipe: Recipe, lm: LM, corpora: Iterable[Corpus]) -> None:
    """Find out before the expensive steps whether the statistics can be collected, of whichever text is chosen.

    Raises:
        CompensationError: they do not fit in memory.
        CorpusError: the text is too short for their windows.
    """
    from nirvana.compensation.statistics import check_memory

    if recipe.prune.compensation == "least_squares":
        check_memory(lm)
    for corpus in corpora if recipe.prune.compensation != "none" else ():
        draw_statistics_set(recipe, lm, corpus)


def _collect(
    windows: CalibrationSet, lm: LM, progress: ProgressCallback | None, *, second: bool, held: Held
) -> tuple[Statistics, Origin]:
    key = cache_key("statistics", windows=windows.hash, second=second, **numerics(lm))
    if held.statistics is not None and held.key == key:
        return held.statistics, {"cached": True, "seconds": held.statistics.seconds}
    held.key, held.statistics = "", None  # before others take their place in memory
    statistics, origin = _read_or_collect(key, windows, lm, progress, second=second)
    held.hold(key, statistics)
    return statistics, origin


def _read_or_collect(
    key: str, windows: CalibrationSet, lm: LM, progress: ProgressCallback | None, *, second: bool
) -> tuple[Statistics, Origin]:
    found = read_cached(key)
    if found is not None:
        meta, content = found
        try:
            kept = Statistics.from_bytes(content)
            if kept.model_hash == lm.hash:
                return kept, {"cached": True, "seconds": meta.get("seconds")}
        except (ValueError, KeyError, TypeError, CompensationError):
            pass  # damaged, or written by other code than this: collect them again
    start = time.perf_counter()
    statistics = collect_statistics(lm, windows, second_moments=second, progress=progress)
    seconds = time.perf_counter() - start
    if not second or statistics_bytes(input_widths(lm).values()) // 2 <= KEPT_BYTES:
        write_cached(key, statistics.to_bytes(), seconds=seconds)
    return statistics, {"cached": False, "seconds": seconds}
