"""A recovery in words and numbers."""

from __future__ import annotations

from typing import Any

from nirvana.recovery.history import RecoveryHistory
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import duration
from nirvana.runs.describe import RECOVERIES, short_text

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
