"""Recipes: read, compared by step, and refused when they ask for what cannot be."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from nirvana.errors import CorpusError, ModelError, NirvanaError, PlanError, RunError, SaliencyError
from nirvana.layout import KV_GROUP, NEURON, Layout, Site, SiteLayout
from nirvana.runs.options import option_words
from nirvana.runs.recipe import SECTIONS, STEPS, Recipe
from nirvana.runs.results import ModelCard
from nirvana.runs.validation import check_against_model, check_recipe
from nirvana.schema import options


def test_a_recipe_survives_json_with_infinity() -> None:
    recipe = Recipe().change("allocation", gamma=math.inf, protected=(0, 3)).change("evaluation", corpora=("a", "b"))
    text = json.dumps(recipe.to_json(), allow_nan=False)
    assert Recipe.from_json(json.loads(text)) == recipe


def test_a_portable_recipe_names_files_without_their_folders() -> None:
    recipe = Recipe().change("model", name="/home/me/models/llama").change("calibration", corpus="~/notes.txt")
    recipe = recipe.change("evaluation", corpora=("text/novel.txt", "owner/name:config", "upload:a.txt", "ptb"))
    recipe = recipe.change("evaluation", zero_shot=("minimal-pairs", "/home/me/tasks", "tasks/own.jsonl"))
    shared = recipe.portable()
    assert (shared.model.name, shared.calibration.corpus) == ("llama", "notes.txt")
    assert shared.evaluation.corpora == ("novel.txt", "owner/name:config", "upload:a.txt", "ptb")
    assert shared.evaluation.zero_shot == ("minimal-pairs", "tasks", "own.jsonl")
    assert Recipe().portable() == Recipe()


def test_what_is_left_out_takes_its_default() -> None:
    recipe = Recipe.from_json({"allocation": {"sparsity": 0.3}})
    assert recipe == Recipe().change("allocation", sparsity=0.3)


@pytest.mark.parametrize(
    "data",
    [
        [],
        "recipe",
        {"colour": {}},
        {"model": "smollm2-135m"},
        {"model": {"size": 3}},
        {"allocation": {"sparsity": "much"}},
        {"allocation": {"sparsity": True}},
        {"allocation": {"multiple_of": 8.5}},
        {"allocation": {"protected": [1.5]}},
        {"evaluation": {"corpora": "python-docs"}},
        {"calibration": {"seed": None}},
    ],
)
def test_a_malformed_recipe_is_refused(data: Any) -> None:
    with pytest.raises(NirvanaError) as caught:
        Recipe.from_json(data)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("section", "values", "first"),
    [
        ("model", {"dtype": "float16"}, "model"),
        ("calibration", {"seed": 1}, "calibration"),
        ("saliency", {"criterion": "random"}, "saliency"),
        ("allocation", {"gamma": 1.0}, "allocation"),
        ("evaluation", {"window": 256}, "evaluate"),
    ],
)
def test_a_change_reaches_its_step_and_those_after_it(section: str, values: dict[str, Any], first: str) -> None:
    before, after = Recipe(), Recipe().change(section, **values)
    changed = [step for step in STEPS if before.fingerprint(step) != after.fingerprint(step)]
    assert changed == list(STEPS[STEPS.index(first) :])


@pytest.mark.parametrize(
    ("section", "values", "error"),
    [
        ("model", {"name": "  "}, ModelError),
        ("model", {"dtype": "int4"}, ModelError),
        ("calibration", {"corpus": ""}, CorpusError),
        ("calibration", {"samples": 0}, RunError),
        ("calibration", {"samples": 10**9}, RunError),
        ("calibration", {"samples": 2.5}, RunError),
        ("calibration", {"length": 1}, RunError),
        ("calibration", {"task": "summary"}, CorpusError),
        ("calibration", {"candidates": 0}, RunError),
        ("calibration", {"candidates": True}, RunError),
        ("calibration", {"seed": -1}, RunError),
        ("calibration", {"probe_samples": 0}, RunError),
        ("calibration", {"trial_criterion": "wanda"}, SaliencyError),
        ("calibration", {"trial_sparsity": math.nan}, PlanError),
        ("calibration", {"trial_gamma": -1.0}, PlanError),
        ("saliency", {"criterion": "wanda"}, SaliencyError),
        ("allocation", {"sparsity": 0.0}, PlanError),
        ("allocation", {"sparsity": 1.0}, PlanError),
        ("allocation", {"sparsity": -0.2}, PlanError),
        ("allocation", {"sparsity": math.nan}, PlanError),
        ("allocation", {"gamma": -0.1}, PlanError),
        ("allocation", {"gamma": math.nan}, PlanError),
        ("allocation", {"multiple_of": 0}, PlanError),
        ("allocation", {"protected": (-1,)}, PlanError),
        ("allocation", {"method": "best"}, PlanError),
        ("evaluation", {"corpora": ("",)}, CorpusError),
        ("evaluation", {"window": 1}, RunError),
        ("evaluation", {"window": 512, "max_tokens": 511}, RunError),
    ],
)
def test_values_that_no_step_could_use_are_refused(
    section: str, values: dict[str, Any], error: type[NirvanaError]
) -> None:
    with pytest.raises(error) as caught:
        check_recipe(Recipe().change(section, **values))
    assert caught.value.hint


def test_values_are_checked_against_each_other_for_the_steps_that_read_them() -> None:
    recipe = Recipe().change("evaluation", window=512, max_tokens=511)
    check_recipe(recipe, STEPS[:5])
    with pytest.raises(RunError, match="below one window"):
        check_recipe(recipe)
    check_recipe(Recipe().change("allocation", gamma=math.inf))


def small_card() -> ModelCard:
    sites = {Site("decoder", 0, "attention"): SiteLayout(2, 64, KV_GROUP)}
    sites[Site("decoder", 0, "mlp")] = SiteLayout(16, 24, NEURON)
    return ModelCard("small", "", "", "Llama", Layout(sites), {"positions": 100}, "", "cpu", "float32", 1)


@pytest.mark.parametrize(
    ("section", "values", "error", "message"),
    [
        ("calibration", {"length": 101}, RunError, "calibration.length"),
        ("calibration", {"probe_length": 101}, RunError, "calibration.probe_length"),
        ("calibration", {"task": "continuation"}, CorpusError, "no encoder"),
        ("evaluation", {"window": 101}, RunError, "evaluation.window"),
        ("allocation", {"sparsity": 0.9}, PlanError, "at most"),
        ("allocation", {"protected": (7,)}, PlanError, "no layer 7"),
        ("allocation", {"protected": (0,), "uniform": True}, PlanError, "protected layer keeps all"),
        ("allocation", {"sparsity": 0.6, "uniform": True}, PlanError, "with gamma 3.36: at most"),
    ],
)
def test_what_a_model_cannot_meet_is_refused_before_scoring(
    section: str, values: dict[str, Any], error: type[NirvanaError], message: str
) -> None:
    fits = Recipe().change("calibration", length=100, probe_length=100).change("evaluation", window=100)
    check_against_model(fits, small_card())
    with pytest.raises(error, match=message):
        check_against_model(fits.change(section, **values), small_card())
    check_against_model(fits.change(section, **values), small_card(), ("model",))


def test_the_reachable_maximum_is_that_of_the_criterions_published_allocation() -> None:
    recipe = Recipe().change("allocation", sparsity=0.55).change("calibration", length=100, probe_length=100)
    recipe = recipe.change("evaluation", window=100)
    with pytest.raises(PlanError, match=r"with gamma 3\.36: at most 0\.[0-4]"):
        check_against_model(recipe, small_card())
    published = recipe.change("allocation", method="published")
    with pytest.raises(PlanError, match=r"out of reach: at most 0\.5000"):  # one group and eight neurons stay
        check_against_model(published.change("saliency", criterion="magnitude"), small_card())
    reachable = published.change("allocation", sparsity=0.5)
    check_against_model(reachable.change("saliency", criterion="magnitude"), small_card())
    with pytest.raises(PlanError, match="does not give all layers equal widths"):
        check_against_model(
            reachable.change("allocation", uniform=True).change("saliency", criterion="flap"), small_card()
        )


def test_every_recipe_value_has_an_option() -> None:
    fields = [option for schema in SECTIONS.values() for option in options(schema).values()]
    assert [option.name for option in fields] == [name for part in vars(Recipe()).values() for name in vars(part)]
    flags = [option.flag for option in fields]
    assert all(flags) and len(set(flags)) == len(flags)


def test_a_refusal_names_the_field_its_bounds_and_its_option() -> None:
    with pytest.raises(RunError) as caught:
        Recipe().change("calibration", samples=4097)
    assert caught.value.message == "calibration.samples must be a whole number from 1 to 4,096, not 4097."
    assert "--samples" in caught.value.hint
    with pytest.raises(SaliencyError, match="must be one of nirvana, "):
        Recipe.from_json({"saliency": {"criterion": "wanda"}})


def test_option_words_leave_defaults_out() -> None:
    recipe = Recipe().change("allocation", gamma=math.inf, protected=(1, 2)).change("calibration", seed=3)
    assert option_words(recipe) == ["--seed", "3", "--gamma", "inf", "--protect", "1", "--protect", "2"]


def test_option_words_keep_every_digit() -> None:
    recipe = Recipe().change("allocation", sparsity=0.123456789, gamma=2.0).change("model", name="model-1.0")
    assert option_words(recipe) == ["--model", "model-1.0", "--sparsity", "0.123456789", "--gamma", "2"]
    assert option_words(Recipe(), always=["--sparsity"]) == ["--sparsity", "0.2"]


def test_the_text_of_a_calibration_choice_is_that_of_earlier_cache_keys() -> None:
    assert repr(Recipe().calibration) == (
        "CalibrationChoice(corpus='python-docs', candidates=4, samples=32, length=128, seed=0, probe_samples=16, "
        "probe_length=512, probe_seed=42, trial_criterion='nirvana', trial_sparsity=0.2, trial_gamma=3.36, "
        "task='auto', alternatives=(), mixtures=False, "
        "trial_method='shared', trial_protected=(), trial_normalisation=0.0)"
    )


def test_changed_values_make_the_recipe_again() -> None:
    recipe = Recipe().change("allocation", gamma=math.inf, rounds=2).change("prune", compensation="bias")
    assert recipe.changed() == {"allocation": {"gamma": "inf", "rounds": 2}, "prune": {"compensation": "bias"}}
    assert Recipe.from_json(recipe.changed()) == recipe and Recipe().changed() == {}
