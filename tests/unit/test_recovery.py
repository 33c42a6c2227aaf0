"""Recovery: exact gradients, exact resumption, adapters, and what ends a training early."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nirvana as nv
from nirvana import cli
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.calibration.sampling import all_windows
from nirvana.errors import Cancelled, RecoveryError
from nirvana.forward import bounds
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.progress import Progress
from nirvana.recovery.batches import AllWindows
from nirvana.recovery.history import Check, RecoveryHistory
from nirvana.recovery.objectives import distillation, language_modelling
from nirvana.recovery.options import RecoveryOptions
from nirvana.recovery.recover import usual_texts
from tests.conftest import english
from tests.families import test_t5 as makers
from tests.recoveries import SHORT, logits, pruned, same_weights

pytestmark = pytest.mark.usefixtures("library_texts")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = tmp_path_factory.mktemp("text") / "sample.txt"
    path.write_text("\n\n".join(english(260, seed=4)), encoding="utf-8")
    return load_corpus(str(path))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = tmp_path_factory.mktemp("text") / "other.txt"
    path.write_text("\n\n".join(english(260, seed=9)), encoding="utf-8")
    return load_corpus(str(path))


@pytest.mark.parametrize("objective", ["distill", "full"])
def test_chunks_give_the_gradients_of_full_logits(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "CHUNK_LOGITS", 3 * 50)  # three positions at a time
    torch.manual_seed(0)
    head, teacher, body = nn.Linear(8, 50, bias=False), nn.Linear(6, 50, bias=False), nn.Linear(4, 8)
    inputs, taught = torch.randn(11, 4), torch.randn(11, 6)
    labels = torch.randint(0, 50, (11,))
    labels[3] = -100
    if objective == "distill":
        found = distillation(head, body(inputs), teacher, taught, 0.25)
    else:
        found = language_modelling(head, body(inputs), labels, 0.25)
    gradients = [weight.grad.clone() for weight in (head.weight, body.weight) if weight.grad is not None]
    for module in (head, body):
        module.zero_grad()
    log_q = head(body(inputs)).log_softmax(-1)
    if objective == "distill":
        expected = nn.functional.kl_div(log_q, teacher(taught).log_softmax(-1), log_target=True, reduction="sum")
    else:
        expected = nn.functional.nll_loss(log_q, labels, ignore_index=-100, reduction="sum")
    (expected * 0.25).backward()  # type: ignore[no-untyped-call]
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)
    for got, weight in zip(gradients, (head.weight, body.weight), strict=True):
        assert weight.grad is not None and torch.allclose(got, weight.grad, atol=1e-6)


@pytest.mark.parametrize("values", [{}, {"rank": 4}, {"method": "lora"}, {"method": "full"}], ids=str)
def test_the_best_weights_are_returned_and_nothing_else_changes(
    values: dict[str, Any], tiny_lm: LM, text: Corpus, other: Corpus
) -> None:
    small = pruned(tiny_lm)
    before = {name: value.clone() for name, value in small.weights().state_dict().items()}
    events: list[int] = []
    texts = {"own": text, "other": other}

    def count(history: RecoveryHistory) -> None:
        events.append(len(history.steps) + len(history.checks))

    healed = nv.recover(small, text, teacher=tiny_lm, held_out=texts, on_step=count, **SHORT | values)
    after = small.weights().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the small model is untouched"
    assert list(healed.weights().state_dict()) == list(before), "adapters are merged"
    history = healed.history
    assert history is not None and not history.stopped
    assert events == list(range(1, len(history.steps) + len(history.checks) + 1))
    assert history.checks[0].step == 0 and history.checks[-1].step == len(history.steps)
    assert history.steps[-1].tokens >= 700 > history.steps[-2].tokens
    metric = history.protocol["best_by"]
    assert history.best.mean(metric) < history.checks[0].mean(metric), "it has learnt something"
    windows = nv.sample_probe(tiny_lm, other, samples=8, length=24, seed=0)
    with torch.inference_mode():
        loss = healed.weights()(windows.input_ids, labels=windows.input_ids).loss
    assert math.exp(loss) == pytest.approx(history.best.perplexity["other"], rel=1e-5)
    assert nv.divergence(tiny_lm, healed, windows).mean == pytest.approx(history.best.kl["other"], rel=1e-4)
    assert set(history.best.kl) == set(texts)
    assert healed.layout == small.layout and healed.hash != small.hash
    assert all(not weight.requires_grad for weight in healed.weights().parameters())
    again = RecoveryHistory.from_json(json.loads(json.dumps(history.to_json())))
    assert again == history


def test_distillation_moves_towards_the_dense_model(tiny_lm: LM, text: Corpus, other: Corpus) -> None:
    healed = nv.recover(pruned(tiny_lm), text, teacher=tiny_lm, held_out={"other": other}, **SHORT | {"tokens": 2_000})
    assert healed.history is not None
    assert healed.history.best.kl["other"] < 0.9 * healed.history.checks[0].kl["other"]


@pytest.mark.parametrize("values", [{}, {"method": "lora", "dropout": 0.2}], ids=str)
def test_a_cancelled_recovery_continues_bit_for_bit(
    values: dict[str, Any], tiny_lm: LM, text: Corpus, tmp_path: Path
) -> None:
    small, how = pruned(tiny_lm), SHORT | {"teacher": tiny_lm, "held_out": {"own": text}} | values
    whole = nv.recover(small, text, **how)
    for raised in (Cancelled, KeyboardInterrupt):  # saved where it stops; from the last measurement
        reports = iter(range(1_000))

        def stop(_: Progress, raised: type[BaseException] = raised, reports: Any = reports) -> None:
            if next(reports) == 9:
                raise raised

        with pytest.raises(raised):
            nv.recover(small, text, state=tmp_path / "state", progress=stop, **how)
        assert (tmp_path / "state").is_dir()
        rest = nv.recover(small, text, state=tmp_path / "state", **how)
        assert same_weights(rest, whole)
        assert rest.history is not None and whole.history is not None
        assert [step.loss for step in rest.history.steps] == [step.loss for step in whole.history.steps]
        assert not (tmp_path / "state").exists(), "a finished recovery needs no state"


def test_a_state_of_another_recovery_is_refused(tiny_lm: LM, text: Corpus, tmp_path: Path) -> None:
    small, how = pruned(tiny_lm), SHORT | {"teacher": tiny_lm, "held_out": {"own": text}}

    def stop(_: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        nv.recover(small, text, state=tmp_path / "state", progress=stop, **how)
    with pytest.raises(RecoveryError, match="another recovery"):
        nv.recover(small, text, state=tmp_path / "state", **how | {"seed": 1})
    (tmp_path / "state" / "recovery.json").write_text("{")
    with pytest.raises(RecoveryError, match="damaged"):
        nv.recover(small, text, state=tmp_path / "state", **how)


def test_an_exploding_loss_ends_with_the_best_weights(tiny_lm: LM, text: Corpus) -> None:
    small = pruned(tiny_lm)
    how = SHORT | {"learning_rate": 0.9, "warmup": 0, "tokens": 5_000, "clip": 1e5}
    healed = nv.recover(small, text, teacher=tiny_lm, held_out={"own": text}, **how)
    assert healed.history is not None and "are kept" in healed.history.stopped
    assert healed.history.best.step == 0 and same_weights(healed, small)


def test_a_loss_that_is_not_a_number_ends_with_the_best_weights(
    tiny_lm: LM, text: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = iter([1.0, 1.0, float("nan")])
    monkeypatch.setattr(
        "nirvana.recovery.trainer.distillation", lambda *inputs: distillation(*inputs) * next(factors, 1.0)
    )
    healed = nv.recover(pruned(tiny_lm), text, teacher=tiny_lm, held_out={"own": text}, **SHORT)
    assert healed.history is not None and "not a number" in healed.history.stopped
    assert all(bool(weight.isfinite().all()) for weight in healed.weights().parameters())


@pytest.mark.parametrize("saved", ["as it is", "uniform"])
def test_the_adapter_alone_gives_the_merged_logits_in_peft(
    saved: str, tiny_lm: LM, text: Corpus, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    scores = nv.score(tiny_lm, None, criterion="magnitude")
    lm = nv.prune(tiny_lm, nv.allocate(scores, sparsity=0.3, uniform=saved == "uniform"))
    base = (nv.export_uniform if saved == "uniform" else nv.save)(lm, tmp_path / "base")
    healed = nv.recover(
        lm, text, method="lora", held_out={"own": text}, adapter=tmp_path / "adapter", **SHORT | {"learning_rate": 0.02}
    )
    merged = logits(healed.weights())
    plain: Any = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=True)
    assert not torch.allclose(logits(plain), merged, atol=1e-4)
    adapted: Any = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    assert torch.allclose(logits(adapted), merged, atol=1e-4)


def test_a_recovered_model_is_saved_and_read(tiny_lm: LM, text: Corpus, tmp_path: Path) -> None:
    healed = nv.recover(pruned(tiny_lm), text, teacher=tiny_lm, held_out={"own": text}, **SHORT)
    again = load_model(str(nv.save(healed, tmp_path / "healed")), device="cpu")
    assert same_weights(again, healed) and again.recoveries == healed.recoveries
    assert again.recoveries[0]["method"] == "distill" and again.recoveries[0]["tokens"] == healed.history.best.tokens  # type: ignore[union-attr]
    assert "distillation from the dense model" in (tmp_path / "healed" / "README.md").read_text(encoding="utf-8")
    plain = load_model(str(nv.export_uniform(healed, tmp_path / "uniform")), device="cpu")
    assert torch.allclose(logits(plain.weights()), logits(healed.weights()), atol=1e-5)


@pytest.mark.parametrize("method", ["distill", "lora", "full"])
def test_an_encoder_decoder_recovers_at_its_task(method: str, text: Corpus, tmp_path: Path) -> None:
    makers.T5Tests.write(tmp_path / "t5")
    t5 = load_model(tmp_path / "t5", device="cpu")
    healed = nv.recover(
        pruned(t5), text, teacher=t5, method=method, held_out={"own": text}, **SHORT | {"learning_rate": 5e-3}
    )
    assert healed.history is not None and healed.history.best.step > 0
    assert np.isfinite(list(healed.history.best.perplexity.values())).all()


def test_overfitting_is_named() -> None:
    def check(step: int, own: float, other: float) -> Check:
        return Check(step, step * 10, float(step), {"own": own, "other": other})

    history = RecoveryHistory(checks=[check(0, 20, 30), check(1, 15, 25), check(2, 8, 28)])
    assert history.overfitted == ["other"] and history.best.step == 2
    assert RecoveryHistory(checks=[check(0, 20, 30), check(1, 15, 25), check(2, 16, 28)]).overfitted == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"minutes": 0, "tokens": 0}, "no budget"),
        ({"epochs": -1}, "0 to 10,000"),
        ({"teacher": None}, "needs the dense model"),
        ({"adapter": "somewhere"}, "no adapter"),
        ({"method": "magic"}, "one of distill"),
        ({"learning_rate": 1.0}, "between"),
    ],
    ids=str,
)
def test_impossible_requests_are_refused(values: dict[str, Any], message: str, tiny_lm: LM, text: Corpus) -> None:
    with pytest.raises(RecoveryError, match=message):
        nv.recover(pruned(tiny_lm), text, **SHORT | {"teacher": tiny_lm, "held_out": {"own": text}} | values)


def test_published_settings() -> None:
    lora = RecoveryOptions(method="lora")
    assert (lora.adapter_rank, lora.alpha, lora.dropout, lora.peak_rate(4096)) == (8, 16, 0.05, 1e-4)
    assert RecoveryOptions().adapter_rank == 0
    assert RecoveryOptions().peak_rate(1_000) == pytest.approx(1e-4)
    assert RecoveryOptions(learning_rate=0.5).peak_rate(1_000) == 0.5
    published = RecoveryOptions.published(rank=4)
    assert (published.method, published.rank, published.alpha, published.dropout) == ("lora", 4, 16, 0.05)
    assert (published.epochs, published.minutes, published.tokens) == (2, 0, 0)
    assert (published.batch, published.warmup, published.decay, published.prompts) == (16, 50, "linear", "masked")


def test_an_epoch_is_every_window_once(tiny_lm: LM, text: Corpus) -> None:
    options = RecoveryOptions(epochs=2, batch=7, micro_batch=3, length=24, seed=5)
    batches = AllWindows(tiny_lm, text, options)

    def epoch(number: int) -> list[list[int]]:
        steps = range(number * batches.steps, (number + 1) * batches.steps)
        return [row for step in steps for batch in batches.of_step(step) for row in batch.input_ids.tolist()]

    first, second = epoch(0), epoch(1)
    assert first != second and sorted(first) == sorted(second)
    windows = all_windows(tiny_lm, text, length=24, seed=5)
    assert sorted(first) == sorted(windows.tolist())
    assert first == [row for step in range(batches.steps) for row in windows[batches.rows_of(step)].tolist()]
    characters = len(text.split("calibration").text)  # of one byte, and one token, each
    assert windows.shape == (characters // 24, 24) and batches.steps == -(-len(windows) // 7)


def test_a_budget_of_epochs_with_a_linear_decay(tiny_lm: LM) -> None:
    words = " ".join(english(6))[:1_200]
    text = Corpus("sample", "", "text", dict.fromkeys(("calibration", "probe", "evaluation"), (words,)))
    how = SHORT | {"tokens": 0, "epochs": 2, "decay": "linear", "learning_rate": 1e-3, "warmup": 0}
    healed = nv.recover(pruned(tiny_lm), text, method="full", held_out={"own": text}, **how)
    assert healed.history is not None
    steps = healed.history.steps  # 50 windows of 24 tokens in steps of 4: 13 steps an epoch, the last of 2 windows
    assert len(steps) == 26 and steps[-1].tokens == 2 * 1_200
    assert [step.learning_rate for step in steps] == pytest.approx([1e-3 * (1 - step / 26) for step in range(26)])


def test_the_command_recovers_a_checkpoint(
    tiny_lm: LM, tiny_folder: Path, sample_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nv.save(pruned(tiny_lm), tmp_path / "pruned")
    line = ["recover", "--model", str(tmp_path / "pruned"), "--device", "cpu", "--corpus", str(sample_text)]
    budget = [
        "--recovery-minutes",
        "0",
        "--recovery-tokens",
        "200",
        "--batch",
        "2",
        "--recovery-length",
        "24",
        "--checks",
        "1",
    ]
    assert cli.main([*line, *budget]) == 2
    assert "needs the dense model" in capsys.readouterr().err
    line += ["--dense", str(tiny_folder), "--output", str(tmp_path / "out"), *budget]
    assert cli.main(line) == 0
    shown = capsys.readouterr().out
    assert "Held-out text" in shown and "(kept)" in shown and "library-docs" in shown
    assert load_model(str(tmp_path / "out"), device="cpu").recoveries[0]["method"] == "distill"
    assert cli.main([*line, "--json"]) == 0
    history = json.loads(capsys.readouterr().out)
    assert history["checks"][0]["step"] == 0 and history["hash"]


@pytest.mark.parametrize(
    ("names", "other"),
    [
        (("python-docs",), "library-docs"),
        (("library-docs", "python-docs"), "stdlib-code"),
        (("library-docs", "python-docs", "stdlib-code"), None),
    ],
    ids=str,
)
def test_another_kind_of_text_is_held_out_where_there_is_one(names: tuple[str, ...], other: str | None) -> None:
    text = nv.load_corpus(" + ".join(names))
    assert list(usual_texts(text)) == [text.name, *([other] if other else [])]
