"""Prove on another transformers that checkpoints load there: `python -m tests.interop.transformers4`.

Makes a second environment with that transformers (torch is borrowed from this one), writes pruned checkpoints of every
family here, with and without code in the folder, and reads them there, where this project cannot be imported. Those
with code are trained there by Trainer and peft, saved, and read again there and here. The code of a pruned T5 has to
refuse a transformers before 5.15; a uniform T5 has to load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nirvana.checkpoints.saving import added_biases, save
from nirvana.checkpoints.uniform import export_uniform
from nirvana.models.loading import load_model
from nirvana.surgery import prune
from tests.families.base import FamilyTests
from tests.families.test_t5 import TestMT5, TestT5, TestT5Gated
from tests.uneven import uneven_plan, with_output_biases, write_family_model

if TYPE_CHECKING:
    from nirvana.models.lm import LM

READER = Path(__file__).with_name("read_with_transformers.py")
TRAINER = Path(__file__).with_name("train_with_transformers.py")
BORROWED = ("torch", "torchgen", "functorch", "sympy", "mpmath", "networkx", "jinja2", "markupsafe")
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    "llama-scaled": ("Llama", {"rope_parameters": SCALED, "num_key_value_heads": 4}),
    "llama-theta": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 3_000.0}}),
    "mistral": ("Mistral", {"sliding_window": 6}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 12, "tie_word_embeddings": False}),
}
T5_MODELS: dict[str, type[FamilyTests]] = {"t5": TestT5, "t5-gated": TestT5Gated, "mt5": TestMT5}
IDS = torch.arange(3, 35).reshape(2, 16)
UNIFORM = "-uniform"
NEEDS_5_15 = "transformers>=5.15 is required"  # what the code of a pruned T5 says to older releases


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--transformers", default="4.57.6", help="the version to install (default: %(default)s)")
    parser.add_argument("--python", type=Path, help="an environment that has it already")
    parser.add_argument("--smollm2", action="store_true", help="the built-in model too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        python = arguments.python or make_environment(place / "environment", arguments.transformers)
        folders = write_checkpoints(place, with_smollm2=arguments.smollm2)
        answers = read_elsewhere(python, folders, place)
        with_code = [folder for folder in folders if (folder / "modeling_pruned.py").is_file()]
        trained = read_elsewhere(python, with_code, place, TRAINER)
        again = [show_trained(answer, place) for answer in trained if "refused" not in answer]
    shown = [show(answer) for answer in answers] + again
    sys.exit(0 if all(shown) else "Some checkpoints were read differently.")


def make_environment(folder: Path, version: str) -> Path:
    """An environment with transformers `version`, and with the torch of this one."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, f"transformers=={version}", "safetensors", "psutil", "typing_extensions"], check=True)
    subprocess.run([*install, "--no-deps", "accelerate==1.12.0", "peft==0.18.0"], check=True)  # they ask for torch
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    here = Path(sysconfig.get_paths()["purelib"])
    for name in (*BORROWED, *(path.name for path in here.glob("torch-*.dist-info"))):
        (packages / name).symlink_to(here / name)
    return python


def write_checkpoints(place: Path, *, with_smollm2: bool) -> list[Path]:
    """A pruned checkpoint and a uniform one of every model, each with the logits that they must give."""
    folders = []
    models = {
        name: load_model(write_family_model(place / "dense" / name, library, **changes), device="cpu")
        for name, (library, changes) in MODELS.items()
    }
    for name, family in T5_MODELS.items():
        family.write(place / "dense" / name)
        models[name] = load_model(place / "dense" / name, device="cpu")
    small = {name: prune(lm, uneven_plan(lm)) for name, lm in models.items()}
    for name in MODELS:
        small[f"{name}-compensated"] = with_output_biases(prune(models[name], uneven_plan(models[name])))
    small["llama-shorter"] = prune(models["llama"], uneven_plan(models["llama"], removed_layers=(("decoder", 1),)))
    if with_smollm2:
        lm = load_model("smollm2-135m", device="cpu")
        small["smollm2"] = prune(lm, uneven_plan(lm))
    for name, pruned in small.items():
        written = [save(pruned, place / name)]
        if {site.module for site in added_biases(pruned)} <= set(pruned.family.bias_settings):
            written.append(export_uniform(pruned, place / f"{name}{UNIFORM}"))
        folders += written
        for folder in written:
            np.savez(folder / "expected.npz", ids=IDS.numpy(), logits=logits(pruned))
    return folders


def logits(lm: LM) -> np.ndarray:
    with torch.inference_mode():
        decoder = {"decoder_input_ids": IDS} if lm.family.encoder_decoder else {}
        values: np.ndarray = lm.weights()(input_ids=IDS, **decoder).logits.float().numpy()
    return values


def read_elsewhere(python: Path, folders: list[Path], place: Path, script: Path = READER) -> list[dict[str, Any]]:
    """The answers of `script` for each folder, from one process of `python`."""
    threads = str(torch.get_num_threads())  # another number sums in another order
    process = subprocess.run(
        [python, "-I", script, *folders],
        cwd=place,
        env={**os.environ, "HF_HOME": str(place / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads},
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.returncode:
        sys.exit("The other environment failed; its message is above.")
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith('{"')]


def show(answer: dict[str, Any]) -> bool:
    """Print one line; whether all is as it must be."""
    if "refused" in answer:
        good = NEEDS_5_15 in answer["refused"] and answer["folder"] in T5_MODELS
        print(
            f"{'ok ' if good else 'BAD'} {answer['folder']:32} transformers {answer['transformers']}  refused by name"
        )
        return good
    limit = 1e-5 * answer["scale"] if answer["folder"].endswith(UNIFORM) else 0.0
    good = answer["difference"] <= limit and answer["cached_generation_is_uncached"] and not answer["without_gradient"]
    print(
        f"{'ok ' if good else 'BAD'} {answer['folder']:32} transformers {answer['transformers']}  {answer['class']:26} "
        f"largest difference {answer['difference']:.1e} of {answer['scale']:.1f}, cached generation "
        f"{'equal' if answer['cached_generation_is_uncached'] else 'DIFFERS'}, "
        f"{len(answer['without_gradient'])} weights without gradient"
    )
    return bool(good)


def show_trained(answer: dict[str, Any], place: Path) -> bool:
    """Print one line; whether what was trained and saved reads back there and here."""
    name, differences = answer["folder"], {}
    for form in ("saved", "trained/checkpoint-2", "merged"):
        folder = place / f"{name}-{form}"
        with np.load(folder / "expected.npz") as file:
            expected = file["logits"]
        differences[form.split("/")[0]] = float(np.abs(logits(load_model(folder, device="cpu")) - expected).max())
    there = {form: answer[form] for form in differences}
    good = not any(there.values()) and max(differences.values()) <= 1e-4 and answer["attentions_sum_to_one"]
    print(
        f"{'ok ' if good else 'BAD'} {name:32} transformers {answer['transformers']}  saved, trained and merged: "
        f"largest difference there {max(there.values()):.1e}, here {max(differences.values()):.1e}"
    )
    return bool(good)


if __name__ == "__main__":
    main()
