"""Registry of saliency criteria. A new criterion is one file in this folder and one entry in `CRITERIA`."""

from __future__ import annotations

from typing import Literal, NamedTuple

from nirvana.errors import SaliencyError

Published = Literal["shared", "per-layer", "per-layer-middle", "joint", "layers"]


class Criterion(NamedTuple):
    """Description of a criterion, without importing it.

    Attributes:
        module: defines `unit_scores(request: Request) -> Scored`; imported on first use.
        title: name in menus.
        description: what it measures, in one line.
        published: how its authors allocate sparsity. "shared": attention and MLP each ranked over all layers, their
            rates tied by gamma. "per-layer": one rate in every layer, ranked within each. "per-layer-middle": the same,
            but the first few and the last layers are not pruned. "joint": heads and neurons in one ranking over all
            layers, each counting its own parameters. "layers": whole layers are removed.
        compensation: the authors' compensation for removed units.
        reads: use of the calibration text: none, one forward pass, or gradients.
    """

    module: str
    title: str
    description: str
    published: Published
    compensation: Literal["none", "bias", "least_squares"] = "none"
    reads: Literal["nothing", "activations", "gradients"] = "gradients"


CRITERIA = {
    "nirvana": Criterion(
        "nirvana.saliency.nirvana",
        "NIRVANA",
        "first-order change of the output: each vocabulary entry's highest logit over the positions",
        "shared",
    ),
    "nirvana-vocab": Criterion(
        "nirvana.saliency.nirvana_vocab",
        "NIRVANA, maximum over the vocabulary",
        "first-order change of each position's highest logit",
        "shared",
    ),
    "nirvana-per-sample": Criterion(
        "nirvana.saliency.nirvana_per_sample",
        "NIRVANA, absolute value per sample",
        "as NIRVANA, but gradients of samples cannot cancel; slower, since samples are not batched",
        "shared",
    ),
    "taylor": Criterion(
        "nirvana.saliency.taylor",
        "Taylor (LLM-Pruner)",
        "first-order change of the language-modelling loss",
        "per-layer-middle",
    ),
    "second-order": Criterion(
        "nirvana.saliency.second_order",
        "Second order",
        "loss after least squares compensates for a removed unit; slower, since units are removed one by one",
        "shared",
        "least_squares",
    ),
    "flap": Criterion(
        "nirvana.saliency.flap",
        "FLAP",
        "variance of the unit's output",
        "joint",
        "bias",
        reads="activations",
    ),
    "wanda-sp": Criterion(
        "nirvana.saliency.wanda_sp",
        "Wanda-sp",
        "magnitude of the output projection's weights times the norm of its inputs",
        "per-layer",
        reads="activations",
    ),
    "block-influence": Criterion(
        "nirvana.saliency.block_influence",
        "Block influence (ShortGPT)",
        "change of direction of the hidden states by a layer, whose units share one score",
        "layers",
        reads="activations",
    ),
    "magnitude": Criterion(
        "nirvana.saliency.magnitude",
        "Magnitude",
        "magnitude of the weights; reads no text",
        "per-layer",
        reads="nothing",
    ),
    "random": Criterion(
        "nirvana.saliency.random", "Random", "a seeded random draw, the baseline", "per-layer", reads="nothing"
    ),
}


def available() -> list[str]:
    """Names of the criteria."""
    return list(CRITERIA)


def published_allocation(criterion: str) -> Published:
    """How the authors of a criterion allocate sparsity (see `Criterion`).

    Raises:
        SaliencyError: there is no such criterion.
    """
    return find_criterion(criterion).published


def find_criterion(name: str) -> Criterion:
    """The description of a criterion.

    Raises:
        SaliencyError: unknown name.
    """
    if name not in CRITERIA:
        raise SaliencyError(f"There is no criterion {name!r}.", f"Criteria are {', '.join(CRITERIA)}.")
    return CRITERIA[name]
