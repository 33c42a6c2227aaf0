"""`nirvana search-allocation`: a search that can be continued, and the recipe of its best plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from nirvana import cli
from nirvana.files import parse_json
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from tests.commands import ask, refused
from tests.commands import small as small  # a fixture

PROBES = ["--search-samples", "4", "--search-length", "16"]


@pytest.fixture
def words(small: list[str]) -> list[str]:
    kept = small[: small.index("--evaluate-on")]
    return ["search-allocation", *kept, "--multiple-of", "4", "--sparsity", "0.3", "--minutes", "0", *PROBES]


def test_it_searches_and_writes_the_recipe_of_the_best_plan(
    capsys: pytest.CaptureFixture[str], words: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "searched.json"
    found = ask(capsys, *words, "--steps", "12", "--output", str(file))
    assert len(found["steps"]) == 13 and found["steps"][0]["accepted"]
    recipe = Recipe.from_json(parse_json(file.read_text()))
    assert recipe == Recipe.from_json(found["best"]) and recipe.allocation.widths
    again = ask(capsys, "search-allocation", "--run", found["run"], "--steps", "15", "--minutes", "0", *PROBES)
    assert again["steps"][:13] == found["steps"] and len(again["steps"]) == 16
    assert cli.main(["run", str(file), "--until", "prune", "--json"]) == 0
    run = Store().open(parse_json(capsys.readouterr().out)["id"])
    plan = run.plan()
    assert plan is not None
    kept = {site.key: len(units) for site, units in plan.items()}
    assert all(kept[key] == int(width) for key, _, width in (each.partition("=") for each in recipe.allocation.widths))


def test_it_prints_both_probes(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main([*words, "--steps", "3"]) == 0
    printed = capsys.readouterr().out
    assert "KL, choosing probe" in printed and "KL, held-out probe" in printed
    assert "In 3 steps" in printed or "No plan of 3" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--uniform", "--steps", "2"], "equal widths"), (["--width", "nonsense", "--steps", "2"], "no width of a site")],
)
def test_what_cannot_be_searched_is_refused(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert message in refused(capsys, *words, *more)
