"""Mixtures of corpora: equal shares in every split, whatever the sizes of the parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nirvana as nv
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.mixture import part_names, shares
from nirvana.runs.recipe import Recipe

pytestmark = pytest.mark.usefixtures("library_texts")
WORDS = {"short": "RIVER STONE WATER BRIDGE NUMBER", "long": "engine piston valve crank number"}


def corpus(name: str, documents: int) -> Corpus:
    texts = [f"{WORDS[name]} {index}. " * 60 for index in range(documents)]
    return Corpus.from_documents(texts, name=name, kind="file")


@pytest.fixture
def both() -> list[Corpus]:
    return [corpus("short", 12), corpus("long", 90)]


def test_each_part_gives_as_many_windows(tiny_lm: nv.LM, both: list[Corpus]) -> None:
    drawn = nv.sample_calibration(tiny_lm, nv.mix(both), samples=7, length=16)
    assert [any(map(str.isupper, text)) for text in drawn.texts] == [True] * 4 + [False] * 3
    assert drawn.source == "short + long"


def test_the_first_part_draws_as_by_itself(tiny_lm: nv.LM, both: list[Corpus]) -> None:
    mixed = nv.sample_calibration(tiny_lm, nv.mix(both), samples=6, length=16, seed=3)
    alone = nv.sample_calibration(tiny_lm, both[0], samples=3, length=16, seed=3)
    again = nv.sample_calibration(tiny_lm, nv.mix(both), samples=6, length=16, seed=3)
    assert np.array_equal(mixed.input_ids[:3], alone.input_ids)
    assert mixed.hash == again.hash


def test_splits_stay_apart(both: list[Corpus]) -> None:
    mixed = nv.mix(both)
    texts = [set(mixed.split(name).documents) for name in ("calibration", "probe", "evaluation")]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    assert mixed.split("evaluation").documents[:2] == (both[0].splits["evaluation"][0], both[1].splits["evaluation"][0])
    assert mixed.hash != nv.mix(both[::-1]).hash


def test_what_cannot_be_mixed(tiny_lm: nv.LM, both: list[Corpus]) -> None:
    with pytest.raises(nv.NirvanaError, match="two corpora"):
        nv.mix(both[:1])
    with pytest.raises(nv.NirvanaError, match="short is in the mixture twice"):
        nv.mix([both[0], both[0]])
    with pytest.raises(nv.NirvanaError, match="1 windows cannot be drawn from 2"):
        nv.sample_calibration(tiny_lm, nv.mix(both), samples=1, length=16)
    little = Corpus.from_documents(["one", "two", "three"], name="little", kind="file")
    with pytest.raises(nv.NirvanaError, match="calibration text of little"):
        nv.sample_calibration(tiny_lm, nv.mix([both[1], little]), samples=2, length=64)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a + b.txt").write_text("\n\n".join(f"Paragraph {index}. " * 40 for index in range(40)))
    assert part_names("a + b.txt") == ["a + b.txt"]
    assert part_names("python-docs + ~/novel.txt") == ["python-docs", "~/novel.txt"]
    assert len(nv.load_corpus("a + b.txt").parts) == 0
    assert part_names("python-docs + a + b.txt") == ["python-docs", "a + b.txt"]
    for name in ("a + b.txt + python-docs", "python-docs + a + b.txt"):
        assert {part.name for part in nv.load_corpus(name).parts} == {"a + b.txt", "python-docs"}
    uploads = [f"upload:{'notes ' * 9}{number}.txt" for number in range(6)]  # together longer than a file's name
    assert part_names(" + ".join(uploads)) == uploads
    assert nv.mix(["python-docs", tmp_path / "a + b.txt"]).hash == nv.load_corpus("python-docs + a + b.txt").hash
    with pytest.raises(nv.NirvanaError, match=r"missing\.txt"):
        nv.mix(["python-docs", "missing.txt"])
    mixed = nv.load_corpus("python-docs + library-docs")
    assert [part.name for part in mixed.parts] == ["python-docs", "library-docs"]
    with pytest.raises(nv.NirvanaError, match="has no name"):
        nv.load_corpus("python-docs + ")
    with pytest.raises(nv.NirvanaError, match=r"missing\.txt"):
        nv.load_corpus("python-docs + missing.txt")


def test_a_recipe_to_hand_on_names_files_without_folders() -> None:
    recipe = Recipe().change("calibration", corpus="python-docs + /secret/novel.txt")
    assert recipe.portable().calibration.corpus == "python-docs + novel.txt"


def test_shares() -> None:
    assert shares(7, 3) == [3, 2, 2]
    assert shares(6, 3) == [2, 2, 2]
