"""generation_config.json: the authors' settings for generation. Checkpoints keep them; measurements do not use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.errors import ModelError
from nirvana.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "generation_config.json"


def read_generation_settings(folder: Path) -> dict[str, Any] | None:
    """Settings in a model's folder, or None where there are none.

    Raises:
        ModelError: it cannot be read, or the library does not accept it.
    """
    from transformers import GenerationConfig

    if not (folder / FILE).is_file():
        return None
    try:
        settings = read_json(folder / FILE)
        GenerationConfig.from_dict(settings)
    except Exception as error:  # the library's checks raise classes of their own
        raise ModelError(f"{FILE} of {folder.name} cannot be read: {error}.", "Correct or remove it.") from error
    return dict(settings)


@contextmanager
def own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Make `model.generate` use its arguments and the library's defaults, not the settings of the model's authors.

    The library takes arguments that a caller omits, e.g. a repetition penalty, from that file, so a measurement would
    not follow the protocol shown with it.
    """
    from transformers import GenerationConfig

    makers = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = makers
