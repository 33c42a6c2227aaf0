"""The search for a recipe: it finds what is better, goes on where it was, and its best is what the pipeline makes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nirvana as nv
from nirvana.errors import Cancelled, PlanError
from nirvana.loss_curves import LEVELS
from nirvana.progress import Progress
from nirvana.recovery import recover
from nirvana.runs import compensation
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.studies import search_objective as objective_module
from nirvana.studies.search import tune
from nirvana.studies.search_objective import Objective
from nirvana.studies.search_sampler import suggest
from nirvana.studies.search_space import CRITERIA, Choices, Space
from nirvana.studies.search_trials import FILE, Trial, correlation, ranked, read_trials
from tests.counting import count_calls
from tests.journals import write_search

BASE = Recipe().change("calibration", samples=4, length=32).change("prune", samples=4, length=32)
SPACE = Space(("nirvana", "taylor"), ("a", "b"), 16)
BOTH = replace(SPACE, methods=("shared", "measured"))


def choices(**values: Any) -> Choices:
    usual: dict[str, Any] = {"criterion": "nirvana", "corpus": "a", "seed": 0, "gamma": 3.36, "normalisation": 0.0}
    return Choices(**usual | {"compensation": "none"} | values)


def texts(folder: Path) -> list[str]:
    names = []
    for name, word in (("one.txt", "river"), ("two.txt", "engine")):
        (folder / name).write_text(
            "\n\n".join(f"{word.title()} number {index} is a {word}. " * 12 for index in range(60))
        )
        names.append(str(folder / name))
    return names


def search(lm: nv.LM, corpora: list[str], folder: Path, trials: int, **more: Any) -> nv.Tuning:
    return tune(lm, corpora, 0.3, trials=trials, base=BASE, folder=folder, criteria=["magnitude", "flap"], **more)


def test_what_is_tried_follows_what_did_well() -> None:
    """Of an objective that is known, the search finds the best criterion and a gamma near the best."""
    done: list[Trial] = []
    while len(done) < 60:
        found = suggest(SPACE, done, seed=0)
        assert found is not None
        cost = abs(math.log(found.gamma / 2)) + (found.criterion == "nirvana") + (found.compensation != "bias")
        done.append(Trial(len(done), found, cost, 0.1))
    best = ranked(done)[0].choices
    assert (best.criterion, best.compensation) == ("taylor", "bias") and 1.4 < best.gamma < 2.9
    assert len({trial.choices for trial in done}) == 60, "nothing is tried twice"
    late = [trial.kl for trial in done[40:]]
    assert sum(late) / 20 < sum(trial.kl for trial in done[:20]) / 20


def test_the_same_trials_and_seed_go_on_alike() -> None:
    done = [Trial(number, each, 1.0 + number, 0.1) for number, each in enumerate(SPACE.first())]
    done += [Trial(len(done), choices(gamma=gamma), 2.0, 0.1) for gamma in (1.5, 2.5)]
    assert suggest(SPACE, done, 3) == suggest(SPACE, done, 3)
    assert len({suggest(SPACE, done, seed) for seed in range(6)}) > 1


def test_the_first_trials_are_the_papers_recipe_and_what_did_well() -> None:
    first = SPACE.first()
    assert first[0] == choices()
    assert [each.criterion for each in first[1:]] == ["taylor"]
    assert first[1].corpus == "a + b" and first[1].compensation == "least_squares"
    usual = Space(CRITERIA, ("a",), 16).first()
    assert [each.criterion for each in usual] == ["nirvana", "second-order", "taylor", "flap"]


def test_most_trials_use_scores_that_are_there() -> None:
    done = [Trial(0, choices(), 1.0, 0.1)]
    for _ in range(24):
        found = suggest(SPACE, done, 0)
        assert found is not None
        done.append(Trial(len(done), found, 1.0 + len(done), 0.1))
    scored = [trial.choices.scored for trial in done]
    fresh = [index for index, key in enumerate(scored) if key not in scored[:index]]
    assert all(index % 4 == 0 or index < len(SPACE.first()) for index in fresh)


def test_the_first_trials_measure_the_loss_curves_of_the_best_criterion_once() -> None:
    first = BOTH.first()
    assert first[:-1] == SPACE.first()
    assert first[-1] == replace(first[1], method="measured", gamma=3.36) and first[-1].compensation == "least_squares"
    assert replace(BOTH, methods=("measured",)).first() == first[-1:]


def test_most_trials_use_loss_curves_that_are_there() -> None:
    """The measured allocation is the better one here, and still only every fourth trial measures new curves."""
    done: list[Trial] = []
    while len(done) < 40:
        found = suggest(BOTH, done, 0)
        assert found is not None
        done.append(Trial(len(done), found, 1.0 + (found.method == "shared") + len(done) / 100, 0.1))
    measured = {trial.number: trial.choices for trial in done if trial.choices.method == "measured"}
    assert len(measured) > 8, "the sampler follows what did well"
    keys = {number: each.scored for number, each in measured.items()}
    fresh = [number for number in keys if keys[number] not in [keys[other] for other in keys if other < number]]
    assert len(fresh) > 2 and all(number % 4 == 0 or number < len(BOTH.first()) for number in fresh)
    assert all((each.gamma, each.normalisation) == (3.36, 0.0) for each in measured.values())
    assert len({trial.choices for trial in done}) == 40, "no model is tried twice"


def test_without_loss_curves_most_trials_are_shared() -> None:
    """The only measured trial has failed, so curves are measured by a fourth trial or not at all."""
    first = BOTH.first()
    done = [Trial(number, each, 1.0, 0.1) for number, each in enumerate(first[:-1])]
    done.append(Trial(2, first[-1], failure="out of memory"))
    assert {suggest(BOTH, done, seed).method for seed in range(8)} == {"shared"}  # type: ignore[union-attr]
    done.append(Trial(3, choices(gamma=2.0), 1.0, 0.1))
    assert {suggest(BOTH, done, seed).method for seed in range(8)} == {"shared", "measured"}  # type: ignore[union-attr]


def test_a_measured_trial_has_the_plan_of_its_loss_curves(tiny_lm: nv.LM, tmp_path: Path) -> None:
    name = texts(tmp_path)[0]
    found = tune(
        tiny_lm, name, 0.3, trials=3, base=BASE, folder=tmp_path, criteria=["magnitude"], methods=("measured", "shared")
    )
    assert found.settings["methods"] == ["shared", "measured"]
    trial = next(trial for trial in found.trials if trial.choices.method == "measured")
    shared = next(each for each in found.trials if each.choices == replace(trial.choices, method="shared", gamma=4.0))
    corpus = nv.load_corpus(name)
    scores = nv.score(tiny_lm, nv.sample_calibration(tiny_lm, corpus, samples=4, length=32), criterion="magnitude")
    how: dict[str, Any] = {"compensation": "least_squares"}
    windows = nv.sample_calibration(tiny_lm, corpus, samples=96, length=256, seed=1)
    probe = nv.sample_probe(tiny_lm, corpus, samples=4, length=256, seed=42)
    curves = nv.sensitivity(
        tiny_lm, scores, probe, levels=LEVELS, statistics=nv.collect_statistics(tiny_lm, windows), **how
    )
    plan = nv.allocate(scores, sparsity=0.3, method="measured", sensitivity=curves)
    windows = nv.sample_calibration(tiny_lm, corpus, samples=4, length=32, seed=1)
    small = nv.prune(tiny_lm, plan, statistics=nv.collect_statistics(tiny_lm, windows), **how)
    probe = nv.sample_probe(tiny_lm, corpus, samples=64, length=64, seed=42)
    assert trial.sparsity == plan.sparsity and trial.model != shared.model
    assert nv.divergence(tiny_lm, small, probe).mean == pytest.approx(trial.kl, rel=1e-5)
    assert read_trials(tmp_path)[1][2].choices == trial.choices


def test_a_journal_without_allocations_is_continued(tiny_lm: nv.LM, tmp_path: Path) -> None:
    corpora = texts(tmp_path)
    search(tiny_lm, corpora, tmp_path, 2)
    path = tmp_path / FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert "methods" not in lines[0]["settings"] and lines[0]["request"].pop("methods") == ["shared"]
    for line in lines[1:]:
        assert line["row"]["choices"].pop("method") == "shared"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = search(tiny_lm, corpora, tmp_path, 3)
    rows = [line for line in path.read_text().splitlines() if "row" in json.loads(line)]
    assert len(found.trials) == len(rows) == 3 and {trial.choices.method for trial in found.trials} == {"shared"}


def test_a_sparsity_within_reach_of_the_measured_allocation_alone(tiny_lm: nv.LM, tmp_path: Path) -> None:
    """Blocks of 48 neurons keep each MLP whole, and every gamma of the space removes some of it."""
    name, base = texts(tmp_path)[0], BASE.change("allocation", multiple_of=48)
    asked: dict[str, Any] = {"trials": 3, "base": base, "criteria": ["magnitude"]}
    with pytest.raises(PlanError, match="out of reach"):
        tune(tiny_lm, name, 0.15, **asked)
    found = tune(tiny_lm, name, 0.15, methods=["shared", "measured"], **asked)
    assert [trial.choices.method for trial in found.trials] == ["measured"] and len(found.failed) == 2


def test_the_best_is_what_the_pipeline_makes(tiny_lm: nv.LM, tmp_path: Path) -> None:
    corpora = texts(tmp_path)
    found = search(tiny_lm, corpora, tmp_path, 5)
    best, trial = found.best, found.trials[0]
    assert best.recipe is not None and found.best is best
    assert [each.kl for each in found.trials] == sorted(each.kl for each in found.trials)
    probe = nv.sample_probe(tiny_lm, nv.mix([nv.load_corpus(name) for name in corpora]), samples=64, length=64, seed=42)
    assert nv.divergence(tiny_lm, best, probe).mean == pytest.approx(trial.kl, rel=1e-5)
    run = Store().create(best.recipe.change("evaluation", corpora=tuple(corpora), window=32, max_tokens=256))
    compute_steps(run, until="prune")
    plan = run.plan()
    assert plan is not None and plan.sparsity == trial.sparsity
    info = run.info("prune")
    assert info is not None and info["weight_hash"] == best.hash


def test_a_stopped_search_goes_on_and_measures_nothing_twice(
    tiny_lm: nv.LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora, measured = texts(tmp_path), []
    measure = Objective.measure

    def counted(self: Objective, number: int, chosen: Choices, progress: Any) -> Trial:
        measured.append(chosen)
        return measure(self, number, chosen, progress)

    monkeypatch.setattr(Objective, "measure", counted)

    def stop(progress: Progress) -> None:
        if len(measured) > 3:
            raise Cancelled()

    with pytest.raises(Cancelled):
        search(tiny_lm, corpora, tmp_path, 6, progress=stop)
    _, kept = read_trials(tmp_path)
    assert [trial.number for trial in kept] == [0, 1, 2]
    done = search(tiny_lm, corpora, tmp_path, 6)
    assert len(done.trials) + len(done.failed) == 6
    assert len(measured) == 7 and measured[3] == measured[4], "only the trial that was stopped is measured again"
    (tmp_path / "alone").mkdir()
    alone = search(tiny_lm, corpora, tmp_path / "alone", 6)
    assert [trial.choices for trial in alone.trials] == [trial.choices for trial in done.trials]
    search(tiny_lm, corpora, tmp_path, 6)
    assert len(measured) == 13
    tune(tiny_lm, corpora, 0.2, trials=1, base=BASE, folder=tmp_path, criteria=["magnitude"])
    assert len(read_trials(tmp_path)[1]) == 1, "another request has trials of its own"
    assert len(search(tiny_lm, corpora, tmp_path, 6).trials) == len(done.trials), "and those of the first one stay"
    assert len(measured) == 14


def test_a_trial_that_cannot_be_does_not_end_the_search(tiny_lm: nv.LM, tmp_path: Path) -> None:
    corpora = texts(tmp_path)[:1]
    objective = Objective(tiny_lm, {corpora[0]: corpora[0]}, Space(("magnitude",), tuple(corpora), 4), 0.9, BASE)
    with pytest.raises(PlanError, match="out of reach"):
        objective.measure(0, choices(criterion="magnitude", corpus=corpora[0]), None)
    assert not objective.is_possible(choices(criterion="magnitude", corpus=corpora[0]))
    with pytest.raises(nv.NirvanaError, match="out of reach: at most"):
        tune(tiny_lm, corpora, 0.97, trials=1, base=BASE, criteria=["magnitude"])


def test_where_few_gammas_reach_the_sparsity_those_are_searched(tiny_lm: nv.LM, tmp_path: Path) -> None:
    """At 62 % gamma 3.36 removes more neurons than there are: that first trial fails, and all others can be pruned."""
    found = tune(tiny_lm, texts(tmp_path)[:1], 0.62, trials=8, base=BASE, criteria=["nirvana", "magnitude"])
    assert [trial.number for trial in found.failed] == [0] and "out of reach" in found.failed[0].failure
    assert len(found.trials) == 7 and all(trial.choices.gamma < 3.36 for trial in found.trials)


def test_no_model_is_measured_twice(tiny_lm: nv.LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gamma 8 and 8.1 take the same units; another compensation makes another model of them."""
    name, measured = texts(tmp_path)[0], []
    original = nv.divergence

    def counted(*arguments: Any, **named: Any) -> Any:
        measured.append(1)
        return original(*arguments, **named)

    monkeypatch.setattr(objective_module, "divergence", counted)
    objective = Objective(tiny_lm, {name: name}, Space(("magnitude",), (name,), 4), 0.3, BASE)
    usual = choices(criterion="magnitude", corpus=name, gamma=8.0)
    points = [usual, replace(usual, gamma=8.1), replace(usual, compensation="bias"), replace(usual, gamma=1.0)]
    found = [objective.measure(number, point, None) for number, point in enumerate(points)]
    assert len(measured) == 3 and found[0].model == found[1].model
    assert len({trial.model for trial in found}) == 3
    assert (found[1].kl, found[1].perplexity) == (found[0].kl, found[0].perplexity)
    assert (found[1].number, found[1].choices) == (1, points[1])
    assert correlation([*found, replace(found[3], number=4)]).n == 3


def test_trials_are_not_trained_and_the_best_recipe_keeps_the_recovery(
    tiny_lm: nv.LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a trial was trained")

    monkeypatch.setattr(recover, "recover", refuse)
    names, trained = texts(tmp_path)[:1], BASE.change("recovery", method="distill", minutes=3.0)
    asked: dict[str, Any] = {"trials": 2, "criteria": ["magnitude"], "folder": tmp_path}
    found = tune(tiny_lm, names, 0.3, base=trained, **asked)
    assert not found.failed and found.best_recipe.recovery == trained.recovery
    again = tune(tiny_lm, names, 0.3, base=BASE, **asked)
    assert [trial.to_json() for trial in again.trials] == [trial.to_json() for trial in found.trials], "the same trials"
    assert again.best_recipe.recovery == BASE.recovery and found.best.recoveries == ()


def test_three_texts_are_mixed_in_pairs_too() -> None:
    assert Space(("taylor",), ("a", "b", "c"), 4).texts == ("a", "b", "c", "a + b", "a + c", "b + c", "a + b + c")
    assert Space(("taylor",), ("a",), 4).texts == ("a",)


def test_statistics_are_read_once_for_trials_on_one_text(
    tiny_lm: nv.LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, {compensation: ("through_cache",)})
    name = texts(tmp_path)[0]
    objective = Objective(tiny_lm, {name: name}, Space(("magnitude",), (name,), 4), 0.3, BASE)
    for number, gamma in enumerate((1.0, 2.0, 3.0)):
        point = choices(criterion="magnitude", corpus=name, gamma=gamma, compensation="least_squares")
        assert not objective.measure(number, point, None).failure
    assert calls == {"through_cache": 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"corpora": []}, "no text"),
        ({"criteria": []}, "no criterion"),
        ({"criteria": ["nothing"]}, "nothing"),
        ({"methods": []}, "no allocation"),
        ({"methods": ["published"]}, "published"),
        ({"trials": 0}, "needs a limit"),
        ({"minutes": -1.0}, "from 0 to 10,080"),
        ({"sparsity": 1.5}, "between 0 and 1"),
        ({"corpora": ["missing.txt"]}, "missing.txt"),
    ],
)
def test_what_cannot_be_searched(tiny_lm: nv.LM, values: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"corpora": ["python-docs"], "sparsity": 0.2, "base": BASE}
    with pytest.raises(nv.NirvanaError, match=message):
        tune(tiny_lm, **usual | values)


def test_rows_survive_a_cut_off_line(tmp_path: Path) -> None:
    trials = [Trial(0, choices(), 0.5, 0.1, {"a": [3.0, 0.1]}, 0.2), Trial(1, choices(seed=1), failure="too much")]
    write_search(tmp_path, {"seed": 1}, trials)
    path = tmp_path / FILE
    path.write_text(path.read_text() + '{"number": 2, "cho')
    settings, found = read_trials(tmp_path)
    assert settings == {"seed": 1} and found[0] == trials[0]
    assert found[1].failure == "too much" and math.isnan(found[1].kl)
    write_search(tmp_path, {"seed": 1}, [Trial(2, choices(seed=2), 0.4, 0.1)])
    assert [trial.number for trial in read_trials(tmp_path)[1]] == [0, 1, 2]
    assert all(json.loads(line) for line in path.read_text().splitlines()[:3])


def test_correlation_is_of_ranks() -> None:
    rows = [
        Trial(i, choices(seed=i), kl, 0.1, {"a": [ppl, 1.0]}) for i, (kl, ppl) in enumerate([(1, 9), (2, 30), (3, 31)])
    ]
    assert math.isnan(correlation(rows).value) and correlation(rows).n == 3
    rows.append(Trial(3, choices(seed=3), 4.0, 0.1, {"a": [10.0, 1.0]}))
    assert correlation(rows).value == pytest.approx(0.4)  # ranks 1 2 3 4 against 1 3 4 2
