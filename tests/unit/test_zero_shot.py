"""Zero-shot tasks: the harness's own numbers, on models and items at hand, without a network."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import nirvana as nv
from nirvana.errors import Cancelled, ModelError, TaskError
from nirvana.evaluation.results import Report
from nirvana.evaluation.zero_shot.minimal_pairs import minimal_pairs
from nirvana.evaluation.zero_shot.phenomena import PHENOMENA
from nirvana.evaluation.zero_shot.results import comparisons, measurements, paired_difference, paired_interval
from nirvana.evaluation.zero_shot.tasks import MINIMAL_PAIRS, characters, find_tasks, task_title
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.progress import Progress
from tests.conftest import TINY, english, write_tiny_model
from tests.families import test_t5 as makers


def write_tasks(folder: Path, count: int = 30) -> Path:
    """Two local tasks of made-up items, of which some answers are longer than others."""
    sentences = " ".join(english(8, seed=3)).split(". ")
    folder.mkdir(exist_ok=True)
    choices, contexts = [], []
    for index in range(count):
        one, other, third = (sentences[(3 * index + part) % len(sentences)] for part in range(3))
        answers = [f"{other}.", third[: 8 + index], "No."][: 2 + index % 2]
        choices.append({"query": f"Question {index}: {one}?\n", "choices": answers, "gold": index % len(answers)})
        contexts.append({"context_options": [one, third], "continuation": f"near {other}.", "gold": index % 2})
    for name, items in (("answers", choices), ("ways", contexts)):
        text = "\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        (folder / f"{name}.jsonl").write_text(f"{text}\n\n", encoding="utf-8")
    return folder


YAML = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: {text}
doc_to_choice: {choices}
doc_to_target: {target}
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}{more}]
"""


def by_the_command(model: Path, tasks: Path, folder: Path, patch: pytest.MonkeyPatch, **options: str) -> dict[str, Any]:
    """What `lm-eval run` says of the two tasks, from YAML files as its guide has them."""
    import lm_eval.evaluator
    import lm_eval.tasks
    from lm_eval.__main__ import cli_evaluate

    more = ", {metric: acc_norm, aggregation: mean, higher_is_better: true}"
    kinds = {
        "answers": {"text": "query", "choices": "choices", "target": "gold", "more": more},
        "ways": {"text": "gold", "choices": "context_options", "target": "continuation", "more": ""},
    }
    folder.mkdir()
    for name, fields in kinds.items():
        text = YAML.format(name=name, file=tasks / f"{name}.jsonl", **fields)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    # Its own thousands of tasks are not asked for, and a report on the machine takes seconds.
    patch.setattr(
        lm_eval.tasks.TaskManager, "__init__", partialmethod(lm_eval.tasks.TaskManager.__init__, include_defaults=False)
    )
    patch.setattr(lm_eval.evaluator, "add_env_info", lambda _: None)
    arguments = ",".join(
        f"{name}={value}" for name, value in {"pretrained": model, "dtype": "float32", **options}.items()
    )
    words = [
        "--model",
        "hf",
        "--model_args",
        arguments,
        "--device",
        "cpu",
        "--batch_size",
        "4",
        "--tasks",
        "answers,ways",
    ]
    words += ["--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples"]
    patch.setattr(sys, "argv", ["lm-eval", "run", *words])
    patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    cli_evaluate()
    (report,) = (folder / "out").rglob("results_*.json")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))["results"]
    for name in kinds:
        (samples,) = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        found[name]["outcomes"] = [bool(row["acc"]) for row in sorted(rows, key=lambda row: int(row["doc_id"]))]
    return found


def write_byte_llama(folder: Path) -> Path:
    """A Llama that reads bytes by ByT5's tokenizer, which ends every text with </s>."""
    from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = ByT5Tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=1, **TINY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_t5(folder: Path) -> Path:
    """With a tied head: the command itself would tie one that is not."""
    makers.TestT5.write(folder)
    return folder


@pytest.mark.parametrize(
    ("write", "options"),
    [(write_tiny_model, {}), (write_byte_llama, {"add_bos_token": "False"}), (write_t5, {})],
    ids=["llama", "bytes", "encoder-decoder"],
)
def test_the_numbers_are_those_of_the_harness_command(
    write: Callable[[Path], Path], options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tasks = write(tmp_path / "model"), write_tasks(tmp_path / "tasks")
    expected = by_the_command(model, tasks, tmp_path / "command", monkeypatch, **options)
    lm = load_model(str(model), device="cpu")
    found = nv.zero_shot(lm, str(tasks))
    assert [item.task for item in found.tasks] == ["answers.jsonl", "ways.jsonl"]
    assert set(found.tasks[0].correct) == {"acc", "acc_norm"} and set(found.tasks[1].correct) == {"acc"}
    for item in found.tasks:
        theirs = expected[item.task.removesuffix(".jsonl")]
        for metric in item.correct:
            assert item.value(metric) == pytest.approx(theirs[f"{metric},none"])
            assert item.standard_error(metric) == pytest.approx(theirs[f"{metric}_stderr,none"])
        assert list(item.correct["acc"]) == theirs["outcomes"] and 0 < item.value() < 1


def test_a_sentence_counts_with_every_token_after_the_one_that_begins_a_text(tiny_lm: LM) -> None:
    found = nv.zero_shot(tiny_lm, MINIMAL_PAIRS, items=6)
    model, start = tiny_lm.weights(), tiny_lm.tokenizer.bos_token_id

    def likelihood(sentence: str) -> float:
        ids = torch.tensor([[start, *tiny_lm.tokenizer.encode(sentence, add_special_tokens=False)]])
        with torch.inference_mode():
            logits = torch.log_softmax(model(ids).logits[0, :-1].float(), dim=-1)
        return -float(F.nll_loss(logits, ids[0, 1:], reduction="sum"))

    assert [item.task for item in found.tasks] == [MINIMAL_PAIRS, *(f"{MINIMAL_PAIRS}/{key}" for key in PHENOMENA)]
    right = [
        [likelihood(pair.good) > likelihood(pair.bad) for pair in minimal_pairs(key, count=6)] for key in PHENOMENA
    ]
    for key, expected in zip(PHENOMENA, right, strict=True):
        assert list(found.find(f"{MINIMAL_PAIRS}/{key}").correct["acc"]) == expected
    overall = found.find(MINIMAL_PAIRS)
    assert (
        list(overall.correct["acc"]) == [each for part in right for each in part]
        and overall.n == 72
        and overall.chance == 0.5
    )
    protocol = overall.protocol
    assert protocol["harness"].startswith("lm-eval 0.") and protocol["shots"] == 0 and len(protocol["items"]) == 16


def test_a_model_that_finds_all_alike_is_right_half_the_time(make_lm: Callable[..., LM]) -> None:
    lm = make_lm(seed=5)
    head = lm.family.head(lm.weights())
    head.weight.data.zero_()
    assert nv.zero_shot(lm, MINIMAL_PAIRS, items=10).find(MINIMAL_PAIRS).value() == 0.5


def test_outputs_that_are_no_numbers_are_no_answers(make_lm: Callable[..., LM]) -> None:
    lm = make_lm(seed=5)
    lm.family.head(lm.weights()).weight.data.fill_(math.nan)
    with pytest.raises(ModelError, match="not numbers"):
        nv.zero_shot(lm, MINIMAL_PAIRS, items=1)


def test_the_tokenizer_and_the_random_numbers_stay_as_they_are(tiny_lm: LM, tmp_path: Path) -> None:
    tokenizer = tiny_lm.tokenizer
    before, state = dict(tokenizer.special_tokens_map), torch.random.get_rng_state()
    nv.zero_shot(tiny_lm, str(write_tasks(tmp_path)), items=3)
    assert dict(tokenizer.special_tokens_map) == before and torch.equal(torch.random.get_rng_state(), state)


def test_batches_make_no_difference(tiny_lm: LM, tmp_path: Path) -> None:
    tasks = str(write_tasks(tmp_path) / "answers.jsonl")
    one, many = (nv.zero_shot(tiny_lm, tasks, batch_size=size).tasks[0] for size in (1, 16))
    assert np.array_equal(one.correct["acc"], many.correct["acc"])


def test_progress_grows_and_may_cancel(tiny_lm: LM, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[Progress] = []
    nv.zero_shot(tiny_lm, MINIMAL_PAIRS, items=2, progress=seen.append)
    assert [item.done for item in seen] == sorted(item.done for item in seen)
    assert seen[0].done == 0 and seen[-1].fraction == 1 and seen[-1].total == 48 and len(seen) > 4
    captured = capfd.readouterr()
    assert not captured.out and not captured.err

    def stop(progress: Progress) -> None:
        if progress.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        nv.zero_shot(tiny_lm, MINIMAL_PAIRS, items=2, progress=stop)
    assert nv.zero_shot(tiny_lm, MINIMAL_PAIRS, items=1).tasks[0].n == 12  # nothing is left of it


def test_prompts_that_do_not_fit_are_counted_and_answers_refused(make_lm: Callable[..., LM], tmp_path: Path) -> None:
    lm = make_lm(max_position_embeddings=32)
    path = tmp_path / "long.jsonl"
    items = [{"query": "a" * length, "choices": ["yes", "no"], "gold": 0} for length in (5, 40, 60)]
    path.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    assert nv.zero_shot(lm, str(path)).tasks[0].protocol["truncated"] == 4
    path.write_text(json.dumps({"query": "a", "choices": ["b" * 50, "no"], "gold": 0}), encoding="utf-8")
    with pytest.raises(TaskError, match="32 positions"):
        nv.zero_shot(lm, str(path))


def test_a_head_of_its_own_stays_untied(tmp_path: Path) -> None:
    makers.TestByT5.write(tmp_path / "model")
    lm = load_model(str(tmp_path / "model"), device="cpu")
    before = {name: weight.clone() for name, weight in lm.weights().state_dict().items()}
    assert nv.zero_shot(lm, str(write_tasks(tmp_path / "tasks")), items=4).tasks[0].n == 4
    assert all(torch.equal(weight, before[name]) for name, weight in lm.weights().state_dict().items())


def test_minimal_pairs_are_refused_for_an_encoder_decoder(tmp_path: Path) -> None:
    lm = load_model(str(write_t5(tmp_path)), device="cpu")
    with pytest.raises(TaskError, match="encoder-decoder"):
        nv.zero_shot(lm, MINIMAL_PAIRS)


def test_a_pruned_model_is_compared_item_by_item(tiny_lm: LM) -> None:
    plan = nv.allocate(nv.score(tiny_lm, None, criterion="random"), sparsity=0.4, gamma=1, multiple_of=4)
    small = nv.prune(tiny_lm, plan)
    dense, pruned = (nv.zero_shot(lm, MINIMAL_PAIRS, items=10) for lm in (tiny_lm, small))
    one, other = dense.find(MINIMAL_PAIRS), pruned.find(MINIMAL_PAIRS)
    difference = paired_difference(one, other)
    assert difference.value == pytest.approx(other.value() - one.value()) and difference.n == 120
    assert difference.low <= difference.value <= difference.high and difference.lost + difference.gained > 0
    report = Report(tuple(measurements(dense, "dense", {"note": "x"}) + measurements(pruned, "pruned", {"note": "x"})))
    again = Report.from_json(json.loads(json.dumps(report.to_json())))
    found = {item.task: item for item in comparisons(again)}
    assert len(found) == 13 and found[MINIMAL_PAIRS].difference() == difference
    measured = again.find("accuracy", "pruned", task=MINIMAL_PAIRS, note="x")
    assert measured is not None and measured.n == 120 and measured.value == other.value()
    with pytest.raises(TaskError, match="measured differently: items"):
        paired_difference(one, nv.zero_shot(small, MINIMAL_PAIRS, items=4).find(MINIMAL_PAIRS))


def test_a_task_that_was_not_measured_is_named(tiny_lm: LM, tmp_path: Path) -> None:
    found = nv.zero_shot(tiny_lm, str(write_tasks(tmp_path, count=11)))
    with pytest.raises(TaskError, match=r"answers\.jsonl"):
        found.find("piqa")


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Differences of a known 0.08, on 200 items each."""
    draw = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        fate = draw.choice(3, 200, p=(0.80, 0.14, 0.06))  # both alike, lost, gained
        alike = draw.random(200) < 0.7
        found = paired_interval(np.where(fate == 0, alike, fate == 1), np.where(fate == 0, alike, fate == 2))
        covered.append(found.low <= -0.08 <= found.high)
    assert 0.935 <= np.mean(covered) <= 0.965


def test_a_few_items_do_not_prove_anything() -> None:
    right, wrong = np.ones(2, bool), np.zeros(2, bool)
    assert not paired_interval(right, wrong).clear
    same = paired_interval(right, right)
    assert same.value == 0 and same.low < 0 < same.high
    many = paired_interval(np.ones(50, bool), np.zeros(50, bool))
    assert many.clear and many.value == -1 and many.low == -1 and (many.lost, many.gained) == (50, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not an item"),
        ('{"query": "a", "choices": ["b"], "gold": 0}', "two texts or more"),
        ('{"query": "a", "choices": ["b", ""], "gold": 0}', "two texts or more"),
        ('{"query": 3, "choices": ["b", "c"], "gold": 0}', "query one text"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}', "not the index"),
        ('{"query": "a", "choices": ["b", "c"], "gold": true}', "not the index"),
        ('{"context_options": ["a", "b"], "continuation": "", "gold": 0}', "continuation one text"),
        ('{"context_options": ["a", "b"], "continuation": "c", "gold": 0}', "mixes two kinds"),
    ],
)
def test_a_malformed_item_is_named_by_its_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"query": "a", "choices": ["b", "c"], "gold": 0}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(TaskError, match=message) as raised:
        find_tasks([str(path)])
    assert "mixes" in message or "line 3" in raised.value.message


def test_names_that_are_no_tasks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for folder in ("one", "two"):
        (tmp_path / folder / "a.jsonl").write_text('{"query": "a", "choices": ["b", "c"], "gold": 0}')
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    for names, message in (
        (["mnli"], "no zero-shot task 'mnli'"),
        ([""], "no zero-shot task"),
        ([], "No zero-shot task is named"),
        ([str(tmp_path)], "has no items|cannot be read"),
        ([str(tmp_path / "one"), str(tmp_path / "two")], "Two tasks are called a.jsonl"),
        ([str(tmp_path / "binary.jsonl")], "cannot be read"),
        ([MINIMAL_PAIRS, MINIMAL_PAIRS], "Two tasks are called"),
    ):
        with pytest.raises(TaskError, match=message):
            find_tasks(names)
    with pytest.raises(TaskError, match="not a number of items"):
        find_tasks([MINIMAL_PAIRS], items=-1)


def test_what_is_read_is_known_before(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "four", "choices": ["b", "cc"], "gold": 0}', encoding="utf-8")
    assert characters([str(path)], 0) == 11 and characters([], 0) == 0
    assert characters([MINIMAL_PAIRS], 2) == sum(
        len(s) for key in PHENOMENA for p in minimal_pairs(key, count=2) for s in p
    )
    assert characters([MINIMAL_PAIRS, "piqa"], 2) is None
    titles = [task_title(name) for name in ("piqa", MINIMAL_PAIRS, f"{MINIMAL_PAIRS}/filler-gap", "a.jsonl")]
    assert titles == ["PIQA", "Minimal pairs", "A question word and its gap", "a.jsonl"]


def test_a_hub_task_says_what_to_do_without_a_network(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub.\nMore of it")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(TaskError, match="PIQA cannot be read from the hub: Couldn't reach the Hub") as raised:
        nv.zero_shot(tiny_lm, "piqa")
    assert MINIMAL_PAIRS in raised.value.hint


def test_a_hub_task_is_scored_as_the_harness_defines_it(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{"goal": f"Go {n}", "sol1": "left now", "sol2": "right", "label": n % 2} for n in range(5)]
    table = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: {"train": table, "validation": table})
    (found,) = nv.zero_shot(tiny_lm, "piqa", items=4).tasks
    assert found.task == "piqa" and found.n == 4 and set(found.correct) == {"acc", "acc_norm"} and found.chance == 0.5


def test_nothing_is_asked_of_the_network(tiny_folder: Path, tmp_path: Path) -> None:
    """In a process of its own, that is not told to stay offline and in which every connection fails."""
    tasks = write_tasks(tmp_path / "tasks", count=4)
    script = f"""
import os, socket
os.environ.pop("HF_HUB_OFFLINE", None)
tried = []
def refuse(self, address, *rest):
    tried.append(address)
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *arguments, **_: refuse(None, arguments)
import nirvana as nv
lm = nv.load_model({str(tiny_folder)!r}, device="cpu")
print(nv.zero_shot(lm, ["minimal-pairs", {str(tasks)!r}], items=2))
assert not tried, tried
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "minimal-pairs/filler-gap: acc" in done.stdout and "ways.jsonl: acc" in done.stdout


@pytest.mark.skipif("NIRVANA_TEST_DATA" not in os.environ, reason="NIRVANA_TEST_DATA names no folder of real items")
def test_a_folder_of_real_tasks_is_asked(tiny_lm: LM) -> None:
    found = nv.zero_shot(tiny_lm, str(Path(os.environ["NIRVANA_TEST_DATA"]) / "zeroshot"), items=3)
    assert {item.n for item in found.tasks} == {3} and len(found.tasks) >= 7
    assert set(found.find("winogrande.jsonl").correct) == {"acc"}
    assert set(found.find("piqa.jsonl").correct) == {"acc", "acc_norm"} and found.find("arc_easy.jsonl").chance == 0.25


@pytest.mark.smollm2
def test_smollm2_knows_its_grammar(smollm2: LM) -> None:
    found = nv.zero_shot(smollm2, MINIMAL_PAIRS, items=10).find(MINIMAL_PAIRS)
    assert found.value() - 2 * found.standard_error() > 0.6
