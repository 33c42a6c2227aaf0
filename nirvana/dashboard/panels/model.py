"""Parts of the Model page: source, device and description of the model."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.messages import message
from nirvana.dashboard.panels.metrics import metric
from nirvana.errors import ModelError, NirvanaError
from nirvana.models.devices import DeviceInfo, devices
from nirvana.models.inspection import ModelPreview, inspect_model
from nirvana.models.limits import HEADROOM
from nirvana.models.sizes import FLOAT32, ITEM_BYTES, ModelSizes
from nirvana.models.sources import BUILT_IN
from nirvana.reporting.figures import model as figures
from nirvana.reporting.text import megabytes, millions, plain
from nirvana.runs.recipe import ModelChoice
from nirvana.runs.results import ModelCard
from nirvana.runs.store import EXAMPLE

BUILT_IN_SOURCE, LOCAL, HUB = "Built in", "Local", "Hub"
SOURCES = {
    BUILT_IN_SOURCE: "Installed with the program; nothing is downloaded.",
    LOCAL: "A folder with config.json and *.safetensors, a .gguf file, or a checkpoint of this program. Pickled "
    "weights and code from the folder are never read.",
    HUB: "An id such as HuggingFaceTB/SmolLM2-360M. The config is fetched now, the weights when you load.",
}
DTYPES = {
    "auto": "Automatic",
    "float32": "float32, 4 bytes a weight",
    "bfloat16": "bfloat16, 2 bytes a weight",
    "float16": "float16, 2 bytes a weight",
}
WEIGHTS = {"memory": "In memory", "lazy": "On disk, read block by block"}


def choose_model(choice: ModelChoice) -> ModelChoice:
    """Controls of source, name, device, dtype and weights, starting from `choice`; returns their values."""
    st.session_state.setdefault("model.source", _source_of(choice.name))
    sources = [BUILT_IN_SOURCE] if state.public_demo() else list(SOURCES)
    source = st.segmented_control(
        "Source of the model",
        sources,
        key="model.source",
        wrap=True,
        required=True,
        help="Built in, a folder or .gguf file on the machine that serves this page, or the Hugging Face hub.",
    )
    source = source if source in sources else BUILT_IN_SOURCE
    known = list(BUILT_IN)
    if source == BUILT_IN_SOURCE:
        st.session_state.setdefault("model.built_in", choice.name if choice.name in known else known[0])
        name = st.radio(
            "Model",
            known,
            key="model.built_in",
            help=SOURCES[source],
        )
        described = BUILT_IN[name].description
        st.caption(f"{described[0].upper()}{described[1:]}.")
    else:
        key, label, example = {
            LOCAL: ("model.path", "Folder or file on the machine that serves this page", "~/models/my-llama"),
            HUB: ("model.hub", "Hub id", "HuggingFaceTB/SmolLM2-360M-Instruct"),
        }[source]
        st.session_state.setdefault(key, choice.name if _source_of(choice.name) == source else "")
        name = st.text_input(label, key=key, placeholder=example, help=SOURCES[source], max_chars=1000).strip()
    found = {device.name: device for device in devices_now()}
    names = list(dict.fromkeys(["auto", *found, choice.device]))
    st.session_state.setdefault("model.device", choice.device)
    device = st.selectbox(
        "Device",
        names,
        key="model.device",
        format_func=lambda name: _device_label(name, found),
        help="Device of all computations. Automatic takes a GPU where there is one.",
    )
    st.session_state.setdefault("model.dtype", choice.dtype)
    dtype = st.selectbox(
        "Number format",
        list(DTYPES),
        key="model.dtype",
        format_func=lambda name: DTYPES.get(name, name),
        help="Automatic is float32 on a CPU and the checkpoint's own format elsewhere.",
    )
    st.session_state.setdefault("model.weights", choice.weights)
    weights = st.selectbox(
        "Weights",
        list(WEIGHTS),
        key="model.weights",
        format_func=lambda name: WEIGHTS.get(name, name),
        help="On disk, one block at a time is in memory: slower, for a model larger than the memory. Only for folders "
        "of safetensors and models without an encoder; such a model can be scored, pruned and measured, not trained.",
    )
    return choice.with_values(name=name, device=device, dtype=dtype, weights=weights)


def describe(choice: ModelChoice, now: state.Context) -> ModelPreview | None:
    """The model card, from a run that loaded the model (the open one or the example), else from its config.

    An error is shown.
    """
    card = loaded_card(choice.name, now)
    if card is not None:
        return ModelPreview(card.name, card.origin, card.note, card.family, card.layout, card.geometry, card.dtype)
    if not choice.name:
        st.info("Name a model to see its description.", icon=":material/edit:")
        return None
    preview, error = inspected(choice.name)
    if error is not None:
        message(*error)
    return preview


def loaded_card(name: str, now: state.Context) -> ModelCard | None:
    """The model of that name as loaded by the open run or the example, or None."""
    cards = [now.run.model()] + ([now.store.open(EXAMPLE).model()] if name in BUILT_IN else [])
    return next((card for card in cards if card is not None and card.name == name), None)


@st.cache_data(ttl=30, max_entries=20, show_spinner="Reading the model's config")
def inspected(name: str) -> tuple[ModelPreview | None, tuple[str, str] | None]:
    """Description of a model from its config, or the error with its hint."""
    try:
        return inspect_model(name), None
    except NirvanaError as error:
        return None, (error.message, error.hint)
    except (ValueError, KeyError, TypeError, OSError) as error:  # a config may have any content
        broken = ModelError(
            f"The config of {name} cannot be read: {error}.", "Check config.json, or download it again."
        )
        return None, (broken.message, broken.hint)


def fits(preview: ModelPreview, choice: ModelChoice) -> bool:
    """Four sizes, and whether the weights fit; otherwise a hint."""
    found = {device.name: device for device in devices_now()}
    device = found.get(choice.device) or next(iter(found.values()))
    auto = preview.stored_dtype if device.name != "cpu" else "float32"
    item = ITEM_BYTES.get(auto if choice.dtype == "auto" else choice.dtype, FLOAT32)
    sizes = ModelSizes(preview.layout, preview.geometry, item, choice.weights == "lazy")
    size, layout = sizes.needed_at_once(device.name), preview.layout
    with st.grid(4, min_column_width=150):
        metric("Parameters", millions(layout.parameters))
        share = f"{layout.prunable / layout.parameters:.0%}"
        metric("Prunable", share, meaning="The share of the parameters that is in attention and MLP blocks.")
        layers = {stack: len(layout.layers(stack)) for stack in layout.stacks}
        label = "Layers" if len(layers) == 1 else "Encoder and decoder layers"
        metric(label, " + ".join(map(str, layers.values())))
        metric(
            "Weight memory",
            megabytes(size),
            f"{megabytes(device.free)} free on {device.name}",
            "Scoring needs about as much again for gradients, or runs slower with less memory.",
        )
    origin = f"{plain(preview.family)} family, from {plain(preview.origin)}"
    if state.public_demo():
        origin = f"{plain(preview.family)} family"
    st.caption(f"{origin}. {figures.prunable_sentence(layout)}")
    if preview.note:
        st.info(
            f"**{plain(preview.note)}**: these weights were stored in fewer bits and are expanded on load, as "
            "noted beside every measurement; the original model is a little better.",
            icon=":material/compress:",
        )
    enough = size <= device.free * HEADROOM
    if not enough:
        message(
            f"The weights need {megabytes(size)}, and {device.name} has {megabytes(device.free)} free.",
            "Choose bfloat16, weights on disk, another device or a smaller model, or close other programs.",
        )
    return enough


def parts(preview: ModelPreview) -> None:
    """The chart of parameters by part."""
    note = f", {preview.note}" if preview.note else ""
    show_chart("model.parts", figures.parameters_by_part(preview.layout), f"{preview.name}{note}.")


def anatomy(preview: ModelPreview) -> None:
    """Prunable units, and the sizes of the architecture."""
    st.markdown("#### Prunable units")
    st.dataframe(
        figures.unit_table(preview.layout),
        hide_index=True,
        key="model.units",
        column_config={
            "in all": st.column_config.NumberColumn(format="localized"),
            "parameters": st.column_config.NumberColumn(format="localized"),
            "share of the model": st.column_config.NumberColumn(format="percent"),
        },
    )
    st.caption(
        "A **KV group** is one key and one value head with the query heads that read them. A **neuron** is one row of "
        "the projections into the MLP (gate and up) with its column of the projection out of it (down). Units "
        "are removed as a whole, so the remaining matrices are smaller instead of sparse."
        + (
            " The decoder has two kinds of attention: **self-attention** reads the decoder's previous tokens, "
            "**cross-attention** the encoder's output. A KV group is one head in each."
            if len(preview.layout.stacks) > 1
            else ""
        )
    )
    st.markdown("#### Architecture")
    st.dataframe(figures.geometry_table(preview.geometry), hide_index=True, key="model.geometry", height="content")


def resident(now: state.Context) -> list[str]:
    """Models in the workers' memory, as text."""
    return [f"{model['model']} on {model['device']} ({megabytes(model['bytes'])})" for model in now.jobs.resident()]


@st.cache_data(ttl=5, show_spinner=False)
def devices_now() -> list[DeviceInfo]:
    """The devices with their memory a few seconds ago at most."""
    return devices()


def _device_label(name: str, found: dict[str, DeviceInfo]) -> str:
    """Unique, and without its free memory: the browser returns the label, and a changed one would lose the choice."""
    if name == "auto":
        return f"Automatic: {next(iter(found.values())).title}"
    if name not in found:
        return f"{name} (not found here)"
    title = found[name].title
    alike = [device for device in found.values() if device.title == title]
    return title if len(alike) == 1 else f"{title}, {name}"


def _source_of(name: str) -> str:
    if name in BUILT_IN:
        return BUILT_IN_SOURCE
    outside = name.startswith(("/", ".", "~")) or name.endswith(".gguf") or name.count("/") != 1
    return LOCAL if outside else HUB
