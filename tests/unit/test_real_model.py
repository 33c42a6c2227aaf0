"""The whole way on the real built-in model: NIRVANA's choice holds at 20 %, magnitude's collapses."""

from __future__ import annotations

import pytest

from nirvana.allocation.allocate import allocate
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.calibration.sampling import sample_calibration
from nirvana.evaluation.perplexity import perplexity
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.saliency.score import score
from nirvana.surgery import prune

pytestmark = pytest.mark.smollm2


def test_nirvana_holds_where_magnitude_collapses(smollm2: LM) -> None:
    text = load_corpus("python-docs")
    calibration = sample_calibration(smollm2, text, samples=8, length=128, seed=0)

    def measure(lm: LM) -> float:
        return perplexity(lm, text, window=256, max_tokens=512).value

    def plan(criterion: str) -> PruningPlan:
        made = allocate(score(smollm2, calibration, criterion=criterion), sparsity=0.2, gamma=3.36)
        assert abs(made.sparsity - 0.2) <= 0.0005
        return made

    dense = measure(smollm2)
    nirvana = measure(prune(smollm2, plan("nirvana")))
    magnitude = measure(prune(smollm2, plan("magnitude")))
    assert 10 < dense < 40
    assert dense < nirvana < 5 * dense
    assert magnitude > 1e5
