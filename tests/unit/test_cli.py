"""The command line, end to end on a tiny random model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nirvana import cli
from nirvana.commands.console import BETWEEN_LINES, Bar, print_report
from nirvana.evaluation.results import Measurement, Report
from nirvana.files import strict
from nirvana.plan import PruningPlan
from nirvana.progress import Progress
from nirvana.runs.presets import PRESETS
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from tests.commands import NAMES, NEEDED, READING, ask, naming_example, refused
from tests.processes import heed_interrupts

pytest_plugins = ("tests.commands",)

ROOT = Path(cli.__file__).parents[1]


def test_run_writes_the_checkpoint_and_its_records(
    capsys: pytest.CaptureFixture[str], small: list[str], tmp_path: Path
) -> None:
    from nirvana.models.loading import load_model

    output = tmp_path / "out"
    words = ["run", *small, "--sparsity", "0.3", "--gamma", "2", "--output", str(output), "--name", "mine"]
    result = ask(capsys, *words)
    assert result["status"] == "done" and result["name"] == "mine" and result["output"] == str(output)
    report = json.loads((output / "report.json").read_text())
    assert report == result["report"]
    values = {(m["metric"], m["subject"]): m["value"] for m in report["measurements"]}
    assert values["perplexity", "pruned"] > 1 and values["perplexity", "dense"] > 1
    assert values["parameters", "pruned"] < values["parameters", "dense"]
    plan = PruningPlan.from_json(json.loads((output / "plan.json").read_text()))
    assert plan.gamma == 2 and plan.sparsity == result["plan"]["sparsity"]
    again = load_model(str(output), device="cpu")
    assert again.is_pruned and again.layout.parameters == values["parameters", "pruned"]
    recipe = Recipe.from_json(json.loads((output / "recipe.json").read_text()))
    (run,) = Store().runs()
    assert run.id == result["id"] and run.recipe == recipe and recipe.allocation.sparsity == 0.3
    assert cli.main(["run", str(output / "recipe.json"), "--output", str(output)]) == 0, "it may be written again"
    shown = capsys.readouterr()
    assert "perplexity" in shown.out and "±" in shown.out and "windows of 64" in shown.out and "cached" in shown.out


def test_a_format_that_cannot_be_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], small: list[str], tmp_path: Path
) -> None:
    folder, file = str(tmp_path / "pruned"), str(tmp_path / "pruned.gguf")
    assert "Use a name that ends in .gguf" in refused(capsys, "run", *small, "--export", "gguf", "--output", folder)
    reason = "reads single bytes, without merged pairs"
    assert reason in refused(capsys, "run", *small, "--export", "gguf", "--output", file)
    assert Store().runs() == []


def test_options_override_a_recipe(capsys: pytest.CaptureFixture[str], small: list[str], tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"allocation": {"sparsity": 0.4, "gamma": "inf"}, "calibration": {"seed": 3}}))
    result = ask(capsys, "run", str(path), *small, "--sparsity", "0.2", "--protect", "0", "--until", "model")
    allocation = result["recipe"]["allocation"]
    assert (allocation["sparsity"], allocation["gamma"], allocation["protected"]) == (0.2, "inf", [0])
    assert result["recipe"]["calibration"]["seed"] == 3
    assert result["steps"]["model"]["device"] == "cpu" and result["steps"]["saliency"] is None


def test_a_run_starts_from_the_recommended_recipe(capsys: pytest.CaptureFixture[str], small: list[str]) -> None:
    result = ask(capsys, "run", "recommended", *small, "--sparsity", "0.3", "--until", "model")
    expected = PRESETS["recommended"].recipe()
    assert result["recipe"]["prune"] == vars(expected.prune)
    assert result["recipe"]["saliency"] == vars(expected.saliency)
    assert result["recipe"]["allocation"]["sparsity"] == 0.3


def test_allocate_takes_published_allocations_and_equal_widths(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_folder: Path
) -> None:
    scores, output = str(tmp_path / "saliency.npz"), tmp_path / "plan.json"
    model = ["--model", str(tiny_folder), "--device", "cpu"]
    ask(capsys, "score", *model, "--criterion", "magnitude", "--output", scores)
    words = ["allocate", "--saliency", scores, "--sparsity", "0.3", "--multiple-of", "4", "--output", str(output)]
    for options, method, uniform in (
        ([], "shared", False),
        (["--allocation", "published"], "per-layer", False),
        (["--allocation", "published", "--uniform"], "per-layer", True),
    ):
        ask(capsys, *words, *options)
        plan = PruningPlan.from_json(json.loads(output.read_text()))
        assert (plan.method, plan.uniform) == (method, uniform)
        assert not uniform or len({len(kept) for site, kept in plan.items() if site.module == "mlp"}) == 1
    assert "must be one of shared, published, measured, not 'best'" in refused(capsys, *words, "--allocation", "best")


def test_single_steps_give_what_a_run_gives(
    capsys: pytest.CaptureFixture[str], small: list[str], tmp_path: Path, tiny_folder: Path, sample_text: Path
) -> None:
    model = ["--model", str(tiny_folder), "--device", "cpu"]
    files = {name: str(tmp_path / name) for name in ("calibration.npz", "saliency.npz", "plan.json", "pruned")}
    calibration = small[: small.index("--evaluate-on")]
    chosen = ask(capsys, "calibrate", *calibration, "--output", files["calibration.npz"])
    assert len(chosen["candidates"]) == 2 and chosen["winner"] in (0, 1)
    words = ["--calibration", files["calibration.npz"], "--output", files["saliency.npz"]]
    scores = ask(capsys, "score", *model, *words)
    assert scores["calibration_hash"] == chosen["hash"] and len(scores["sites"]) == 6
    budget = ["--sparsity", "0.3", "--multiple-of", "4"]
    plan = ask(capsys, "allocate", *budget, "--saliency", files["saliency.npz"], "--output", files["plan.json"])
    pruned = ask(capsys, "prune", *model, "--plan", files["plan.json"], "--output", files["pruned"])
    assert pruned["parameters"]["pruned"] == plan["parameters"] and "bit-equal" in pruned["checks"][0]
    from nirvana.models.loading import load_model

    plain = str(tmp_path / "plain")
    words = ["--plan", files["plan.json"], "--export", "uniform", "--output", plain]
    assert ask(capsys, "prune", *model, *words)["format"] == "uniform"
    assert not load_model(plain, device="cpu").is_pruned
    measure = ["--evaluate-on", str(sample_text), "--window", "64", "--max-tokens", "1024"]
    probe = ["--corpus", str(sample_text), "--probe-samples", "6", "--probe-length", "16"]
    words = ["--model", files["pruned"], "--device", "cpu", "--dense", str(tiny_folder)]
    report = ask(capsys, "evaluate", *words, *measure, *probe)
    whole = ask(capsys, "run", *small, "--sparsity", "0.3")
    assert whole["plan"]["sparsity"] == plan["sparsity"]

    def values(measurements: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
        return {(item["metric"], item["subject"]): item["value"] for item in measurements}

    assert values(report["measurements"]) == pytest.approx(values(whole["report"]["measurements"]), rel=1e-5)


def test_evaluate_a_dense_model_alone(capsys: pytest.CaptureFixture[str], tiny_folder: Path, sample_text: Path) -> None:
    words = ["--model", str(tiny_folder), "--device", "cpu", "--evaluate-on", str(sample_text), "--window", "64"]
    report = ask(capsys, "evaluate", *words, "--max-tokens", "1024")
    assert {item["subject"] for item in report["measurements"]} == {"dense"}
    assert {item["metric"] for item in report["measurements"]} == {"perplexity", "bits per byte", "parameters", "bytes"}


def test_evaluate_zero_shot_tasks_of_both_models(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path, tmp_path: Path, small: list[str]
) -> None:
    own, pruned = tmp_path / "own.jsonl", tmp_path / "pruned"
    own.write_text('{"query": "One and", "choices": ["two", "three."], "gold": 1}\n' * 3, encoding="utf-8")
    assert cli.main(["run", *small, "--until", "prune", "--sparsity", "0.3", "--output", str(pruned)]) == 0
    capsys.readouterr()
    words = ["evaluate", "--model", str(pruned), "--device", "cpu", "--dense", str(tiny_folder), *small[4:6]]
    words += ["--probe-samples", "6", "--probe-length", "16", "--evaluate-on", small[5], "--window", "64"]
    words += ["--max-tokens", "128", "--zero-shot", "minimal-pairs", "--zero-shot", str(own), "--zero-shot-items", "2"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "Zero-shot, lm-eval" in shown and "minimal-pairs/filler-gap" in shown and "own.jsonl, normalised" in shown
    report = ask(capsys, *words)
    found = [item for item in report["measurements"] if item["protocol"].get("task") == "minimal-pairs"]
    assert [(item["subject"], item["n"]) for item in found] == [("dense", 24), ("pruned", 24)]
    assert "no zero-shot task" in refused(capsys, "evaluate", "--model", str(tiny_folder), "--zero-shot", "mnli")


def test_score_without_text(capsys: pytest.CaptureFixture[str], tiny_folder: Path, tmp_path: Path) -> None:
    words = ["score", "--model", str(tiny_folder), "--device", "cpu", "--output", str(tmp_path / "s.npz")]
    first = ask(capsys, *words, "--criterion", "random", "--seed", "1")
    second = ask(capsys, *words, "--criterion", "random", "--seed", "2")
    assert first["hash"] != second["hash"]
    assert ask(capsys, *words, "--criterion", "magnitude")["criterion"] == "magnitude"
    assert "--calibration" in refused(capsys, *words)


def test_generated_text_is_a_corpus(capsys: pytest.CaptureFixture[str], tiny_folder: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "own.jsonl")
    words = ["--model", str(tiny_folder), "--device", "cpu", "--tokens", "1000", "--output", path]
    written = ask(capsys, "generate", *words)
    assert written["documents"] >= 3
    described = ask(capsys, "corpora", path)
    assert set(described["splits"]) == {"calibration", "probe", "evaluation"}


def test_inspect_and_corpora(capsys: pytest.CaptureFixture[str], tiny_folder: Path) -> None:
    found = ask(capsys, "inspect", str(tiny_folder))
    assert found["geometry"]["layers"] == 3 and found["prunable"] < found["parameters"]
    names = [corpus["name"] for corpus in ask(capsys, "corpora")]
    assert {"python-docs", "library-docs", "stdlib-code", "self-generated"} <= set(names)
    assert cli.main(["inspect", str(tiny_folder)]) == 0 and cli.main(["corpora"]) == 0
    assert "python-docs" in capsys.readouterr().out


def test_an_estimate_reads_no_weights(capsys: pytest.CaptureFixture[str], tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_folder / "config.json", tmp_path)
    words = ["estimate", str(tmp_path), "--step", "score", "--step", "save", "--samples", "8", "--dtype", "bfloat16"]
    found = ask(capsys, *words, "--tflops", "1", "--bandwidth", "50")
    assert {step["step"] for step in found["steps"]} == {"score", "save"} and found["free"] > 0
    assert all(step["seconds"] > 0 for step in found["steps"] if step["flops"])
    assert cli.main(words) == 0
    assert "nirvana, recompute" in capsys.readouterr().out
    assert "no step 'dance'" in refused(capsys, "estimate", str(tmp_path), "--step", "dance")


def test_runs_are_listed_shown_changed_and_deleted(capsys: pytest.CaptureFixture[str], small: list[str]) -> None:
    assert ask(capsys, "runs", "list") == []
    made = ask(capsys, "run", *small, "--until", "model")["id"]
    ask(capsys, "runs", "rename", made, "new name")
    ask(capsys, "runs", "pin", made)
    (listed,) = ask(capsys, "runs", "list")
    assert (listed["name"], listed["pinned"], listed["status"]) == ("new name", True, "partial") and listed["bytes"] > 0
    ask(capsys, "runs", "unpin", made)
    assert cli.main(["runs", "list"]) == 0 and cli.main(["runs", "show", made]) == 0
    assert "new name" in capsys.readouterr().out
    assert ask(capsys, "runs", "show", "example")["id"] == "example"
    ask(capsys, "runs", "delete", made)
    assert ask(capsys, "runs", "list") == []
    assert "no such run" in refused(capsys, "runs", "show", made)
    assert "no such run" in refused(capsys, "runs", "delete", "../../etc")
    assert "example" in refused(capsys, "runs", "delete", "example")


@pytest.mark.parametrize("name", [name for name in NAMES if naming_example(name)])
def test_the_example_is_read_and_never_changed(
    capsys: pytest.CaptureFixture[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [name, *NEEDED.get(name, []), *naming_example(name)]
    if name in READING:
        assert cli.main(words) == 0
    else:
        message = refused(capsys, *words)
        assert message == "Error: The example run cannot be changed.\n       Start a run of your own from it.\n"
    assert Store().runs() == []


def test_alone_it_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line.strip()[0].isalpha()]
    assert [name for name in listed if name in NAMES] == NAMES
    assert all(f"\n{group}:\n" in shown for group in ("pipeline", "steps", "studies", "runs"))


@pytest.mark.parametrize("name", [*NAMES, "runs rename"])
def test_every_subcommand_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*name.split(), "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: nirvana {name} [-h]")


def test_runs_alone_lists(capsys: pytest.CaptureFixture[str]) -> None:
    run = Store().create(Recipe(), name="mine")
    assert cli.main(["runs"]) == 0
    assert run.id in capsys.readouterr().out
    assert [ask(capsys, *words)[0]["id"] for words in (["runs"], ["runs", "list"])] == [run.id] * 2
    assert cli.main(["runs", "--json", "list"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "mine"


def start(*words: str, **named: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "nirvana", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment, text=True, stdout=pipe, stderr=pipe, preexec_fn=heed_interrupts, **named
    )


def test_help_imports_no_torch() -> None:
    code = "import sys, nirvana.cli as c\ntry: c.main(['run', '--help'])\nexcept SystemExit: pass\n"
    code += (
        "heavy = {'torch', 'transformers', 'datasets', 'streamlit', 'pandas'} & set(sys.modules); sys.exit(bool(heavy))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and b"--sparsity" in done.stdout


def test_ctrl_c_ends_with_130_and_keeps_finished_steps(small: list[str]) -> None:
    process = start("run", *small, "--candidates", "64", "--samples", "64")
    end = time.monotonic() + 120
    store = Store()
    while time.monotonic() < end and not any(run.info("model") for run in store.runs()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == cli.STOPPED and out == "" and "Stopped" in err and "Traceback" not in err
    (run,) = store.runs()
    assert run.status == "cancelled" and run.step_state("model") == "done" and run.info("calibration") is None
    assert not list(run.folder.glob(".*"))


def test_a_killed_run_is_found_interrupted(small: list[str]) -> None:
    process = start("run", *small, "--candidates", "64", "--samples", "64")
    end = time.monotonic() + 120
    while time.monotonic() < end and not any(run.info("model") for run in Store().runs()):
        time.sleep(0.05)
    assert [run.status for run in Store().runs()] == ["running"], "another process sees it"
    process.kill()
    process.communicate()
    assert [run.status for run in Store().runs()] == ["interrupted"]


def test_output_is_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    value = strict({"a": float("nan"), "b": [float("inf"), -float("inf"), 1.5], 3: None})
    assert json.loads(json.dumps(value, allow_nan=False)) == {"a": None, "b": ["inf", "-inf", 1.5], "3": None}


def test_the_report_shows_both_models_and_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    protocol = {"corpus": "text [bold]", "corpus_hash": "c" * 64, "window": 512, "tokens": 5110, "split": "evaluation"}
    protocol["note"] = "4-bit origin"
    measured = [
        Measurement("perplexity", "dense", 12.5, 0.25, 10, protocol),
        Measurement("perplexity", "pruned", float("inf"), None, 10, protocol),
        Measurement("KL divergence", "pruned", 0.5, 0.01, 8, {"corpus": "text [bold]", "samples": 8, "length": 64}),
    ]
    print_report(Report(tuple(measured)), "Dense and pruned")
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("12.5000 ± 0.2500", "inf", "0.5000 ± 0.0100", "text [bold]", "5,110 tokens in 10 windows of 512"):
        assert part in shown
    assert "4-bit origin" in shown


def test_a_search_writes_the_recipe_that_it_found(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path, tmp_path: Path
) -> None:
    best = tmp_path / "best.json"
    options = ["--model", str(tiny_folder), "--device", "cpu", "--corpus", "python-docs", "--criterion", "magnitude"]
    options += ["--criterion", "flap", "--sparsity", "0.3", "--trials", "3", "--samples", "4", "--length", "32"]
    options += ["--statistics-samples", "4", "--statistics-length", "32", "--output", str(best)]
    found = ask(capsys, "tune", *options)
    assert len(found["trials"]) + len(found["failed"]) == 3
    assert Recipe.from_json(json.loads(best.read_text())) == Recipe.from_json(found["best"])
    assert cli.main(["tune", *options, "--trials", "4", "--run", found["run"]]) == 0
    shown = capsys.readouterr()
    assert "KL on 64 x 64 probe tokens" in shown.out and "magnitude" in shown.out.casefold()
    rows = [line.split() for line in shown.err.splitlines() if " s  " in line]
    assert [row[0] for row in rows] == ["4"] and "best" in rows[0], "the trial that is new, as it is finished"
    assert "from 0 to 10,000" in refused(capsys, "tune", *options[:-2], "--trials", "7" * 9)


def test_without_a_terminal_progress_is_a_line_each_ten_seconds_or_percent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 100.0
    monkeypatch.setattr("nirvana.commands.console.time.monotonic", lambda: clock)
    with Bar().shown() as bar:
        for number in range(1, 31):  # of an unknown number, a second each
            bar.step("search", number, 0)
            clock += 1
        assert capsys.readouterr().err.splitlines() == ["[1] search", "[11] search", "[21] search"]
        for number in range(1, 401):  # at once
            bar.step("sweep", number, 400)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 101 and lines[:3] == ["[1/400] sweep", "[4/400] sweep", "[8/400] sweep"]
        bar.step("score")
        for done in range(100):
            bar.progress(Progress("Scoring", done, 200))
            clock += BETWEEN_LINES / 25
        lines = capsys.readouterr().err.splitlines()
        assert lines == ["score", "score, 12 %", "score, 25 %", "score, 37 %"]
