"""`recover`: train a pruned model on text until a budget is spent, and keep its best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.errors import NirvanaError, RecoveryError
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report
from nirvana.recovery.checks import HeldOut
from nirvana.recovery.history import Check, RecoveryHistory, Step
from nirvana.recovery.options import RecoveryOptions
from nirvana.recovery.saved import SavedState
from nirvana.recovery.trainer import Trainer
from nirvana.recovery.weights import recovered_from

STAGE = "Recovering"
EXPLODED = 5.0  # times the first loss, and at least this many nats more


def recover(
    small: LM,
    text: Corpus,
    *,
    teacher: LM | None = None,
    options: RecoveryOptions | None = None,
    held_out: Mapping[str, Corpus] | None = None,
    state: str | Path | None = None,
    adapter: str | Path | None = None,
    on_step: Callable[[RecoveryHistory], None] | None = None,
    progress: ProgressCallback | None = None,
    **values: Any,
) -> LM:
    """A new LM with the weights of `small` after training on `text`; its `.history` has the course of it.

    `small` is untouched. AdamW, warm-up, then a cosine or a line down to 0 over the budget; gradients are accumulated
    over micro-batches and clipped. Windows are drawn from the calibration split with the seed, for an encoder-decoder
    as its task; a file of instructions is read record by record, with the loss on the answers. Before the first step
    and at intervals perplexity and KL are measured on held-out text, and the weights of the best measurement are
    returned. A loss that is not a number, or that explodes, ends training with those weights.

    Args:
        text: a corpus, of which the calibration split is trained on.
        teacher: the dense model, which "distill" needs; with the others, KL is measured against it.
        options: objective, budget and optimiser; `values` are fields of it, e.g. method="lora", minutes=20.
        held_out: texts of which the evaluation split is measured; by default that of `text` and one of another kind.
        state: folder that an interrupted recovery is saved in, at each measurement and when it is cancelled. With the
            same arguments it continues there; on a CPU without a time budget the result is the same, bit for bit.
        adapter: folder for the trained adapters alone, as peft reads them for `small`.
        on_step: called after each step and measurement with the history so far.
        progress: called after each micro-batch; may raise `Cancelled`.

    Raises:
        RecoveryError: there is no budget or teacher, the teacher has another vocabulary, `state` is of another
            recovery, or no instruction has room for its answer.
        CorpusError: a text is too short for the windows.
        ModelError: the weights are not in memory.
    """
    chosen = (options or RecoveryOptions()).with_values(**values)
    chosen.check()
    if chosen.method == "distill" and teacher is None:
        raise RecoveryError("Distillation needs the dense model.", "Give teacher=, or use the method lora or full.")
    if adapter is not None and not chosen.adapter_rank:
        raise RecoveryError("All weights are trained, so there is no adapter to save.", "Give a rank, e.g. rank=8.")
    if (
        teacher is not None
        and teacher.family.geometry(teacher.settings)["vocabulary"]
        != (small.family.geometry(small.settings)["vocabulary"])
    ):
        raise RecoveryError("The two models have different vocabularies.", "Take the model that it was pruned from.")
    small.weights()
    texts = dict(held_out) if held_out is not None else usual_texts(text)
    measure = HeldOut(texts, teacher, chosen)
    trainer = Trainer(small, text, teacher, chosen)
    protocol = {
        "options": chosen.to_json(),
        "learning_rate": chosen.peak_rate(small.family.geometry(small.settings)["hidden"]),
        "best_by": "kl" if chosen.method == "distill" else "perplexity",
        "text": text.name,
        "text_hash": text.hash,
        "model": small.hash,
        "teacher": teacher.hash if teacher else "",
        "held_out": {name: corpus.hash for name, corpus in texts.items()},
        **measure.protocol,
    }
    saved = SavedState(Path(state) if state is not None else None, protocol)
    history = saved.restore(trainer) or RecoveryHistory(protocol)
    run = _Run(trainer, measure, history, saved, chosen, on_step, progress)
    run.train()
    if adapter is not None:
        trainer.save_adapter(Path(adapter))
    model = trainer.finish()
    return recovered_from(small, model, history)


class _Run:
    """The training loop around a `Trainer`."""

    def __init__(
        self,
        trainer: Trainer,
        measure: HeldOut,
        history: RecoveryHistory,
        saved: SavedState,
        options: RecoveryOptions,
        on_step: Callable[[RecoveryHistory], None] | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.trainer, self.measure, self.history, self.saved, self.options = trainer, measure, history, saved, options
        self._on_step, self._progress = on_step, progress
        last = history.checks[-1] if history.checks else None
        spent = max([*(each.seconds for each in history.steps[-1:]), last.seconds if last else 0.0], default=0.0)
        self._started = time.monotonic() - spent

    @property
    def seconds(self) -> float:
        """Since the start, without the time between interruption and continuation."""
        return time.monotonic() - self._started

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent: the largest one of minutes, tokens and epochs."""
        shares = [0.0]
        if self.options.minutes:
            shares.append(self.seconds / 60 / self.options.minutes)
        if self.options.tokens:
            shares.append(self.trainer.tokens / self.options.tokens)
        if self.options.epochs:
            shares.append(self.trainer.epochs / self.options.epochs)
        return max(shares)

    def train(self) -> None:
        """Train until the budget is spent, the loss explodes, or the callback raises."""
        history, trainer = self.history, self.trainer
        trainer.choose_precision()
        if not history.checks:
            self._check()
        next_check = (len(history.checks)) / self.options.checks
        try:
            while (fraction := self.fraction) < 1:
                step = trainer.step(self._rate(fraction), self._report)
                failure = self._failure(step.loss, step.gradient_norm)
                if failure:
                    history.stopped = failure
                    break
                trainer.update()
                self._keep(replace(step, seconds=self.seconds))
                if self.fraction >= next_check:
                    self._check()
                    next_check = len(history.checks) / self.options.checks
        except NirvanaError:
            self.saved.write(trainer, history)
            raise
        if history.checks[-1].step != trainer.steps and not history.stopped:
            self._check()
        self.saved.clear()

    def _rate(self, fraction: float) -> float:
        warm = min(1.0, (self.trainer.steps + 1) / self.options.warmup) if self.options.warmup else 1.0
        spent = min(fraction, 1.0)
        decay = 1 - spent if self.options.decay == "linear" else 0.5 * (1 + math.cos(math.pi * spent))
        return float(self.history.protocol["learning_rate"]) * warm * decay

    def _failure(self, loss: float, norm: float) -> str:
        kept = f"The weights of step {self.history.best.step} are kept."
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"The loss of step {self.trainer.steps + 1} is not a number. {kept}"
        first = self.history.steps[0].loss if self.history.steps else loss
        if loss > max(EXPLODED * first, first + EXPLODED):
            return f"The loss rose from {first:.3g} to {loss:.3g} at step {self.trainer.steps + 1}. {kept}"
        return ""

    def _check(self) -> None:
        with self.trainer.autocast():
            perplexity, kl = self.measure(self.trainer.evaluated())
        if not all(map(math.isfinite, perplexity.values())):
            raise RecoveryError("The model's perplexity is not a number.", "Check its weights.")
        self.history.dense = dict(self.measure.dense)
        check = Check(self.trainer.steps, self.trainer.tokens, self.seconds, perplexity, kl)
        self._keep(check)
        if self.history.best is check:
            self.trainer.keep_best()
        self.saved.write(self.trainer, self.history)

    def _keep(self, event: Step | Check) -> None:
        if isinstance(event, Step):
            self.history.steps.append(event)
        else:
            self.history.checks.append(event)
        if self._on_step is not None:
            self._on_step(self.history)

    def _report(self) -> None:
        report(self._progress, STAGE, round(min(self.fraction, 1.0) * 1000), 1000)


def usual_texts(text: Corpus) -> dict[str, Corpus]:
    """The text itself, and a built-in one that it does not hold, if any."""
    held, found = {text.hash, *(part.hash for part in text.parts)}, {text.name: text}
    others = (load_corpus(name) for name in ("library-docs", "python-docs", "stdlib-code"))
    other = next((corpus for corpus in others if corpus.hash not in held), None)
    return found if other is None else found | {other.name: other}
