"""Pages of a model with an encoder: each stack and each kind of attention is shown apart, and its task is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.calibration.tasks import CONTINUATION, SPANS
from nirvana.dashboard import state
from nirvana.models.families.t5 import T5Family
from nirvana.runs.recipe import CalibrationChoice, EvaluationChoice, Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import PLACE, SMALL_T5, fill, keys_on, open_tab
from tests.app.test_journey import wait
from tests.families.test_t5 import TestByT5 as ByT5

Start = Callable[..., AppTest]


@pytest.fixture
def encoder_decoder(store: Store) -> Run:
    """A run of a made-up T5 with a result of every step."""
    return fill(store.create(Recipe(), name="T5"), SMALL_T5, family=T5Family())


@pytest.fixture(scope="session")
def byt5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random gated ByT5: 3 encoder and 2 decoder layers. Read only."""
    folder = tmp_path_factory.mktemp("models") / "byt5-tiny"
    ByT5.write(folder)
    return folder


def titles(app: AppTest) -> str:
    return "\n".join(item.value for item in app.markdown)


def chart(app: AppTest, key: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(app.get_by_key(key).proto.spec)
    return spec


def test_scores_are_shown_by_stack_and_kind_of_attention(start: Start, encoder_decoder: Run) -> None:
    app = start(encoder_decoder)
    app.switch_page("pages/saliency.py").run()
    assert not app.exception
    assert app.segmented_control(key="saliency.stack").value == "encoder"
    assert "Which encoder self-attention KV groups score high?" in titles(app)
    assert "saliency.heatmap.cross_attention" not in keys_on(app)
    app.segmented_control(key="saliency.stack").select("decoder").run()
    assert not app.exception
    assert {f"saliency.heatmap.{module}" for module in ("attention", "cross_attention", "mlp")} <= keys_on(app)
    assert {f"saliency.curve.{module}" for module in ("attention", "cross_attention", "mlp")} <= keys_on(app)
    assert "Which cross-attention KV groups of layer 0 are removed?" in titles(app)


def test_the_plan_is_shown_by_stack(start: Start, encoder_decoder: Run) -> None:
    app = start(encoder_decoder)
    app.switch_page("pages/allocation.py").run()
    assert not app.exception
    assert {"allocation.stacks", "allocation.kept.encoder", "allocation.kept.decoder"} <= keys_on(app)
    names = {trace["name"] for trace in chart(open_tab(app, "Parameters"), "allocation.parts")["data"]}
    assert {"encoder self-attention, kept", "cross-attention, kept", "decoder MLP, removed"} <= names
    app.switch_page("pages/prune.py").run()
    assert not app.exception
    sizes = {key for key in keys_on(app) if key.startswith("prune.sizes.") and key.count(".") == 3}
    assert {f"prune.sizes.{part}" for part in ("encoder.mlp", "decoder.cross_attention", "decoder.mlp")} <= sizes


def test_formats_that_the_model_cannot_be_written_in_say_why(start: Start, encoder_decoder: Run) -> None:
    summary = encoder_decoder.pruned()
    assert summary is not None
    encoder_decoder.put("prune", replace(summary, refused={"gguf": "T5 models cannot be written."}), **PLACE)
    app = start(encoder_decoder)
    app.switch_page("pages/prune.py").run()
    assert not app.button(key="prune.export").disabled
    captions = app.get_by_key("prune.format").proto.captions
    assert [caption.partition(":")[0] for caption in captions[:2]] == ["279 kB in float32", "300 kB in float32"]
    assert "T5 models cannot be written." in captions[2]
    words = " ".join(element.value for element in app.markdown)
    assert "Use it elsewhere" in words and "transformers" in words and "vLLM" not in words
    app.selectbox(key="prune.export_dtype").set_value("bfloat16").run()
    captions = app.get_by_key("prune.format").proto.captions
    assert captions[0].startswith("140 kB in bfloat16")
    app.radio(key="prune.format").set_value("gguf").run()
    assert app.button(key="prune.export").disabled


def test_only_a_model_with_an_encoder_has_a_task_to_choose(start: Start, encoder_decoder: Run, store: Store) -> None:
    app = start(encoder_decoder)
    app.switch_page("pages/calibration.py").run()
    box = app.selectbox(key="calibration.task")
    assert box.value == "auto"
    assert box.options[0] == "Automatic: span corruption"
    box.select(CONTINUATION).run()
    assert app.session_state[state.DRAFT].calibration.task == CONTINUATION
    assert encoder_decoder.step_state("model", app.session_state[state.DRAFT]) == "done"
    assert encoder_decoder.step_state("calibration", app.session_state[state.DRAFT]) == "stale"

    decoder = fill(store.create(Recipe().change("calibration", task=SPANS), name="Decoder"))
    other = start(decoder)
    other.switch_page("pages/calibration.py").run()
    assert "calibration.task" not in keys_on(other)
    assert other.session_state[state.DRAFT].calibration.task == "auto"


def test_another_model_forgets_the_task(start: Start, encoder_decoder: Run, tiny_folder: Path, store: Store) -> None:
    run = store.create(encoder_decoder.recipe.change("calibration", task=CONTINUATION), parent=encoder_decoder)
    app = start(run)
    app.switch_page("pages/model.py").run()
    assert "Encoder and decoder layers" in [metric.label for metric in app.metric]
    app.segmented_control(key="model.source").select("Local").run()
    app.text_input(key="model.path").set_value(str(tiny_folder)).run()
    assert app.session_state[state.DRAFT].calibration.task == "auto"


@pytest.mark.usefixtures("worker_here")
def test_from_a_model_folder_to_a_comparison(start: Start, store: Store, sample_text: Path, byt5_folder: Path) -> None:
    text = str(sample_text)
    recipe = Recipe(
        calibration=CalibrationChoice(
            corpus=text, candidates=2, samples=3, length=48, probe_samples=3, probe_length=48
        ),
        evaluation=EvaluationChoice(corpora=(text,), window=64, max_tokens=256),
    )
    app = start(store.create(recipe, name="Journey"))
    app.switch_page("pages/model.py").run()
    app.segmented_control(key="model.source").select("Local").run()
    app.text_input(key="model.path").set_value(str(byt5_folder)).run()
    assert not app.error
    assert next(metric.value for metric in app.metric if metric.label == "Encoder and decoder layers") == "3 + 2"
    app.button(key="model.load").click().run()
    assert wait(app).status == "done"

    app.switch_page("pages/calibration.py").run()
    assert app.selectbox(key="calibration.task").options[0] == "Automatic: span corruption"
    app.selectbox(key="calibration.task").select(CONTINUATION).run()
    app.button(key="calibration.run").click().run()
    assert wait(app).status == "done", app.error
    app.switch_page("pages/saliency.py").run()
    app.button(key="saliency.run").click().run()
    assert wait(app).status == "done", app.error
    app.segmented_control(key="saliency.stack").select("decoder").run()
    assert not app.exception

    app.switch_page("pages/allocation.py").run()
    app.select_slider(key="allocation.gamma").set_value(1.0).run()
    assert "allocation.stacks" in keys_on(app)
    app.switch_page("pages/prune.py").run()
    app.button(key="prune.compare").click().run()
    assert wait(app).status == "done", app.error
    app.switch_page("pages/compare.py").run()
    assert not app.exception
    assert any("continuation" in caption.value for caption in app.caption)

    run = store.open(app.query_params["run"])
    report = run.report()
    assert run.status == "done"
    assert report is not None
    for metric in ("perplexity", "KL divergence"):
        measured = report.find(metric, "pruned")
        assert measured is not None
        assert measured.protocol["task"] == CONTINUATION

    app.switch_page("pages/prune.py").run()
    app.button(key="prune.export").click().run()
    assert wait(app).status == "done", app.error
    assert "prune.download" in keys_on(app) and "prune.export" not in keys_on(app)
    assert any("bit-equal" in caption.value for caption in app.caption)
    assert any("AutoModelForSeq2SeqLM" in code.value for code in app.code)
    app.radio(key="prune.format").set_value("uniform").run()
    assert not app.button(key="prune.export").disabled
    assert any('nv.export(small, "pruned", format="uniform")' in code.value for code in app.code)
    app.radio(key="prune.format").set_value("gguf").run()
    assert app.button(key="prune.export").disabled
    summary = run.pruned()
    assert summary is not None and set(summary.refused) == {"gguf"}
