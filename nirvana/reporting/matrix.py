"""The calibration matrix in words, as code, and its expected duration. Imports neither streamlit nor torch."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from nirvana.options import words
from nirvana.reporting.estimates import Pace, forward_seconds, total_seconds
from nirvana.reporting.text import plus_minus
from nirvana.runs.describe import model_name, percent, setting, short_text
from nirvana.runs.options import option_words
from nirvana.runs.recipe import Recipe
from nirvana.studies.matrix import MatrixRequest
from nirvana.studies.matrix_rows import CalibrationMatrix, Estimate, Transfer, used

CLEAR = 2.0  # standard errors from which a difference is significant
LITTLE, SMALL = 0.1, 0.01  # of the cost of pruning; of the perplexity
MIXTURE = "uniform mixture of all"
Label = Callable[[str], str]


def row_label(matrix: CalibrationMatrix, name: str, label: Label = short_text) -> str:
    """Label of a calibration text."""
    return label(name) if name in matrix.texts else MIXTURE


def in_words(matrix: CalibrationMatrix, label: Label = short_text) -> str:
    """Loss off the diagonal, and the paper's claim on this model."""
    found = matrix.transfer()
    if found is None:
        return "This needs the rows of two texts."
    name, text, most = found.worst
    sentences = [
        f"Calibrated on another text, the pruned model's perplexity is {_higher(found.off)} than calibrated on "
        f"the evaluated text. {_verdict(found)}",
        f"The largest difference: calibrated on {label(name)} and evaluated on {label(text)}, {_higher(most)}.",
    ]
    if found.mixed is not None:
        sentences.append(f"Calibrated on {MIXTURE}, it is {_higher(found.mixed)}.")
    if len({row.seed for row in matrix.rows}) == 1:
        sentences.append("± is over windows; with one set of each text, it excludes calibration-sampling variance.")
    return " ".join(sentences)


def _verdict(found: Transfer) -> str:
    off, own = found.off, found.own.value
    if math.isnan(off.error):
        return "With one window a text, the significance is unknown."
    cost = f"pruning itself costs {100 * math.expm1(own):.3g} %"
    little, most = max(LITTLE * max(own, 0), SMALL), off.value + CLEAR * off.error
    if off.value <= CLEAR * off.error:
        if most < little:
            return "That is not significant: the choice transfers to other text, as the paper claims."
        return (
            f"That is not significant, but with so few windows it could be as much as {100 * math.expm1(most):.2g} "
            f"%, where {cost}: too little data to decide whether the choice transfers. Read more of each text."
        )
    if off.value < little:
        return f"That is significant but small, where {cost}: the choice transfers, as the paper claims."
    return f"That is significant, where {cost}: on this model the calibration text matters."


def _higher(loss: Estimate) -> str:
    """A difference of losses as one of perplexities, e.g. "4.1 ± 0.6 % higher"."""
    value = 100 * math.expm1(loss.value)
    words = plus_minus(abs(value), 100 * math.exp(loss.value) * loss.error)
    return f"{words} % {'higher' if value >= 0 else 'lower'}"


def is_current(matrix: CalibrationMatrix, recipe: Recipe, request: MatrixRequest) -> bool:
    """Whether a matrix is of these choices, complete or to be continued."""
    return matrix.protocol.get("recipe") == used(recipe) and list(matrix.texts) == list(request.corpora)


def rows_to_do(matrix: CalibrationMatrix | None, recipe: Recipe, request: MatrixRequest) -> int:
    """Number of missing rows."""
    wanted = (len(request.corpora) + request.mixture) * request.seeds
    if matrix is None or not is_current(matrix, recipe, request):
        return int(wanted)
    seeds = range(recipe.calibration.seed, recipe.calibration.seed + request.seeds)
    done = [row for row in matrix.rows if row.seed in seeds]
    return int(wanted - sum(row.calibration in matrix.texts or request.mixture for row in done))


def matrix_seconds(
    matrix: CalibrationMatrix | None, recipe: Recipe, request: MatrixRequest, pace: Pace
) -> float | None:
    """Seconds of the missing rows, estimated from finished rows, or else at the model's pace; None without either."""
    rows, columns = rows_to_do(matrix, recipe, request), len(request.corpora)
    spent = (
        [row.seconds for row in matrix.rows if row.seconds] if matrix and is_current(matrix, recipe, request) else []
    )
    if spent:
        return rows * sum(spent) / len(spent)
    choice = recipe.calibration
    read = (rows + 1) * columns * (recipe.evaluation.max_tokens + choice.probe_samples * choice.probe_length)
    made, measured = total_seconds(("saliency", "prune"), recipe, pace), forward_seconds(read, pace)
    return None if made is None or measured is None else rows * made + measured


def python_code(recipe: Recipe, request: MatrixRequest) -> str:
    """A script that computes the matrix."""
    choices = Recipe.from_json(used(recipe))
    lines = ["import nirvana as nv", "", "base = nv.Recipe()"]
    for section, changed in choices.changed().items():
        if section != "model":
            lines.append(
                f"base = base.change({section!r}, {', '.join(f'{n}={_literal(v)}' for n, v in changed.items())})"
            )
    model = recipe.model
    placement = "".join(f", {name}={value!r}" for name, value in model.to_json().items() if name != "name")
    lines.append(f"lm = nv.load_model({model.name!r}{placement})")
    lines.append("matrix = nv.calibration_matrix(")
    lines.append("    lm,")
    lines.append(f"    {list(request.corpora)!r},")
    lines.append(f"    mixture={request.mixture}, seeds={request.seeds}, base=base,")
    lines += [")", "print(matrix.transfer())", "for row in matrix.calibrations:"]
    lines.append("    print(row, [matrix.ratio(row, text) for text in matrix.texts])")
    return "\n".join(lines) + "\n"


def command_line(recipe: Recipe, request: MatrixRequest) -> str:
    """The equivalent shell command."""
    line = ["nirvana", "matrix", *words(request)]
    return shlex.join([*line, *option_words(Recipe.from_json(used(recipe)), ("--model", "--sparsity"))])


def _literal(value: Any) -> str:
    return 'float("inf")' if value == "inf" else repr(tuple(value) if isinstance(value, list) else value)


def describe(protocol: dict[str, Any], seeds: Sequence[int]) -> str:
    """The protocol of a matrix, e.g. "nirvana at 20 %, gamma 3.36; 32 x 128 tokens a set, seed 0; ..."."""
    recipe = Recipe.from_json(protocol["recipe"])
    choice = recipe.calibration
    how = ", ".join([f"{recipe.saliency.criterion} at {percent(recipe.allocation.sparsity)}", *setting(recipe)])
    drawn = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}, averaged"
    note = f" ({protocol['note']})" if protocol.get("note") else ""
    return (
        f"{model_name(recipe)}{note}; {how}; "
        f"{choice.samples} x {choice.length} tokens a set, {drawn}; KL on {choice.probe_samples} x "
        f"{choice.probe_length} probe tokens of each text, perplexity on up to {recipe.evaluation.max_tokens:,} in "
        f"windows of {recipe.evaluation.window}."
    )
