"""Inspection of a unit: against the library's own forward, sample by sample, and the norms against the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana import cli
from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import Cancelled, PlanError
from nirvana.evaluation.unit_inspection_results import MOST, UnitInspection, UnitInspections
from nirvana.jobs.execute import execute
from nirvana.layout import CROSS_ATTENTION, MLP, NEURON, Site
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.progress import Progress
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from tests.conftest import english
from tests.families import test_t5 as makers
from tests.reporter import Reporter

OUTPUTS = {"attention": "self_attn.o_proj", MLP: "mlp.down_proj"}
OUTPUTS_T5 = {
    ("encoder", "attention"): "layer.0.SelfAttention.o",
    ("encoder", MLP): "layer.1.DenseReluDense.wo",
    ("decoder", "attention"): "layer.0.SelfAttention.o",
    ("decoder", CROSS_ATTENTION): "layer.1.EncDecAttention.o",
    ("decoder", MLP): "layer.2.DenseReluDense.wo",
}


@pytest.fixture(scope="module")
def models(make_lm: Callable[..., LM], tmp_path_factory: pytest.TempPathFactory) -> dict[str, LM]:
    folder = tmp_path_factory.mktemp("models") / "t5"
    makers.T5Tests.write(folder)
    return {
        "grouped": make_lm(),
        "biased": make_lm(attention_bias=True, seed=2),
        "t5": load_model(folder, device="cpu"),
    }


def inputs_of(lm: LM, samples: int = 5) -> CalibrationSet:
    return nv.sample_probe(lm, "\n\n".join(english(20, seed=4)), samples=samples, length=40)


def output_of(lm: LM, site: Site) -> torch.nn.Linear:
    model: Any = lm.weights()
    if lm.family.encoder_decoder:
        path = f"{site.stack}.block.{site.layer}.{OUTPUTS_T5[site.stack, site.module]}"
    else:
        path = f"model.layers.{site.layer}.{OUTPUTS[site.module]}"
    found: torch.nn.Linear = model.get_submodule(path)
    return found


def driven(lm: LM, x: CalibrationSet, site: Site, unit: int) -> dict[tuple[int, int], float]:
    """(sample, position) -> driving quantity, at the positions that count: one forward a sample."""
    found: dict[tuple[int, int], float] = {}
    last = site.stack == lm.layout.stacks[-1]
    counted = x.counted if last else x.mask
    shape = x.outputs.shape if last else x.tokens.shape
    size = output_of(lm, site).in_features // lm.layout[site].units
    for sample in range(x.samples):
        seen: list[torch.Tensor] = []
        handle = output_of(lm, site).register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        inputs: dict[str, Any] = {"input_ids": x.input_ids[sample : sample + 1]}
        if x.attention_mask is not None:
            inputs["attention_mask"] = x.attention_mask[sample : sample + 1]
        if x.decoder_input_ids is not None:
            inputs["decoder_input_ids"] = x.decoder_input_ids[sample : sample + 1]
        with torch.no_grad():
            lm.weights()(**inputs)
        handle.remove()
        for position in range(shape[1]):
            if counted is None or counted[sample, position]:
                mine = seen[0][0, position, unit * size : (unit + 1) * size].double()
                value = mine[0] if lm.layout[site].kind == NEURON else (mine**2).sum().sqrt()
                found[sample, position] = float(value)
    return found


def tokens_of(x: CalibrationSet, lm: LM, site: Site) -> np.ndarray:
    return x.outputs if site.stack == lm.layout.stacks[-1] else x.tokens


@pytest.mark.parametrize("name", ["grouped", "biased", "t5"])
def test_excerpts_and_means_are_those_of_one_forward_a_sample(models: dict[str, LM], name: str) -> None:
    lm = models[name]
    x = inputs_of(lm)
    units = [(site, place.units - 1) for site, place in lm.layout.items()]
    found = nv.inspect_units(lm, x, reversed(units), excerpts=3)
    assert [(item.site, item.unit) for item in found.items] == units
    for item in found.items:
        values = driven(lm, x, item.site, item.unit)
        sizes = {place: abs(value) for place, value in values.items()}
        best = {s: max((size, -p) for (each, p), size in sizes.items() if each == s)[0] for s in range(x.samples)}
        order = sorted(best, key=lambda sample: -best[sample])[:3]
        assert [excerpt.sample for excerpt in item.excerpts] == order
        ids = tokens_of(x, lm, item.site)
        for excerpt in item.excerpts:
            assert abs(excerpt.value) == pytest.approx(best[excerpt.sample], rel=1e-4)
            shown = [values[excerpt.sample, excerpt.start + place] for place in range(len(excerpt.values))]
            assert list(excerpt.values) == pytest.approx(shown, rel=1e-3, abs=1e-5)
            assert len(excerpt.texts) == len(excerpt.values) > 1
            part = ids[excerpt.sample, excerpt.start : excerpt.start + len(shown)]
            assert "".join(excerpt.texts) == lm.tokenizer.decode(part)
        by_token: dict[int, list[float]] = {}
        for (sample, position), size in sizes.items():
            by_token.setdefault(int(ids[sample, position]), []).append(size)
        means = sorted((np.mean(each) for each in by_token.values() if len(each) > 1), reverse=True)
        if len(means) >= len(item.tokens):
            assert [token.mean for token in item.tokens] == pytest.approx(means[: len(item.tokens)], rel=1e-4)
        assert item.largest == pytest.approx(max(sizes.values()), rel=1e-4)
        assert item.quantiles[5] == pytest.approx(float(np.median(list(sizes.values()))), rel=1e-3)
        assert item.protocol["positions"] == len(sizes) and item.protocol["inputs"] == x.hash


@pytest.mark.parametrize("name", ["grouped", "t5"])
def test_norms_are_those_of_the_rows_and_columns(models: dict[str, LM], name: str) -> None:
    lm = models[name]
    site = Site(lm.layout.stacks[-1], 1, MLP)
    (item,) = nv.inspect_units(lm, inputs_of(lm), [(site, 3)]).items
    block: Any = lm.family.blocks(lm.weights())[site.stack][1]
    for found, part in zip(item.weights, lm.family.slices(lm.settings, site), strict=True):
        weight = block.get_submodule(part.module).weight.detach().double()
        norms = weight.norm(dim=1 - part.dim)
        assert part.module.endswith(found.name)
        assert found.norm == pytest.approx(float(norms[3]), rel=1e-4)
        assert found.mean == pytest.approx(float(norms.mean()), rel=1e-4)
        assert found.place == 1 + int((norms > norms[3]).sum())


def test_padding_never_counts(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    tokens = inputs_of(lm).tokens
    mask = np.ones_like(tokens)
    mask[1, 25:], mask[3, 10:] = 0, 0
    x = CalibrationSet(tokens, mask)
    (item,) = nv.inspect_units(lm, x, [(Site("decoder", 1, MLP), 5)], excerpts=9).items
    values = driven(lm, x, item.site, item.unit)
    assert item.protocol["positions"] == int(mask.sum()) == len(values)
    ends = {excerpt.sample: excerpt.start + len(excerpt.values) for excerpt in item.excerpts}
    assert set(ends) == set(range(5)) and ends[1] <= 25 and ends[3] <= 10


def test_a_missing_unit_and_none_are_refused(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    with pytest.raises(PlanError, match="no unit 48"):
        nv.inspect_units(lm, inputs_of(lm), [(Site("decoder", 0, MLP), 48)])
    with pytest.raises(PlanError, match="no unit to inspect"):
        nv.inspect_units(lm, inputs_of(lm), [])


def test_it_stops_and_leaves_no_hook(models: dict[str, LM]) -> None:
    lm = models["grouped"]

    def stop(progress: Progress) -> None:
        if progress.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        nv.inspect_units(lm, inputs_of(lm), [(Site("decoder", 0, MLP), 0)], progress=stop)
    assert not any(module._forward_pre_hooks for module in lm.weights().modules())


def test_saved_inspections_are_read_back_and_added_to(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    x, site = inputs_of(lm), Site("decoder", 0, MLP)
    found = nv.inspect_units(lm, x, [(site, 0), (site, 1)])
    again = UnitInspections.from_json(json.loads(json.dumps(found.to_json())))
    assert [vars(item) for item in again.items] == [
        vars(UnitInspection.from_json(json.loads(json.dumps(item.to_json())))) for item in found.items
    ]
    assert again.items[0].excerpts[0].texts == found.items[0].excerpts[0].texts
    newer = nv.inspect_units(lm, x, [(site, 0), (site, 2)])
    both = found.adding(newer)
    assert [item.unit for item in both.items] == [1, 0, 2]
    assert both.of(site, 0) is newer.items[0] and both.of(site, 7) is None
    many = UnitInspections(found.items[:1] * (MOST + 3)).adding(newer)
    assert len(many.items) <= MOST and many.of(site, 2) is newer.items[1]
    with pytest.raises(PlanError, match="no saved inspections"):
        UnitInspections.from_json({"items": [{"unit": 1}]})


def test_a_run_keeps_inspections_and_removals_of_units(tiny_folder: Path, sample_text: Path, capsys: Any) -> None:
    recipe = Recipe().change("model", name=str(tiny_folder), device="cpu")
    recipe = recipe.change("calibration", corpus=str(sample_text), candidates=1, samples=4, length=24)
    run = Store().create(recipe)
    compute_steps(run, until="saliency")
    models = ModelCache()
    reporter = Reporter()
    for unit in (3, 5):
        execute(run, "inspect-unit", {"site": "decoder.1.mlp", "unit": unit}, reporter, models)
        execute(run, "ablate-unit", {"site": "decoder.1.mlp", "unit": unit, "length": 16}, reporter, models)
    site = Site("decoder", 1, MLP)
    kept, removed = run.inspections(), run.removals()
    assert kept is not None and removed is not None
    assert [item.unit for item in kept.items] == [item.unit for item in removed.items] == [3, 5]
    calibration = run.calibration()
    assert isinstance(calibration, CalibrationSet)
    assert kept.items[0].protocol["inputs"] == calibration.hash
    execute(run, "ablate-unit", {"site": "decoder.1.mlp", "unit": 5, "length": 17}, reporter, models)
    removed = run.removals()
    assert removed is not None and removed.of(site, 5) is not None and removed.of(site, 3) is None, "another protocol"
    with pytest.raises(PlanError, match="no unit 48"):
        execute(run, "inspect-unit", {"site": "decoder.1.mlp", "unit": 48}, reporter, models)
    cli.main(["unit", run.id, "--site", "decoder.1.mlp", "--unit", "3"])
    shown = capsys.readouterr().out
    assert "down_proj" in shown and "decoder.1.mlp" in shown
