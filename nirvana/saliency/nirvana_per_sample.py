"""A variant of NIRVANA's saliency (arXiv 2509.14230): the absolute value is taken per sample, then summed.

    S(W) = sum over samples b of | df_b/dW * W |,  f_b = mean over vocabulary entries v of max over t of logits[b, t, v]

As published, gradients of different samples may cancel before the absolute value is taken. Here they cannot, but
samples are not batched, and the gradients of all prunable weights are reduced for each.
"""

from __future__ import annotations

from nirvana.saliency.first_order import first_order_scores
from nirvana.saliency.nirvana import output_gradient
from nirvana.saliency.request import Request, Scored


def unit_scores(request: Request) -> Scored:
    """Sum over samples and each unit's weights of |W * df_b/dW| / B: the scale of the published scores."""
    return first_order_scores(request, output_gradient, per_sample=True)
