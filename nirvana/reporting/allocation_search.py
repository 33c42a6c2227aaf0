"""An allocation search in words, as code, and as a recipe. Imports neither streamlit nor torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nirvana.allocation.widths import read_widths, words
from nirvana.layout import Layout
from nirvana.options import words as option_list
from nirvana.reporting import code
from nirvana.reporting.contests import Interval, paired_mean
from nirvana.reporting.figures.names import part_name
from nirvana.reporting.text import count, short
from nirvana.runs.options import option_words
from nirvana.runs.recipe import AllocationChoice, Recipe, RecoveryChoice
from nirvana.studies.allocation_search import SearchRequest
from nirvana.studies.allocation_steps import (
    SearchStep,
    accepted,
    changed_widths,
    start_widths,
)

PRUNED = "small = nv.prune(lm, plan"  # in a script


class Gain(NamedTuple):
    """KL of the best plan minus the start's, in nats, on the probe that chooses and on the held-out one.

    `held_out` is paired by window.
    """

    chosen: float
    held_out: Interval
    start: float
    held_out_start: float


def gain(steps: Sequence[SearchStep]) -> Gain | None:
    """Differences of the best plan so far to the start; None before a plan was accepted after it."""
    kept = accepted(steps)
    if len(kept) < 2:
        return None
    first, best = kept[0], kept[-1]
    held_out = paired_mean(np.array(best.held_out), np.array(first.held_out))
    return Gain(best.kl - first.kl, held_out, first.kl, first.held_out_kl)


def verdict(steps: Sequence[SearchStep]) -> str:
    """Whether the search is worth keeping, in a sentence or two."""
    tried, found = max(len(steps) - 1, 0), gain(steps)
    if found is None:
        return f"No plan of {tried:,} was better than the start." if tried else "The start is not measured yet."
    chosen, apart = found.chosen / found.start, found.held_out
    text = (
        f"In {tried:,} steps KL fell by {-chosen:.1%} on the probe that chooses, and "
        f"{'fell' if apart.value < 0 else 'rose'} by {abs(apart.value) / found.held_out_start:.1%} on held-out text. "
    )
    if apart.side < 0:
        return text + "The best plan is better on held-out text: the 95 % interval excludes zero."
    if apart.side > 0:
        return text + "The best plan is worse on held-out text: the search fits its probe. Keep the start."
    return text + "On held-out text that is within noise: the 95 % interval includes zero."


def moved(settings: Mapping[str, Any], steps: Sequence[SearchStep]) -> str:
    """The number of changed modules, and those that gained and lost the largest share of their units."""
    layout, start = Layout.from_json(settings["layout"]), start_widths(settings)
    changes = {site: width - start[site] for site, width in changed_widths(start, steps).items()}
    if not changes:
        return f"All {len(start)} modules have their widths of the start."
    ordered = sorted(changes, key=lambda site: changes[site] / layout[site].units)
    ends = [(ordered[-1], "more"), (ordered[0], "fewer")]
    words = [
        f"the {part_name(layout, site.stack, site.module)} of layer {site.layer} keeps "
        f"{count(abs(changes[site]), layout[site].kind)} {how}"
        for site, how in ends
    ]
    return f"{len(changes)} of {len(start)} modules have another width; most of all, {' and '.join(words)}."


def searched_choice(
    choice: AllocationChoice, settings: Mapping[str, Any], steps: Sequence[SearchStep]
) -> AllocationChoice:
    """`choice` with the widths of the best plan."""
    layout = Layout.from_json(settings["layout"])
    own = read_widths(choice.widths, layout) | changed_widths(start_widths(settings), steps)
    return choice.with_values(widths=words({site: own[site] for site in layout if site in own}))


def protocol_words(settings: Mapping[str, Any]) -> str:
    """The protocol of a search."""
    probe, how = settings["probe"], settings["compensation"].get("method", "none").replace("_", " ")
    compensated = "without compensation" if how == "none" else f"compensation {how}"
    return (
        f"KL on {probe['samples']} x {probe['length']} probe tokens, and on as many held-out ones of the same texts; "
        f"{compensated}; seed {settings['seed']}; {settings['dtype'].removeprefix('torch.')} on {settings['device']}."
    )


def steps_table(steps: Sequence[SearchStep]) -> Any:
    """A data frame with a row for each successful step."""
    import pandas as pd

    rows = [
        {
            "step": step.number,
            "KL": step.kl,
            "held-out KL": step.held_out_kl,
            "accepted": step.accepted,
            "exchanges": "; ".join(
                f"{each.units} from {each.shrunk.key} to {each.grown.key}" for each in step.exchanges
            ),
            "seconds": step.seconds,
        }
        for step in steps
        if not step.failure
    ]
    return pd.DataFrame(rows)


def python_code(recipe: Recipe, request: SearchRequest) -> str:
    """A script that searches from the recipe's plan and prunes by the best one."""
    lines = code.python_code(recipe.with_values(recovery=RecoveryChoice()), "prune").splitlines()
    place = next(index for index, line in enumerate(lines) if line.startswith(PRUNED))
    how, seed = lines[place].removeprefix(PRUNED).removesuffix(")"), f", seed={request.seed}" if request.seed else ""
    searched = [
        f"found = nv.search_allocation(lm, scores, plan, text, minutes={request.minutes:g}{seed}{how})",
        "print(found.best.kl, found.best.held_out_kl, found.widths)",
        f"small = nv.prune(lm, found.plan{how})",
    ]
    return "\n".join([*lines[:place], *searched, *lines[place + 1 :]]) + "\n"


def command_line(recipe: Recipe, request: SearchRequest) -> str:
    """The equivalent shell command, which writes the recipe with the best plan."""
    line = ["nirvana", "search-allocation", *option_list(request, ("--minutes",))]
    return shlex.join([*line, *option_words(recipe, ("--model", "--sparsity")), "--output", "searched.json"])


def headline(steps: Sequence[SearchStep]) -> list[tuple[str, str, str]]:
    """(label, value, change) of KL on both probes."""
    kept = accepted(steps)
    if not kept:
        return []
    first, best = kept[0], kept[-1]
    pairs = (("KL, choosing probe", first.kl, best.kl), ("KL, held-out probe", first.held_out_kl, best.held_out_kl))
    return [
        (label, f"{short(after)} nats", f"{after / before - 1:+.1%} from the start" if before else "")
        for label, before, after in pairs
    ]
