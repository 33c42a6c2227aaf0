"""Criteria on the Saliency page: their names, what they measure, and one against another."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard.panels.criteria import EXPLAINED, describe_criterion
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from nirvana.saliency.agreement import rank_correlation
from nirvana.saliency.criteria import CRITERIA, available
from nirvana.saliency.scores import Saliency
from tests.app.conftest import PLACE, fill, open_tab

Start = Callable[..., AppTest]


def visit(app: AppTest) -> AppTest:
    page = app.switch_page("pages/saliency.py").run()
    assert not page.exception
    return page


@pytest.fixture
def rival(store: Store) -> Run:
    """A run of the same model with scores by another criterion."""
    run = fill(store.create(Recipe().change("saliency", criterion="flap"), name="Rival"), seed=1)
    scores = run.saliency()
    assert scores is not None
    centred = {site: values - values.mean() for site, values in scores.items()}
    run.put("saliency", Saliency(centred, scores.layout, "flap", scores.calibration_hash), **PLACE)
    return run


def test_every_criterion_is_offered_and_explained(start: Start, filled: Run) -> None:
    app = visit(start(filled))
    box = app.selectbox(key="saliency.criterion")
    assert list(box.options) == [criterion.title for criterion in CRITERIA.values()]
    assert set(EXPLAINED) == set(available())
    open_tab(app, "The criterion")
    for name in available():
        app.selectbox(key="saliency.criterion").select(name).run()
        assert not app.exception
        assert app.session_state["nirvana.draft"].saliency.criterion == name
        assert any(describe_criterion(name).startswith(caption.value[:-1]) for caption in app.caption)
        assert any(text.value == EXPLAINED[name].text for text in app.markdown)


def test_another_criterions_scores_are_compared_layer_by_layer(start: Start, filled: Run, rival: Run) -> None:
    app = open_tab(visit(start(filled)), "Another criterion")
    assert app.selectbox(key="saliency.against").value == rival.id
    assert list(app.selectbox(key="saliency.against").options) == ["FLAP · Rival"]
    mine, theirs = filled.saliency(), rival.saliency()
    assert mine is not None and theirs is not None
    spec = json.loads(app.get_by_key("saliency.agreement").proto.spec)
    drawn = {trace["name"]: trace["y"] for trace in spec["data"]}
    found = np.frombuffer(base64.b64decode(drawn["MLP"]["bdata"]), np.float32)
    expected = [rank_correlation(mine[site], theirs[site]) for site in mine if site.module == "mlp"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert app.get_by_key("saliency.overlap") is not None
    assert "FLAP" in "".join(text.value for text in app.markdown)


def test_where_no_other_criterion_scored_the_model_the_page_says_what_to_do(
    start: Start, store: Store, filled: Run
) -> None:
    fill(store.create(Recipe().change("allocation", sparsity=0.35), name="Same criterion"), seed=1)
    app = open_tab(visit(start(filled)), "Another criterion")
    assert not any(box.key == "saliency.against" for box in app.selectbox)
    assert any("Choose another one above" in caption.value for caption in app.caption)
