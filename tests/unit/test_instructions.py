"""Instructions: the published template, labels of the answers alone, and recoveries on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import nirvana as nv
from nirvana import cli
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.records import alpaca_prompt
from nirvana.calibration.corpora.registry import load_corpus, mix
from nirvana.errors import CorpusError, RecoveryError
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.recovery.batches import Batch
from nirvana.recovery.instructions import Instructions
from nirvana.recovery.options import RecoveryOptions
from tests.conftest import byte_tokenizer, english
from tests.families import test_t5 as makers
from tests.recoveries import SHORT, pruned

pytestmark = pytest.mark.usefixtures("library_texts")
END = 1  # token of the tiny tokenizer
LONG = SHORT | {"length": 240}  # characters, of which the template has 150
YES, NO = {"instruction": "A", "output": "yes"}, {"instruction": "Abc", "output": "no"}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    content = "\n".join(map(json.dumps, records)) if path.suffix == ".jsonl" else json.dumps(records, indent=1)
    path.write_text(content, encoding="utf-8")
    return path


def some_records() -> list[dict[str, Any]]:
    pairs = zip(english(120, seed=1), english(120, seed=2), strict=True)
    return [{"instruction": question[:25], "input": "", "output": answer[:40]} for question, answer in pairs]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load_corpus(write(tmp_path_factory.mktemp("text") / "sample.jsonl", some_records()))


def step(lm: LM, text: Corpus, **values: Any) -> list[Batch]:
    """Batches of the first step."""
    options = RecoveryOptions(**LONG | values)
    return list(Instructions(lm, [text.split("calibration")], options).of_step(0))


def only(lm: LM, *records: dict[str, str], **values: Any) -> Batch:
    """The batch of a step with these records."""
    prompts = [alpaca_prompt(record["instruction"]) for record in records]
    texts = tuple(prompt + record["output"] for prompt, record in zip(prompts, records, strict=True))
    names = ("calibration", "probe", "evaluation")
    sizes = dict.fromkeys(names, tuple(map(len, prompts)))
    (batch,) = step(lm, Corpus("records", "", "file", dict.fromkeys(names, texts), prompts=sizes), **values)
    return batch


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_records_take_the_published_template(suffix: str, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "output": "Hello"},
        {"instruction": "Part.", "input": None, "output": "Bye", "source": "x"},
    ]
    found = load_corpus(write(tmp_path / f"sample{suffix}", records))
    splits = [found.split(name) for name in found.splits]
    pairs = [pair for split in splits for pair in zip(split.documents, split.prompts, strict=True)]
    assert {(document[:size], document[size:]) for document, size in pairs} == {
        (
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n",
            "3",
        ),
        *(
            (
                "Below is an instruction that describes a task. Write a response that appropriately completes the "
                f"request.\n\n### Instruction:\n{instruction}\n\n### Response:\n",
                answer,
            )
            for instruction, answer in (("Greet.", "Hello"), ("Part.", "Bye"))
        ),
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"instruction": "a", "output": "b"}\n{"instruction": "a"}',
            "Line 2 of a.jsonl has no output field",
        ),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n{"text": "a"}', "Line 2 of a.jsonl has no instruction field"),
        ("a.jsonl", '{"instruction": "a", "input": 3, "output": "b"}', "Line 1 of a.jsonl has no input field"),
        ("a.jsonl", '{"text": "a"}\n{"instruction": "a", "output": "b"}', "Line 2 of a.jsonl has no text field"),
        ("a.json", '[{"text": "a"}, 3]', "Record 2 of a.json has no text field"),
        ("a.json", '[{"text": "a"},', "a.json is not JSON"),
        ("a.json", '{"text": "a"}\n{"text": 1}', "Line 2 of a.json has no text field"),
    ],
)
def test_bad_records_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        load_corpus(tmp_path / name)


@pytest.mark.parametrize("prompts", ["masked", "counted"])
def test_labels_are_those_of_the_answers(prompts: str, tiny_lm: LM) -> None:
    batch = only(tiny_lm, YES, NO, prompts=prompts)
    assert batch.counted is not None and batch.attention_mask is not None
    sizes = []
    for row, labels, mask, counted in zip(
        batch.input_ids, batch.labels, batch.attention_mask, batch.counted, strict=True
    ):
        size = int(mask.sum())
        joined = str(tiny_lm.tokenizer.decode(row[: size - 1].tolist()))
        record = YES if joined.endswith("yes") else NO
        prompt = alpaca_prompt(record["instruction"])
        assert joined == prompt + record["output"] and int(row[size - 1]) == END
        assert mask.tolist() == [1] * size + [0] * (len(row) - size)
        first = len(prompt) - 1 if prompts == "masked" else 0  # each position predicts the next token
        expected = [-100] * first + row[first + 1 : size].tolist() + [-100] * (1 + len(row) - size)
        assert labels.tolist() == expected
        assert counted.tolist() == [label != -100 for label in expected]
        sizes.append(size)
    assert batch.tokens == sum(sizes) and batch.input_ids.shape == (2, max(sizes))


def test_a_token_that_spans_the_end_of_the_prompt_is_of_the_answer(tiny_lm: LM) -> None:
    from tokenizers import Tokenizer

    tokenizer: Any = byte_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"]["ĊĊ"] = content["model"]["vocab"].pop("Ā")
    content["model"]["merges"] = [["Ċ", "Ċ"]]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    batch = only(replace(tiny_lm, tokenizer=tokenizer), YES | {"output": "\n\nyes"})
    answer = [label for label in batch.labels[0].tolist() if label != -100]
    assert tokenizer.convert_ids_to_tokens(answer) == ["ĊĊ", "Ċ", "y", "e", "s", "</s>"]


def test_records_without_room_for_an_answer_are_left_out(tiny_lm: LM) -> None:
    records = [YES, {"instruction": "A" * 90, "output": "no"}]
    records += [{"instruction": "B", "output": " "}, {"instruction": "C", "output": "y" * 90}]
    batch = only(tiny_lm, *records, length=200)
    assert batch.attention_mask is not None and batch.input_ids.shape == (2, 200)
    last = [row[mask.bool()][-1] for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    assert sorted(map(int, last)) == [END, *tiny_lm.tokenizer("y")["input_ids"]]  # the long answer is cut
    with pytest.raises(RecoveryError, match="room for it in 20 tokens"):
        only(tiny_lm, *records, length=20)


def test_an_encoder_reads_the_prompt_and_the_decoder_the_answer(tmp_path: Path) -> None:
    makers.T5Tests.write(tmp_path / "t5")
    t5 = load_model(tmp_path / "t5", device="cpu")
    batch = only(t5, YES, NO)
    assert batch.attention_mask is not None and batch.decoder_input_ids is not None
    (yes, no), (asked, other) = (
        [t5.tokenizer(each)["input_ids"] for each in (one, two)]
        for one, two in (("yes", "no"), (alpaca_prompt("A"), alpaca_prompt("Abc")))
    )
    rows = zip(batch.input_ids.tolist(), batch.decoder_input_ids.tolist(), batch.labels.tolist(), strict=True)
    assert sorted(rows) == sorted(
        [
            ([*asked, END, 0, 0], [0, *yes], [*yes, END]),
            ([*other, END], [0, *no, 0], [*no, END, -100]),
        ]
    )
    assert sorted(batch.attention_mask.sum(1).tolist()) == [len(asked) + 1, len(other) + 1]
    assert batch.tokens == 4 + 3


@pytest.mark.parametrize("method", ["full", "lora", "distill"])
def test_the_loss_is_the_mean_over_the_answers(method: str, tiny_lm: LM, text: Corpus) -> None:
    small, how = pruned(tiny_lm), LONG | {"method": method, "teacher": tiny_lm, "held_out": {"own": text}}
    healed = nv.recover(small, text, **how | {"tokens": 1_400, "dropout": 0.0})
    total, count = 0.0, 0
    for batch in step(small, text):
        for row, labels in zip(batch.input_ids, batch.labels, strict=True):  # padding follows and changes nothing
            places = (labels != -100).nonzero().flatten()
            with torch.inference_mode():
                student, dense = (lm.weights()(row[None]).logits[0, places].log_softmax(-1) for lm in (small, tiny_lm))
            if method == "distill":
                total += float((dense.exp() * (dense - student)).sum())
            else:
                total -= float(student.gather(1, labels[places][:, None]).sum())
            count += len(places)
    assert healed.history is not None and healed.history.best.step > 0
    assert healed.history.steps[0].loss == pytest.approx(total / count, rel=1e-4)


def test_an_encoder_decoder_learns_to_answer(text: Corpus, tmp_path: Path) -> None:
    makers.T5Tests.write(tmp_path / "t5")
    t5 = load_model(tmp_path / "t5", device="cpu")
    how = LONG | {"tokens": 0, "epochs": 1, "learning_rate": 5e-3, "method": "full"}
    healed = nv.recover(pruned(t5), text, held_out={"own": text}, **how)
    assert healed.history is not None
    assert healed.history.steps[-1].loss < 0.9 * healed.history.steps[0].loss


def test_instructions_are_not_mixed_with_text(tiny_lm: LM, text: Corpus, sample_text: Path) -> None:
    with pytest.raises(RecoveryError, match="cannot be mixed"):
        nv.recover(tiny_lm, mix([text, sample_text]), method="full", held_out={"own": text}, **SHORT)


def test_the_published_settings_on_the_command_line(
    tiny_lm: LM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nv.save(pruned(tiny_lm), tmp_path / "pruned")
    file = write(tmp_path / "alpaca.json", some_records())
    line = ["recover", "--model", str(tmp_path / "pruned"), "--device", "cpu", "--corpus", str(file)]
    line += ["--preset", "published", "--epochs", "1", "--recovery-length", "240", "--checks", "1", "--json"]
    assert cli.main([*line, "--output", str(tmp_path / "out")]) == 0
    history = json.loads(capsys.readouterr().out)
    assert history["protocol"]["options"] == RecoveryOptions.published(epochs=1, length=240, checks=1).to_json()
    trained = len(load_corpus(file).split("calibration").documents)
    assert history["steps"][-1]["step"] == -(-trained // 16)
