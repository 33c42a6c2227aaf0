"""What a site's output projection reads while the model reads a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nirvana.evaluation.chunks import BATCH_TOKENS, BATCH_TOKENS_ACCELERATOR
from nirvana.layout import Site
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report
from nirvana.saliency.request import Tokens, read_tokens
from nirvana.surgery import layer_places, linear_layer, output_part

if TYPE_CHECKING:
    from nirvana.calibration.sets import CalibrationSelection, CalibrationSet

Visit = Callable[[Site, torch.Tensor], None]


def visit_inputs(
    lm: LM,
    calibration: Iterable[CalibrationSet | CalibrationSelection],
    visit: Visit,
    *,
    stage: str,
    progress: ProgressCallback | None = None,
) -> None:
    """Run `lm` over calibration sets and call `visit(site, inputs)` for each site and batch.

    `inputs` are what the site's output projection (o_proj, down_proj, T5's o and wo) reads at the tokens that count,
    float32 (n, d) with d = units times columns a unit; padding is left out.

    Args:
        stage: what progress reports call it.
        progress: called after each site of each batch; may raise `Cancelled`.

    Raises:
        SaliencyError: a calibration set does not suit the model.
        ModelError: the weights are not in memory.
    """
    sets = [read_tokens(lm, each) for each in calibration]
    batches = [(tokens, rows) for tokens in sets for rows in _rows(lm, tokens)]
    seen = _Seen(lm, visit, stage, progress, total=len(batches) * len(lm.layout))
    places, blocks = layer_places(lm.layout), lm.family.blocks(lm.weights())
    handles: list[Any] = []
    try:
        for site in lm.layout:
            block = blocks[site.stack][places[site.stack, site.layer]]
            linear = linear_layer(block, output_part(lm, site))
            handles.append(linear.register_forward_pre_hook(seen.hook(site)))
        with torch.inference_mode():
            for tokens, rows in batches:
                seen.read(tokens, rows)
    finally:
        for handle in handles:
            handle.remove()


class _Seen:
    """Passes on the counted inputs of each site, batch after batch."""

    def __init__(self, lm: LM, visit: Visit, stage: str, progress: ProgressCallback | None, total: int) -> None:
        self._lm = lm
        self._visit = visit
        self._stage = stage
        self._progress = progress
        self._total = total
        self._done = 0
        self._counted: dict[str, torch.Tensor | None] = {}  # stack -> (b, T) booleans, or None where all count

    def read(self, tokens: Tokens, rows: slice) -> None:
        lm = self._lm
        ids, mask, decoder_ids, counted = (None if all_ is None else all_[rows].to(lm.device) for all_ in tokens)
        assert ids is not None
        *before, last = lm.layout.stacks
        self._counted = {last: counted} | {stack: None if mask is None else mask.bool() for stack in before}
        self._report()
        lm.family.hidden_states(lm.weights(), ids, mask, decoder_ids)

    def hook(self, site: Site) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            states, counted = inputs[0], self._counted[site.stack]
            chosen = states.flatten(0, -2) if counted is None else states[counted]
            self._visit(site, chosen.float())
            self._done += 1
            self._report()

        return before

    def _report(self) -> None:
        report(self._progress, self._stage, self._done, self._total)


def _rows(lm: LM, tokens: Tokens) -> Sequence[slice]:
    longest = max(tokens.input_ids.shape[1], tokens.outputs.shape[1])
    size = max(1, BATCH_TOKENS.get(lm.device.type, BATCH_TOKENS_ACCELERATOR) // longest)
    return [slice(first, first + size) for first in range(0, len(tokens.input_ids), size)]
