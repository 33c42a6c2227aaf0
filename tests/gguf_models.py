"""Tiny models in each of llama.cpp's forms, with tokenizers that llama.cpp can have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nirvana.checkpoints.gguf_tokenizer import QWEN2
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.plan import PruningPlan
from tests.conftest import english
from tests.uneven import equal_plan, uneven_plan, write_family_model


def byte_pairs(folder: Path, *, splits: str = "qwen2") -> Path:
    """Replace the tokenizer of a model's folder by one with merged pairs, of the same size."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    steps: dict[str, list[Any]] = {
        "qwen2": [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "llama-bpe": [
            pre_tokenizers.Split(Regex(QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ],
        "other": [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    }
    tokenizer = Tokenizer(models.BPE())
    untyped: Any = tokenizer
    untyped.pre_tokenizer = pre_tokenizers.Sequence(steps[splits]) if len(steps[splits]) > 1 else steps[splits][0]
    untyped.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(english(200, seed=1), trainer)
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>").save_pretrained(folder)
    return folder


def lm_with_pairs(place: Path, library: str, *, splits: str = "qwen2", **changes: Any) -> LM:
    """A tiny model whose tokenizer llama.cpp can have; seven embeddings have no token."""
    folder = write_family_model(place / library, library, **{"vocab_size": 307, **changes})
    return load_model(byte_pairs(folder, splits=splits), device="cpu")


FORMS: dict[str, tuple[str, dict[str, Any], Callable[[LM], PruningPlan]]] = {
    "deci": ("Llama", {}, uneven_plan),
    "deci of Mistral": ("Mistral", {"sliding_window": None}, uneven_plan),
    "openelm": ("Qwen3", {}, uneven_plan),
    "llama": ("Llama", {}, equal_plan),
    "llama of Mistral": ("Mistral", {"sliding_window": None}, equal_plan),
    "qwen3": ("Qwen3", {"tie_word_embeddings": False}, equal_plan),
    "qwen2": ("Qwen2", {}, lambda lm: equal_plan(lm, groups=None)),
}
