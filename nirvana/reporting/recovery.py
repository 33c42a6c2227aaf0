"""A recovery in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nirvana.evaluation.results import Measurement, Report
from nirvana.evaluation.zero_shot.results import ACCURACIES, comparisons
from nirvana.evaluation.zero_shot.tasks import MINIMAL_PAIRS, task_title
from nirvana.recovery.history import RecoveryHistory
from nirvana.reporting.aligned import align
from nirvana.reporting.contests import difference
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import duration, plus_minus
from nirvana.runs.describe import RECOVERIES, short_text

SHOWN = 3  # texts, and tasks, of a verdict
RECENT = 20  # steps that the present pace and loss are means of


def protocol_words(history: RecoveryHistory, place: str = "") -> str:
    """Method, text and held-out measurement, e.g. "Distillation, all weights, 1,200 steps on 307,200 tokens ...".

    Args:
        place: device and number format.
    """
    protocol, options = history.protocol, history.protocol.get("options") or {}
    last = history.steps[-1] if history.steps else None
    method = str(options.get("method"))
    words = [RECOVERIES.get(method, method).capitalize(), trained(options)]
    text = short_text(str(protocol.get("text") or "")) or "text without a name"
    words.append(f"{last.tokens:,} tokens of {text} in {duration(last.seconds)}" if last else f"on {text}")
    words += [f"peak learning rate {protocol['learning_rate']:.2g}"] if "learning_rate" in protocol else []
    sentences = [", ".join(words)]
    if protocol.get("windows"):
        texts = ", ".join(map(short_text, protocol.get("held_out") or {}))
        sentences.append(
            f"Held out: {count(protocol['windows'], 'window')} of {protocol['window']:,} tokens of the "
            f"{protocol['split']} split of each of {texts}; the kept weights have the lowest mean "
            f"{'KL' if protocol.get('best_by') == 'kl' else 'log perplexity'}"
        )
    return ". ".join([*sentences, *([place] if place else [])]) + "."


def trained(options: dict[str, Any]) -> str:
    """The weights that are trained, e.g. "adapters of rank 8", "all weights"."""
    rank = options.get("rank") or (8 if options.get("method") == "lora" else 0)
    return f"adapters of rank {rank}" if rank else "all weights"


def recent_loss(history: RecoveryHistory) -> float:
    """Mean loss of the last steps, in nats."""
    part = history.steps[-RECENT:]
    return sum(step.loss for step in part) / len(part)


def tokens_a_second(history: RecoveryHistory) -> float | None:
    """Pace of the last steps, with the checks between them; None before there are two."""
    part = history.steps[-RECENT:]
    spent = part[-1].seconds - part[0].seconds if len(part) > 1 else 0.0
    return (part[-1].tokens - part[0].tokens) / spent if spent > 0 else None


def seconds_spent(history: RecoveryHistory) -> float:
    """Seconds of training and measuring so far."""
    last = [step.seconds for step in history.steps[-1:]] + [check.seconds for check in history.checks[-1:]]
    return max(last, default=0.0)


def overfitting(history: RecoveryHistory) -> str:
    """A sentence where a text got worse again while another is at its best, else empty."""
    names = ", ".join(map(short_text, history.overfitted))
    if not names:
        return ""
    return (
        f"Perplexity on {names} rises again, while it falls on other text. The weights of step {history.best.step:,} "
        "are kept. Train for a shorter time, on more varied text, or at a lower learning rate."
    )


class Change(NamedTuple):
    """One metric before and after recovery; `side` is 1 where it is clearly better, -1 where it is clearly worse."""

    metric: str
    text: str  # or the task
    before: Measurement
    after: Measurement
    side: int


class Verdict(NamedTuple):
    """The effect of recovery: a sentence, and one for each metric that is clearly worse after it.

    `clear`: whether anything is clearly better.
    """

    words: str
    worse: tuple[str, ...]
    clear: bool


def changes(report: Report) -> list[Change]:
    """Every metric that was measured before and after recovery, from the paired differences where there are parts."""
    found = []
    for metric in ("perplexity", "KL divergence"):
        for line in align(report, metric):
            found += _change(metric, line.corpus, line.of, lower=True)
    for item in comparisons(report):
        found += _change(item.metric, item.task, item.of, lower=False)
    return found


def verdict(report: Report) -> Verdict | None:
    """The effect of recovery in words; None without a recovered model."""
    found = changes(report)
    if not found:
        return None
    parts = []
    ratios = [line for line in align(report, "perplexity") if line.ratio() > 0 and line.ratio("recovered") > 0]
    for place, line in enumerate(ratios[:SHOWN]):
        before, after = line.ratio(), line.ratio("recovered")
        where = f"x dense on {short_text(line.corpus)}"
        parts.append(f"{'' if place else 'perplexity '}from {before:.3g} to {after:.3g} {where}")
    parts += [
        f"KL from {change.before.value:.3g} to {change.after.value:.3g} nats"
        for change in found
        if change.metric == "KL divergence"
    ]
    tasks = [change for change in found if change.metric in ACCURACIES.values() and not _is_phenomenon(change)]
    parts += [f"{_task(change)} from {change.before.value:.1%} to {change.after.value:.1%}" for change in tasks[:SHOWN]]
    worse = tuple(_worse(change) for change in found if change.side < 0)
    clear = any(change.side > 0 for change in found)
    unclear = "" if clear or worse else " No change is significant."
    return Verdict(f"Recovery took {', '.join(parts)}.{unclear}", worse, clear)


def _change(metric: str, text: str, of: Mapping[str, Measurement], *, lower: bool) -> list[Change]:
    before, after = of.get("pruned"), of.get("recovered")
    if before is None or after is None:
        return []
    gap = difference(after, before)
    side = 0 if gap is None else -gap.side if lower else gap.side
    return [Change(metric, text, before, after, side)]


def _worse(change: Change) -> str:
    before, after = change.before, change.after
    if change.metric in ACCURACIES.values():
        words = _task(change)
        return f"{words[0].upper()}{words[1:]} fell from {before.value:.1%} to {after.value:.1%}."
    sides = [plus_minus(item.value, item.standard_error) for item in (before, after)]
    name = "KL to the dense model" if change.metric == "KL divergence" else "Perplexity"
    return f"{name} on {short_text(change.text)} rose from {sides[0]} to {sides[1]}."


def _is_phenomenon(change: Change) -> bool:
    return change.text.startswith(f"{MINIMAL_PAIRS}/")


def _task(change: Change) -> str:
    return f"{change.metric} on {task_title(change.text)}"
