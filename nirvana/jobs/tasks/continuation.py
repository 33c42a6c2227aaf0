"""The task "continue": each model of a run continues one prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.errors import RunError
from nirvana.jobs.task import Task, require_pruned
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.schema import Schema, option

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache

PROMPT_LENGTH = 8_000  # characters


class ContinueRequest(Schema):
    """The prompt, and the length of its continuations."""

    prompt: str = option("", "", "text to continue")
    chat: bool = option(False, "", "apply the model's chat template to the prompt")
    max_new_tokens: int = option(64, "", "limit of new tokens", ge=1, le=512)


class Continue(Task[ContinueRequest]):
    """Continue the prompt with each model, and attach the texts to the run."""

    name = "continue"
    title = "Continuing the prompt"
    request = ContinueRequest

    def check(self, run: Run, request: ContinueRequest) -> None:
        require_pruned(run)
        if not request.prompt.strip() or len(request.prompt) > PROMPT_LENGTH:
            raise RunError(f"A prompt has 1 to {PROMPT_LENGTH:,} characters.", "Write a prompt.")

    def perform(self, run: Run, request: ContinueRequest, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        from nirvana.runs.continuation import continue_with
        from nirvana.runs.workspace import Workspace

        reporter.step("continue", 1, 1)
        subjects = Workspace.of(run, models=models, progress=reporter.progress).subjects()
        continuation = continue_with(subjects, **vars(request), progress=reporter.progress)
        run.add_continuation(continuation)
        return continuation.to_json()
