"""Progress of `generate`: one report for each new token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria

from nirvana.progress import ProgressCallback, report

STAGE = "Continuing"


class Reporting(StoppingCriteria):
    """Reports each new token with the text so far; the callback stops the text by raising `Cancelled`."""

    def __init__(
        self,
        progress: ProgressCallback | None,
        prompt: int,
        total: int,
        text: Callable[[torch.Tensor], str] = lambda ids: "",
    ) -> None:
        self.progress, self.prompt, self.total, self.text = progress, prompt, total, text

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self.progress is not None:
            done = input_ids.shape[1] - self.prompt
            report(self.progress, STAGE, done, self.total, self.text(input_ids[0, self.prompt :]))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
