"""Normalisation of scores before the shared ranking."""

from __future__ import annotations

import numpy as np
import pytest

import nirvana as nv
from nirvana.allocation import normalised
from nirvana.saliency.scores import Saliency


def scores(lm: nv.LM) -> Saliency:
    generator = np.random.default_rng(0)
    values = {
        site: (generator.random(place.units) * 10.0**site.layer).astype(np.float32) for site, place in lm.layout.items()
    }
    return Saliency(values, lm.layout, "taylor")


def test_one_brings_every_site_to_the_same_mean(tiny_lm: nv.LM) -> None:
    saliency = scores(tiny_lm)
    for power in (0.5, 1.0):
        for site, values in normalised(saliency, power).items():
            mean = saliency[site].mean(dtype=np.float64)
            np.testing.assert_allclose(values, saliency[site] / mean**power, rtol=1e-6)
    assert normalised(saliency, 0) is saliency


def test_zeros_stay(tiny_lm: nv.LM) -> None:
    saliency = scores(tiny_lm)
    site = next(iter(saliency))
    saliency.scores[site][:] = 0
    assert (normalised(saliency, 1)[site] == 0).all()


def test_plans_are_those_of_scores_divided_by_hand(tiny_lm: nv.LM) -> None:
    saliency = scores(tiny_lm)
    divided = {site: (values / values.mean(dtype=np.float64)).astype(np.float32) for site, values in saliency.items()}
    expected = nv.allocate(Saliency(divided, saliency.layout, "taylor"), sparsity=0.3)
    found = nv.allocate(saliency, sparsity=0.3, normalisation=1.0)
    as_is = nv.allocate(saliency, sparsity=0.3)
    assert found.to_json() == expected.to_json() != as_is.to_json()
    mlps = [len(kept) for site, kept in found.items() if site.module == "mlp"]
    low = [len(kept) for site, kept in as_is.items() if site.module == "mlp"]
    assert max(mlps) - min(mlps) < max(low) - min(low), "as they are, the layer of small scores loses most"


def test_what_is_refused(tiny_lm: nv.LM) -> None:
    saliency = scores(tiny_lm)
    with pytest.raises(nv.NirvanaError, match="between 0 and 1"):
        nv.allocate(saliency, sparsity=0.2, normalisation=1.5)
    with pytest.raises(nv.NirvanaError, match="does not normalise"):
        nv.allocate(saliency, sparsity=0.2, normalisation=0.5, method="published")
