"""Removal of single units: in place against surgery, and the prediction against numerical differentiation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

import nirvana as nv
from nirvana import cli
from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import Cancelled, CorpusError, PlanError, RunError
from nirvana.evaluation.ablation import draw_units
from nirvana.evaluation.ablation_results import Ablation, Ablations
from nirvana.evaluation.divergence import divergence
from nirvana.jobs.execute import check_task, execute
from nirvana.layout import ATTENTION, CROSS_ATTENTION, KV_GROUP, MLP, NEURON, Layout, Site, SiteLayout
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.models.weights import output_part, unit_rows
from nirvana.plan import PruningPlan
from nirvana.progress import Progress
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from nirvana.saliency.scores import Saliency
from nirvana.surgery import prune
from tests.conftest import english
from tests.families import test_t5 as makers
from tests.oracle import all_logits


@pytest.fixture(scope="module")
def models(make_lm: Callable[..., LM], tmp_path_factory: pytest.TempPathFactory) -> dict[str, LM]:
    folder = tmp_path_factory.mktemp("models") / "t5"
    makers.T5Tests.write(folder)
    biased = make_lm(attention_bias=True, mlp_bias=True, seed=2)
    return {"grouped": make_lm(), "biased": biased, "t5": load_model(folder, device="cpu")}


def inputs_of(lm: LM, samples: int = 3) -> CalibrationSet:
    return nv.sample_probe(lm, "\n\n".join(english(20, seed=4)), samples=samples, length=16)


def output(lm: LM, x: CalibrationSet) -> float:
    """f from all logits of the library's own forward."""
    with torch.no_grad():
        return float(all_logits(lm, x).double().max(dim=1).values.mean())


def assert_equal(one: Ablation, other: Ablation) -> None:
    assert one[:3] == other[:3]
    assert one[3:] == pytest.approx(other[3:], rel=1e-4, abs=1e-7)


def without(lm: LM, site: Site, unit: int) -> LM:
    """The model pruned by surgery of this unit alone."""
    kept = {each: np.arange(place.units) for each, place in lm.layout.items()}
    kept[site] = np.delete(kept[site], unit)
    return prune(lm, PruningPlan(kept, lm.layout, requested=0.1, gamma=1.0))


def slope(lm: LM, x: CalibrationSet, site: Site, unit: int) -> float:
    """df/da at a = 1, where the unit hands on a times its output: autograd by this one number."""
    part, model = output_part(lm, site), lm.weights()
    weight = lm.family.blocks(model)[site.stack][site.layer].get_parameter(f"{part.module}.weight")
    name = next(name for name, parameter in model.named_parameters() if parameter is weight)
    chosen = torch.zeros(weight.shape[1])
    chosen[unit_rows(torch.tensor([unit]), part.size)] = 1
    factor = torch.ones((), requires_grad=True)
    changed = {name: weight.detach() * (1 + (factor - 1) * chosen)}
    inputs = {"input_ids": x.input_ids}
    if x.decoder_input_ids is not None:
        inputs["decoder_input_ids"] = x.decoder_input_ids
    logits = torch.func.functional_call(model, changed, kwargs=inputs).logits
    (found,) = torch.autograd.grad(logits.max(dim=1).values.mean(), factor)
    return float(found)


@pytest.mark.parametrize("name", ["grouped", "biased", "t5"])
def test_each_removal_is_that_of_surgery(models: dict[str, LM], name: str) -> None:
    lm = models[name]
    x, scores = inputs_of(lm), nv.score(lm, None, criterion="magnitude")
    units = [(site, place.units - 1) for site, place in lm.layout.items()]
    found = nv.ablate_units(lm, scores, x, units=reversed(units))
    assert [(item.site, item.unit) for item in found.items] == units
    dense = output(lm, x)
    assert found.protocol["output"] == pytest.approx(dense, rel=1e-6)
    for item in found.items:
        small = without(lm, item.site, item.unit)
        kl = divergence(lm, small, x)
        assert item.kl == pytest.approx(kl.mean, rel=1e-3, abs=1e-7)
        assert item.kl_error == pytest.approx(kl.standard_error, rel=1e-2, abs=1e-7)
        assert item.change == pytest.approx(output(small, x) - dense, abs=2e-6)
        assert item.score == scores[item.site][item.unit] and item.kind == lm.layout[item.site].kind
    assert {item.site.module for item in found.items} >= {ATTENTION, MLP}
    assert name != "t5" or {CROSS_ATTENTION} <= {item.site.module for item in found.items}


@pytest.mark.parametrize("name", ["grouped", "biased", "t5"])
def test_first_order_is_the_derivative_along_the_removal(models: dict[str, LM], name: str) -> None:
    lm = models[name]
    x, scores = inputs_of(lm), nv.score(lm, None, criterion="magnitude")
    units = [(site, unit) for site in lm.layout for unit in (0, 1)]
    for item in nv.ablate_units(lm, scores, x, units=units).items:
        assert item.first_order == pytest.approx(-slope(lm, x, item.site, item.unit), rel=1e-3, abs=1e-6)


def test_the_score_bounds_the_first_order_change(models: dict[str, LM]) -> None:
    """With NIRVANA's scores on the same inputs: the sum of |W * grad| is at least |sum of W * grad|."""
    lm = models["grouped"]
    x = inputs_of(lm)
    found = nv.ablate_units(lm, nv.score(lm, x), x, count=40)
    assert (np.abs(found.values("first_order")) <= found.values("score") * (1 + 1e-4)).all()


def test_one_unit_is_the_base_case(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    x, scores = inputs_of(lm), nv.score(lm, None, criterion="magnitude")
    many = nv.ablate_units(lm, scores, x, count=10, seed=1)
    for item in many.items[::4]:
        assert_equal(nv.ablate_unit(lm, scores, item.site, item.unit, x), item)


def test_the_model_is_as_before_also_after_a_stop(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    x, scores = inputs_of(lm), nv.score(lm, None, criterion="magnitude")
    before = {name: value.clone() for name, value in lm.weights().state_dict().items()}
    logits = output(lm, x)

    def stop(progress: Progress) -> None:
        if "mlp" in progress.stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        nv.ablate_units(lm, scores, x, count=20, progress=stop)
    assert all(torch.equal(value, before[name]) for name, value in lm.weights().state_dict().items())
    assert output(lm, x) == logits and not any(each.requires_grad for each in lm.weights().parameters())


@pytest.mark.parametrize("count", [1, 20])
def test_progress_rises_to_the_end(models: dict[str, LM], count: int) -> None:
    lm, seen = models["grouped"], list[Progress]()
    scores = nv.score(lm, None, criterion="magnitude")
    nv.ablate_units(lm, scores, inputs_of(lm, 40), count=count, progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1, abs=1e-4)


def test_units_are_drawn_from_every_stratum_of_ranks() -> None:
    sites = {Site("decoder", layer, ATTENTION): SiteLayout(3, 100, KV_GROUP) for layer in range(4)}
    sites |= {Site("decoder", layer, MLP): SiteLayout(100, 10, NEURON) for layer in range(4)}
    layout, draw = Layout(dict(sorted(sites.items()))), np.random.default_rng(0)
    scores = {site: draw.random(place.units).astype(np.float32) for site, place in layout.items()}
    saliency = Saliency(scores, layout, "random")
    drawn = draw_units(saliency, 52, seed=3)
    assert len(drawn) == len(set(drawn)) == 52
    groups = [each for each in drawn if each[0].module == ATTENTION]
    ranks = sorted(saliency.ranks[site][unit] for site, unit in drawn if site.module == MLP)
    assert len(groups) == 12, "all of them: there are fewer than half the count"
    assert [rank // 10 for rank in ranks] == list(range(40)), "one from each of 40 strata of 10 ranks"
    assert draw_units(saliency, 52, seed=3) == drawn != draw_units(saliency, 52, seed=4)
    assert len(draw_units(saliency, 10_000, seed=0)) == 412 and len(draw_units(saliency, 3, seed=0)) == 3


def removal(kind: str, unit: int, score: float, first: float, change: float, kl: float) -> Ablation:
    return Ablation(Site("decoder", 0, MLP if kind == NEURON else ATTENTION), unit, kind, score, first, change, kl, 0.1)


def test_correlations_by_kind_and_the_worst_units() -> None:
    rows = [(3.0, -1.0, -1.5, 0.5), (2.0, 0.5, -0.2, 0.1), (5.0, 2.0, 2.1, 0.3), (1.0, 0.1, 0.4, 0.9)]
    neurons = [removal(NEURON, unit, *row) for unit, row in enumerate(rows)]
    found = Ablations((removal(KV_GROUP, 0, 9.0, 1.0, -8.0, 2.0), *neurons))
    score, first, change, kl = np.array(rows).T
    for method, one, other in (
        (found.score_and_change, score, np.abs(change)),
        (found.score_and_kl, score, kl),
        (found.first_order_and_change, first, change),
        (found.first_order_size_and_kl, np.abs(first), kl),
    ):
        value = method(NEURON)
        positive = (one > 0) & (other > 0)
        logs = pearsonr(np.log(one[positive]), np.log(other[positive])).statistic
        assert value.pearson == pytest.approx(pearsonr(one, other).statistic) and value.n == 4
        assert value.pearson_log == pytest.approx(logs)
        assert value.spearman == pytest.approx(spearmanr(one, other).statistic)
    assert math.isnan(found.score_and_kl(KV_GROUP).spearman) and found.kinds == [KV_GROUP, NEURON]
    assert found.wrong_signs(NEURON) == 0.25 and found.wrong_signs() == 0.4
    assert [item.kind for item in found.worst(2)] == [KV_GROUP, NEURON] and found.worst(1, NEURON)[0].unit == 1
    assert found.underrated(1, NEURON)[0].unit == 3 and found.underrated(1)[0].unit == 3
    assert found.errors()[Site("decoder", 0, MLP)] == pytest.approx((0.5 + 0.7 + 0.1 + 0.3) / 4.2)


def test_saved_and_read_back(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    found = nv.ablate_units(lm, nv.score(lm, None, criterion="magnitude"), inputs_of(lm), count=6)
    again = nv.Ablations.from_json(json.loads(json.dumps(found.to_json())))
    assert again.items == found.items and again.protocol == found.protocol
    broken: list[Any] = [{}, {"items": [{}], "protocol": {}}, {"items": 3, "protocol": {}}]
    for data in broken:
        with pytest.raises(PlanError, match="no saved ablations"):
            nv.Ablations.from_json(data)


def test_wrong_units_and_inputs(models: dict[str, LM]) -> None:
    lm, x = models["grouped"], inputs_of(models["grouped"])
    scores = nv.score(lm, None, criterion="magnitude")
    site = Site("decoder", 0, MLP)
    for units, match in (
        ([(site, 48)], "no unit 48"),
        ([(site, -1)], "no unit -1"),
        ([(Site("decoder", 9, MLP), 0)], "no module decoder.9.mlp"),
        ([], "no unit to remove"),
    ):
        with pytest.raises(PlanError, match=match):
            nv.ablate_units(lm, scores, x, units=units)
    with pytest.raises(PlanError, match="another shape"):
        nv.ablate_units(without(lm, site, 0), scores, x)
    with pytest.raises(CorpusError, match="padding"):
        nv.ablate_units(lm, scores, CalibrationSet(x.tokens, np.eye(3, 16, dtype=np.int64)))


@pytest.fixture
def run(small_recipe: Recipe) -> Run:
    return Store().create(small_recipe)


def test_the_tasks(run: Run) -> None:
    for task in ("ablation", "ablate-unit"):
        with pytest.raises(RunError, match="no scores"):
            check_task(run, task, {"site": "decoder.1.mlp"} if task == "ablate-unit" else {})
    compute_steps(run, until="saliency")
    models, seen = ModelCache(), _Reporter()
    found = Ablations.from_json(execute(run, "ablation", {"count": 8, "samples": 2, "length": 16}, seen, models))
    lm, scores = models.dense(run.recipe.model), run.saliency()
    assert scores is not None and seen.steps == ["ablation"]
    x = nv.sample_probe(lm, nv.load_corpus(run.recipe.calibration.corpus), samples=2, length=16, seed=42)
    assert found.items == nv.ablate_units(lm, scores, x, count=8).items
    kept = Store().open(run.id).ablations()
    assert kept is not None and kept.items == found.items
    item = found.items[3]
    request = {"site": item.site.key, "unit": item.unit, "samples": 2, "length": 16}
    one = Ablations.from_json(execute(run, "ablate-unit", request, _Reporter(), models))
    assert_equal(one.items[0], item)
    again = Store().open(run.id).ablations()
    assert again is not None and len(again.items) == 8, "one unit does not replace the draw"
    other = Store().create(run.recipe.change("saliency", criterion="random"), parent=run)
    assert other.ablations() is None
    for name, match in (("decoder.1", "names no module"), ("decoder.7.mlp", "no module")):
        with pytest.raises(PlanError, match=match):
            check_task(run, "ablate-unit", {"site": name})


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    compute_steps(run, until="saliency")
    few = ["--inputs", "2", "--input-length", "16"]
    assert cli.main(["ablate", run.id, "--count", "12", *few]) == 0
    shown = capsys.readouterr().out
    for words in ("Spearman", "score, KL", "neuron", "wrong sign", "2 windows of 16 tokens"):
        assert words in shown
    assert cli.main(["ablate", run.id, "--site", "decoder.1.mlp", "--unit", "3", *few, "--json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert (item["site"], item["unit"]) == ("decoder.1.mlp", 3)
    assert cli.main(["ablate", run.id, "--site", "decoder.1.mlp", "--unit", "999", *few]) == 2
    assert "no unit 999" in capsys.readouterr().err


class _Reporter:
    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, step: str, number: int, steps: int) -> None:
        self.steps.append(step)

    def progress(self, progress: Progress) -> None: ...

    def row(self, row: object) -> None: ...
