"""Greedy continuations of one prompt by several models, and the probability of each under all of them."""

from __future__ import annotations

from collections.abc import Mapping

from nirvana.evaluation.continuation import ContinuedText, continue_prompt, token_probabilities
from nirvana.models.lm import LM
from nirvana.progress import Progress, ProgressCallback, within
from nirvana.runs.results import Continuation, ScoredText


def continue_with(
    models: Mapping[str, LM],
    prompt: str,
    *,
    chat: bool = False,
    max_new_tokens: int = 64,
    progress: ProgressCallback | None = None,
) -> Continuation:
    """Greedy continuations by each model, with the probability of each token under all of them.

    Args:
        models: by subject, "dense" first.
        progress: called after each token, with the texts so far as `text`; may raise `Cancelled`.

    Raises:
        CorpusError, ModelError: see `nirvana.evaluation.continuation.continue_prompt`.
    """
    written: dict[str, ContinuedText] = {}
    for part, (subject, lm) in enumerate(models.items()):
        before = "".join(f"{name.capitalize()}: {text.text}\n\n" for name, text in written.items())
        title = subject.capitalize()
        nested = within(_titled(progress, f"{before}{title}: "), title, part, len(models))
        written[subject] = continue_prompt(lm, prompt, chat=chat, max_new_tokens=max_new_tokens, progress=nested)
    scored = {
        subject: ScoredText(text.pieces, {judge: token_probabilities(lm, text) for judge, lm in models.items()})
        for subject, text in written.items()
    }
    return Continuation(prompt, chat, max_new_tokens, {name: text.text for name, text in written.items()}, scored)


def _titled(progress: ProgressCallback | None, before: str) -> ProgressCallback | None:
    """A callback that prepends `before` to the text of each report."""
    if progress is None:
        return None

    def titled(inner: Progress) -> None:
        progress(inner._replace(text=before + inner.text))

    return titled
