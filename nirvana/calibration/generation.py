"""Self-generated text: sampled from the dense model, for calibration without data."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.registry import SELF_GENERATED
from nirvana.calibration.corpora.stored import Splits, stored
from nirvana.errors import CorpusError, ModelError
from nirvana.models.generation_progress import Reporting
from nirvana.models.generation_settings import own_settings
from nirvana.progress import ProgressCallback, report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nirvana.models.lm import LM

SHARES = {"calibration": 0.5, "probe": 0.35, "evaluation": 0.15}  # probes take 8192 tokens, and each token is work
DOCUMENT = 256  # tokens at most
SHORTEST = 32  # tokens: no document ends sooner
DOCUMENTS = 12  # at least, for the splits
BATCH = 32
SEPARATOR = "<|endoftext|>"  # between documents, for tokenizers in the manner of GPT-2
STAGE = "Writing text"


def generate_corpus(
    lm: LM,
    *,
    tokens: int = 24_576,
    seed: int = 0,
    temperature: float = 1.0,
    progress: ProgressCallback | None = None,
) -> Corpus:
    """Generate documents of up to 256 tokens with the model, each from the begin token alone.

    Sampled from the full distribution with a separate generator: the same seed gives the same text on the same kind of
    device, and the global random state is unchanged. Offline; the text is kept in the cache folder.

    Args:
        tokens: number of tokens in all, at least 384. The default fills 16 probes of 512 tokens and several calibration
            sets.
        seed: of the draw, 0 or more.
        temperature: above 0; below 1 the text is plainer and more repetitive.
        progress: called after every token of a batch; may raise `Cancelled`.

    Raises:
        CorpusError: a number makes no sense, or the model is an encoder-decoder.
        ModelError: the weights are not in memory, or the outputs are not numbers.
    """
    if tokens < DOCUMENTS * SHORTEST:
        raise CorpusError(
            f"{tokens} tokens are too few for three splits.", f"Ask for {DOCUMENTS * SHORTEST} tokens or more."
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise CorpusError(f"Text cannot be sampled at a temperature of {temperature}.", "Use about 1.")
    if seed < 0:
        raise CorpusError(f"A seed cannot be negative, such as {seed}.", "Use 0 or more.")
    if lm.family.encoder_decoder:
        raise CorpusError(
            f"{lm.source.name} is an encoder-decoder and needs an input to generate from.", "Choose another corpus."
        )
    lm.weights()
    description = f"Written by {lm.source.name} itself, sampled at temperature {temperature:g} with seed {seed}."

    def build() -> Splits:
        documents = _documents(lm, tokens, seed, temperature, progress)
        corpus = Corpus.from_documents(documents, name=SELF_GENERATED.name, kind=SELF_GENERATED.name, shares=SHARES)
        return dict(corpus.splits)

    key = {
        "corpus": SELF_GENERATED.name,
        "model": lm.hash,
        "tokens": tokens,
        "seed": seed,
        "temperature": temperature,
        "device": lm.device.type,
        "dtype": str(lm.dtype),
    }
    return Corpus(SELF_GENERATED.name, description, SELF_GENERATED.name, stored(key, build))


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that began each text in training.

    Usually the BOS token; where that opens a turn of a chat, or there is none, the separator of documents.

    Raises:
        ModelError: the tokenizer has no special tokens at all.
    """
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    vocabulary = tokenizer.get_vocab()
    begin = tokenizer.bos_token
    plain = begin if begin and begin not in template else None
    for name in (plain, SEPARATOR, begin, tokenizer.eos_token):
        if name and name in vocabulary:
            return int(vocabulary[name])
    raise ModelError("The tokenizer has no token that begins a text.", "Choose another corpus for this model.")


class Sampling(LogitsProcessor):
    """Turns greedy decoding into sampling: the largest of logits plus Gumbel noise is a draw from their softmax.

    So the library's own loop samples with a generator of this module. Noise is drawn on the CPU whatever the device, so
    that there is one sequence of draws.
    """

    def __init__(self, seed: int, temperature: float) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.isnan().any():
            raise ModelError("The model gives outputs that are not numbers.", "Load it with dtype float32.")
        noise = torch.empty(scores.shape).exponential_(generator=self.generator).log_().neg_()  # (B, V)
        return scores.float() / self.temperature + noise.to(scores.device)


def _documents(lm: LM, tokens: int, seed: int, temperature: float, progress: ProgressCallback | None) -> list[str]:
    sampling = Sampling(seed, temperature)
    positions = lm.family.geometry(lm.settings).get("positions", DOCUMENT)
    length = max(SHORTEST, min(DOCUMENT, positions - 1, tokens // DOCUMENTS))
    documents: list[str] = []
    written = 0
    report(progress, STAGE, 0, tokens)
    while written < tokens:
        rows = min(BATCH, -(-(tokens - written) // length))
        scaled = _per_row(progress, written, rows, tokens)
        for row in write(lm, rows, length, sampling, scaled):
            documents.append(str(lm.tokenizer.decode(row, skip_special_tokens=True)))
            written += len(row)
    report(progress, STAGE, tokens, tokens)
    return documents


def write(
    lm: LM, rows: int, length: int, sampling: Sampling, progress: ProgressCallback | None = None
) -> list[list[int]]:
    """Sample `rows` documents of at most `length` tokens in one batch, without their begin and end tokens."""
    begin, ends = first_token(lm.tokenizer), _ends(lm)
    configure: Any = GenerationConfig  # the library leaves both untyped
    generate: Any = lm.weights().generate
    settings = configure(
        do_sample=False,
        max_new_tokens=length,
        min_new_tokens=min(SHORTEST, length),
        eos_token_id=sorted(ends) or None,
        pad_token_id=min(ends, default=begin),
        suppress_tokens=sorted({*lm.tokenizer.all_special_ids, begin} - ends) or None,
    )
    start = torch.full((rows, 1), begin, device=lm.device)
    with torch.inference_mode(), own_settings(lm.weights()):
        output = generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            generation_config=settings,
            logits_processor=LogitsProcessorList([sampling]),
            stopping_criteria=StoppingCriteriaList([Reporting(progress, prompt=1, total=length)]),
        )
    return [list(itertools.takewhile(lambda token: token not in ends, row)) for row in output[:, 1:].tolist()]


def _per_row(progress: ProgressCallback | None, written: int, rows: int, tokens: int) -> ProgressCallback | None:
    """Map the reports of a batch, in tokens of one row, to tokens of all."""
    if progress is None:
        return None
    return lambda inner: report(progress, STAGE, min(written + rows * inner.done, tokens), tokens)


def _ends(lm: LM) -> set[int]:
    """Tokens that end a document: end of sequence, end of a turn, and the separator of documents."""
    configured = getattr(lm.weights().generation_config, "eos_token_id", None)
    ends = set(configured if isinstance(configured, list) else [configured])
    ends |= {lm.tokenizer.eos_token_id, lm.tokenizer.get_vocab().get(SEPARATOR)}
    return {int(token) for token in ends if token is not None}
