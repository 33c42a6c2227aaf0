"""Greedy continuations of one prompt by both models, and the probability of each under both."""

from __future__ import annotations

from nirvana.evaluation.continuation import ContinuedText, continue_prompt, token_probabilities
from nirvana.models.lm import LM
from nirvana.progress import Progress, ProgressCallback, within
from nirvana.runs.results import Continuation, ScoredText

TITLES = ("Dense", "Pruned")


def continue_with_both(
    dense: LM,
    pruned: LM,
    prompt: str,
    *,
    chat: bool = False,
    max_new_tokens: int = 64,
    progress: ProgressCallback | None = None,
) -> Continuation:
    """Greedy continuations by both models, with the probability of each token under both.

    Args:
        progress: called after each token, with both texts so far as `text`; may raise `Cancelled`.

    Raises:
        CorpusError, ModelError: see `nirvana.evaluation.continuation.continue_prompt`.
    """
    written: list[ContinuedText] = []
    for part, (title, lm) in enumerate(zip(TITLES, (dense, pruned), strict=True)):
        before = f"{TITLES[0]}: {written[0].text}\n\n" if written else ""
        nested = within(_titled(progress, f"{before}{title}: "), title, part, 2)
        written.append(continue_prompt(lm, prompt, chat=chat, max_new_tokens=max_new_tokens, progress=nested))
    scored = {
        subject: ScoredText(text.pieces, token_probabilities(dense, text), token_probabilities(pruned, text))
        for subject, text in zip(("dense", "pruned"), written, strict=True)
    }
    return Continuation(prompt, chat, max_new_tokens, written[0].text, written[1].text, scored)


def _titled(progress: ProgressCallback | None, before: str) -> ProgressCallback | None:
    """A callback that prepends `before` to the text of each report."""
    if progress is None:
        return None

    def titled(inner: Progress) -> None:
        progress(inner._replace(text=before + inner.text))

    return titled
