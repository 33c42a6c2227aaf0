"""Zero-shot tasks through lm-evaluation-harness, on a model that is in memory."""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from nirvana.environment import unchanged_environment
from nirvana.errors import ModelError, NirvanaError, TaskError
from nirvana.evaluation.zero_shot.results import ACCURACIES, TaskAccuracy, ZeroShot
from nirvana.evaluation.zero_shot.tasks import (
    MINIMAL_PAIRS,
    LocalTask,
    Task,
    check_fit,
    find_tasks,
    harness_version,
)
from nirvana.files import content_hash
from nirvana.forward.bounds import MOST_LOGITS, batch_tokens
from nirvana.models.lm import LM
from nirvana.models.quiet import quiet_library
from nirvana.progress import ProgressCallback, report

with unchanged_environment():  # the harness sets a variable of the hub's library
    import lm_eval.api.task
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

STAGE = "Zero-shot"


class Harness(HFLM):  # type: ignore[misc]  # the library is not typed
    """The harness's own model class with batches by tokens, progress, and errors in place of assertions."""

    def __init__(self, lm: LM, batch_size: int, progress: ProgressCallback | None) -> None:
        tokenizer = copy.deepcopy(lm.tokenizer)  # the harness adds a padding token
        vocabulary = lm.family.geometry(lm.settings)["vocabulary"]
        self._budget = min(batch_tokens(lm.device.type), MOST_LOGITS // vocabulary)
        self._name, self._progress, self._check_tokens = lm.source.name, progress, lm.check_tokens
        self._done = self._total = 0
        self._asked: list[str] = []
        self.truncated: Counter[str] = Counter()  # by task: prompts that were truncated at the beginning
        super().__init__(
            lm.module(),
            backend="seq2seq" if lm.family.encoder_decoder else "causal",
            tokenizer=tokenizer,
            batch_size=batch_size or "auto",
            softmax_dtype="float32",
            add_bos_token=False if not lm.family.encoder_decoder and _ends(tokenizer) else None,
        )

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As in the harness, without its progress bar."""
        self._asked = [str(request.task_name) for request in requests]
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(self, requests: list[Any], *arguments: Any, **named: Any) -> list[tuple[float, bool]]:
        longest = max(len(answer) for _, _, answer in requests)
        if longest > self.max_length:
            raise TaskError(
                f"An answer has {longest:,} tokens; {self._name} has {self.max_length:,} positions.",
                "Choose a task with shorter answers.",
            )
        if min(len(answer) for _, _, answer in requests) == 0:
            raise TaskError(f"An answer has no tokens for the tokenizer of {self._name}.", "Choose another task.")
        for _, question, answer in requests:
            self._check_tokens([*question, *answer])
        separate = self.backend == "seq2seq"
        for name, (_, question, answer) in zip(self._asked, requests, strict=True):
            self.truncated[name] += len(question) + (0 if separate else len(answer) - 1) > self.max_length
        self._done, self._total = 0, len(requests)
        report(self._progress, STAGE, 0, self._total)
        answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *arguments, **named)
        report(self._progress, STAGE, self._total, self._total)
        return answers

    def _batch_scheduler(self, pos: int, n_reordered_requests: Sequence[Any]) -> int:
        """Number of requests in the batch that begins at `pos`; requests are sorted longest first."""
        _, question, answer = n_reordered_requests[pos]
        length = max(len(question), len(answer)) if self.backend == "seq2seq" else len(question) + len(answer)
        return max(1, self._budget // min(length, int(self.max_length)))

    def _model_call(self, inps: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        report(self._progress, STAGE, self._done, self._total)
        logits: torch.Tensor = super()._model_call(inps, *arguments, **named)
        self._done += len(inps)
        return logits


def zero_shot(
    lm: LM,
    tasks: str | Sequence[str],
    *,
    items: int = 0,
    batch_size: int = 0,
    progress: ProgressCallback | None = None,
) -> ZeroShot:
    """How often the right answer is the likeliest for `lm`, without examples in the prompt or a chat template.

    Log-likelihoods, decisions and standard errors are those of lm-evaluation-harness; the softmax is in float32. A
    tokenizer that appends a token to every text, such as ByT5's on a language model, is used without special tokens. An
    encoder-decoder reads the question in its encoder and is scored on the answer. Minimal pairs have no question, so
    they need a model without an encoder; they are scored by the likelihood of the whole sentence after the BOS token
    (EOS where there is none).

    Args:
        tasks: "minimal-pairs", names of the harness's tasks on the hub (see `zero_shot.tasks.HUB`), .jsonl files, or
            folders of them.
        items: number of items of each task and phenomenon, from the first; 0 for all.
        batch_size: requests run at once; 0 to choose by tokens, some hundred on a CPU.
        progress: called before each batch; may raise `Cancelled`.

    Raises:
        TaskError: a task is unknown, malformed, cannot be downloaded, or does not fit the model.
        ModelError: the weights are not in memory, or the model's output is not a number.
    """
    wanted = find_tasks([tasks] if isinstance(tasks, str) else tasks, items=items)
    check_fit((task.name for task in wanted), lm.source.name, encoder=lm.family.encoder_decoder)
    if lm.tokenizer.eos_token_id is None and lm.tokenizer.bos_token_id is None:
        raise TaskError(
            f"The tokenizer of {lm.source.name} has neither a begin nor an end token to start requests with.",
            "Set eos_token in tokenizer_config.json.",
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 0:
        raise TaskError(f"{batch_size} is no batch size.", "Use 0, or a whole number.")
    with _silence():
        loaded = {task.name: _load(task) for task in wanted}
        model = Harness(lm, batch_size, progress)
        results: Any = evaluate(model, {"tasks": loaded}, limit=items or None, bootstrap_iters=0)
    protocol: dict[str, Any] = {"harness": harness_version(), "shots": 0}
    if model.add_bos_token is not None:
        protocol["special tokens"] = "none"
    found = []
    for name in loaded:
        more = {"truncated": model.truncated[name]} if model.truncated[name] else {}
        version = str(results["versions"][name])
        found.append(_accuracy(lm, name, results["samples"][name], {**protocol, "task version": version, **more}))
    return ZeroShot(tuple(_with_overall(found)))


def _ends(tokenizer: Any) -> bool:
    """Whether a tokenizer appends a token to a text, which the harness would count as part of the question."""
    return tokenizer.eos_token_id is not None and tokenizer.encode("a")[-1:] == [tokenizer.eos_token_id]


def _load(task: Task) -> Any:
    if isinstance(task, LocalTask):
        return ConfigurableTask(config=task_config(task))
    definitions = Path(lm_eval.__file__).parent / "tasks" / task.folder
    manager = TaskManager(include_defaults=False, include_path=str(definitions))
    try:
        loaded = manager.load([task.name])["tasks"][task.name]
    except (NirvanaError, MemoryError):
        raise
    except Exception as error:  # downloads and readers of data sets raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TaskError(
            f"{task.title} cannot be read from the hub: {reason}.",
            f"Its items are downloaded at first use: check the network, or use {MINIMAL_PAIRS} or local .jsonl tasks.",
        ) from error
    loaded.set_config("num_fewshot", 0)
    return loaded


def task_config(task: LocalTask) -> dict[str, Any]:
    """The harness's configuration of a local task, as a YAML file would give it, with the items in memory."""
    table = datasets.Dataset.from_list([dict(item) for item in task.items])
    options, rest = ("context_options", "continuation") if task.contexts else ("choices", "query")
    # Contexts are not normalised by length: the scored continuation is the same after each. Sentences of a pair are
    # compared whole.
    metrics = ("acc",) if task.contexts or not task.delimiter else ("acc", "acc_norm")
    return {
        "task": task.name,
        "output_type": "multiple_choice",
        "custom_dataset": lambda **_: {"test": table},
        "test_split": "test",
        "doc_to_text": "gold" if task.contexts else rest,
        "doc_to_choice": options,
        "doc_to_target": rest if task.contexts else "gold",
        "target_delimiter": task.delimiter,
        "num_fewshot": 0,
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
        "metadata": {"version": 1.0},
    }


def _accuracy(lm: LM, name: str, samples: list[dict[str, Any]], protocol: dict[str, Any]) -> TaskAccuracy:
    scores = [[float(tries[0][0]) for tries in sample["resps"]] for sample in samples]
    if any(math.isnan(value) for row in scores for value in row):
        raise ModelError(
            f"{lm.source.name} or its pruned form gives outputs that are not numbers.",
            "Load the model with dtype float32, or prune less.",
        )
    chance = float(np.mean([1 / len(row) if len(row) > 1 else 0.0 for row in scores]))
    correct = {
        metric: np.array([sample[metric] for sample in samples]) > 0 for metric in ACCURACIES if metric in samples[0]
    }
    items = content_hash(*(str(sample["doc_hash"]) for sample in samples))
    return TaskAccuracy(name, correct, chance, {**protocol, "items": items[:16]})


def _with_overall(found: list[TaskAccuracy]) -> Iterator[TaskAccuracy]:
    """`found`, with the sum of all minimal pairs before the phenomena."""
    parts = [item for item in found if item.task.startswith(f"{MINIMAL_PAIRS}/")]
    for item in found:
        if parts and item is parts[0]:
            correct = {"acc": np.concatenate([part.correct["acc"] for part in parts])}
            items = content_hash(*(part.protocol["items"] for part in parts))[:16]
            yield TaskAccuracy(MINIMAL_PAIRS, correct, item.chance, {**item.protocol, "items": items})
        yield item


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the harness's log lines and progress bars, which would repeat `progress` and this project's errors."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    bar = lm_eval.api.task.tqdm  # its bar over prompts has no switch
    lm_eval.api.task.tqdm = lambda items, **_: items
    try:
        with quiet_library():
            yield
    finally:
        lm_eval.api.task.tqdm = bar
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
