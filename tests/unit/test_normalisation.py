"""Normalisation of scores before the shared ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nirvana as nv
from nirvana.allocation.normalisation import normalised
from nirvana.allocation.rules import balance
from nirvana.errors import PlanError
from nirvana.saliency.scores import Saliency
from tests import allocation_oracle as oracle
from tests.seeds import over_seeds
from tests.unit.test_allocation import naive_plan
from tests.unit.test_published_allocation import case


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


def kept(plan: nv.PruningPlan) -> dict[str, list[int]]:
    return {site.key: units.tolist() for site, units in plan.items()}


@over_seeds(40)
@pytest.mark.parametrize("power", [0.0, 0.4, 1.0])
def test_a_normalised_plan_is_the_slow_one(seed: int, power: float) -> None:
    saliency, sparsity, multiple, protected = case(seed)
    saliency = Saliency(
        {site: values * np.float32(3.0**site.layer) for site, values in saliency.items()}, saliency.layout, "random"
    )
    choice: dict[str, Any] = {"sparsity": sparsity, "gamma": 2.0, "multiple_of": multiple, "protected": protected}
    expected = naive_plan(oracle.normalised(saliency, power), sparsity, 2.0, multiple, protected)
    if expected is None:
        with pytest.raises(PlanError, match="out of reach"):
            nv.allocate(saliency, **choice, normalisation=power)
        return
    plan = nv.allocate(saliency, **choice, normalisation=power)
    assert {site: units.tolist() for site, units in plan.items()} == expected
    if power == 0:
        assert plan.to_json() == nv.allocate(saliency, **choice).to_json() and "normalisation" not in plan.to_json()


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
    assert kept(found) == kept(expected) != kept(as_is)
    assert found.normalisation == 1.0 and balance(found) == "gamma 3.36, normalisation 1"
    assert nv.PruningPlan.from_json(found.to_json()).normalisation == 1.0
    mlps = [len(kept) for site, kept in found.items() if site.module == "mlp"]
    low = [len(kept) for site, kept in as_is.items() if site.module == "mlp"]
    assert max(mlps) - min(mlps) < max(low) - min(low), "as they are, the layer of small scores loses most"


def test_what_is_refused(tiny_lm: nv.LM) -> None:
    saliency = scores(tiny_lm)
    with pytest.raises(nv.NirvanaError, match="between 0 and 1"):
        nv.allocate(saliency, sparsity=0.2, normalisation=1.5)
    with pytest.raises(nv.NirvanaError, match="does not normalise"):
        nv.allocate(saliency, sparsity=0.2, normalisation=0.5, method="published")
