"""Cost tables of a model: measured seconds of its modules by their size, and bytes of its weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import nn

from nirvana.costs import BYTES, PHASES, SECONDS, CostTable, SizeCosts
from nirvana.errors import ModelError
from nirvana.evaluation import speed
from nirvana.evaluation.quantisation import stored_bytes
from nirvana.layout import KV_GROUP, Layout, Site
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, track
from nirvana.surgery import prune

STAGE = "Measuring costs"
REPEATS = 9  # timings of each size
STEPS = 4  # timed steps of each model while decoding, after one that is not
POINTS = 24  # sizes of an MLP, at least half as many
TILE, LEAST = 64, 8  # neurons; widths are multiples of TILE from the width where there are POINTS of them
SEED = 0  # of the order of sizes
Kind = tuple[str, str]  # (stack, module)


def measure_costs(
    lm: LM,
    *,
    batch: int = 1,
    length: int = 512,
    phase: str = "prefill",
    repeats: int = REPEATS,
    progress: ProgressCallback | None = None,
) -> CostTable:
    """Seconds of the attention and MLP modules of a layer by their size, within passes of the whole model.

    Copies of the model are pruned by surgery so that its layers have different sizes, and each layer has all sizes in
    turn. The library's own forward runs; hooks note when each module begins and ends. So every size is timed where it
    is used, with weights that the rest of the model has displaced from the processor's caches, and load on the machine
    affects all sizes alike. A size's cost is the median of about `repeats` timings, over layers and copies, made
    monotone by isotonic regression.

    Sizes: all numbers of KV groups up to 24, and 12 to 24 MLP widths, multiples of 64 in a large model. The matrix
    products of a processor have steps at such multiples, so between two sizes the error is at most one step.

    Args:
        lm: dense, or pruned: sizes up to those of its widest layers are measured. On the device to measure.
        batch: texts at once.
        length: tokens of the prompt, or while decoding those in the cache.
        phase: "prefill", until the first new token; or "decode", one further token.
        repeats: timings of each size.
        progress: called after each copy; may raise `Cancelled`.

    Raises:
        ModelError: a number is out of range, the text is longer than the model's positions, or the weights are not all
            in memory.
    """
    _check(lm, batch, length, phase, repeats)
    kinds = _kinds(lm.layout)
    sizes = {kind: grid(max(lm.layout[site].units for site in sites), kind, lm.layout) for kind, sites in kinds.items()}
    steps = 1 if phase == "prefill" else STEPS
    copies = max(_copies(lm.layout, sites, len(sizes[kind]), repeats / steps) for kind, sites in kinds.items())
    tokens = speed.prompt_tokens(lm, batch, length)
    seconds: dict[tuple[Kind, int], list[float]] = defaultdict(list)
    around: dict[str, list[float]] = defaultdict(list)
    fixed: list[float] = []
    for copy in track(range(copies), progress, STAGE, copies):
        widths = _widths(lm.layout, kinds, sizes, copy)
        small = prune(lm, _plan(lm.layout, widths))
        with _timed(small) as clock, torch.inference_mode():
            for timing in _passes(small, tokens, phase, clock, warm=not copy):
                for site, spent in timing.sites.items():
                    seconds[(site.stack, site.module), widths[site]].append(spent)
                for stack, others in timing.around.items():
                    around[stack] += others
                fixed.append(timing.fixed)
        small.unload()
    modules = {}
    for kind, sites in kinds.items():
        found = [(size, seconds[kind, size]) for size in sizes[kind] if (kind, size) in seconds]
        if found:  # the phase runs this module
            medians = isotonic_regression([float(np.median(values)) for _, values in found]).x
            weights = lm.layout[sites[0]].cost
            modules[kind] = SizeCosts(tuple(size for size, _ in found), tuple(map(float, medians)), weights)
    return CostTable(
        modules,
        {stack: float(np.median(values)) for stack, values in around.items()},
        float(np.median(fixed)),
        {
            "unit": SECONDS,
            "phase": phase,
            "batch": batch,
            "length": length,
            "repeats": repeats,
            "spread": _spread(seconds.values()),
            **placement(lm),
        },
    )


def placement(lm: LM) -> dict[str, Any]:
    """Device, threads, dtype, architecture and versions, on which seconds depend beside the sizes."""
    return {
        "device": speed.device_name(lm.device),
        "threads": torch.get_num_threads(),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "architecture": lm.layout.architecture,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
    }


def byte_costs(lm: LM) -> CostTable:
    """Bytes of the modules by their size, for weights of several dtypes or a quantised copy; biases do not count.

    Raises:
        ModelError: the weights are not all in memory.
    """
    model, modules = lm.weights(), {}
    for kind, sites in _kinds(lm.layout).items():
        site = max(sites, key=lambda site: lm.layout[site].units)
        block, units = lm.block(site.stack, site.layer), lm.layout[site].units
        parts = [block.get_submodule(part.module) for part in lm.family.slices(lm.settings, site)]
        each = sum(_weight_bytes(part) for part in parts) / units
        modules[kind] = SizeCosts((1, units) if units > 1 else (1,), (each, each * units)[: 1 + (units > 1)], 0)
        modules[kind] = modules[kind]._replace(weights=lm.layout[site].cost)
    table = CostTable(modules, protocol={"unit": BYTES, "dtype": str(lm.dtype).removeprefix("torch.")})
    prunable = table.prunable({site: place.units for site, place in lm.layout.items()})
    return CostTable(modules, fixed=max(stored_bytes(model) - prunable, 0.0), protocol=table.protocol)


def mixed_bytes(lm: LM) -> CostTable | None:
    """`byte_costs`, or None where all prunable weights have one dtype, so that bytes are like parameters."""
    if lm.disk is not None or lm.model is None:
        return None
    blocks = lm.family.blocks(lm.weights())
    parts = {
        blocks[site.stack][lm.layout.layers(site.stack).index(site.layer)].get_submodule(part.module)
        for site in lm.layout
        for part in lm.family.slices(lm.settings, site)
    }
    return byte_costs(lm) if len({next(part.parameters()).dtype for part in parts}) > 1 else None


def grid(units: int, kind: Kind, layout: Layout) -> list[int]:
    """The sizes to measure of a module of `units`, ascending, the last of which is `units`."""
    place = next(place for site, place in layout.items() if (site.stack, site.module) == kind)
    tile = 1 if place.kind == KV_GROUP else TILE if units >= TILE * POINTS else LEAST
    step = tile * math.ceil(units / tile / POINTS)
    return [*range(step, units, step), units]


class _Timing(NamedTuple):
    """Seconds of one pass: by site, by stack of each layer outside its sites, and outside the layers."""

    sites: dict[Site, float]
    around: dict[str, list[float]]
    fixed: float


class _Clock:
    """Marks of the begin and the end of modules in one pass."""

    def __init__(self, device: torch.device, stacks: dict[int, str], blocks: dict[Site, int]) -> None:
        self._device, self._stacks, self._blocks = device, stacks, blocks
        self._marks: dict[Any, list[Any]] = defaultdict(list)  # site, number of a block, or None for the pass

    def mark(self, what: Any) -> None:
        """Note the time. On a GPU the mark is queued behind the work before it, and does not wait for it."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._marks[what].append(event)
        else:
            self._marks[what].append(speed.now(self._device))

    def read(self) -> _Timing:
        """The seconds between the marks, which are dropped."""
        speed.now(self._device)
        spent = {what: self._seconds(*marks) for what, marks in self._marks.items()}
        self._marks.clear()
        sites = {site: spent[site] for site in self._blocks if site in spent}
        inner: dict[int, float] = defaultdict(float)
        for site, seconds in sites.items():
            inner[self._blocks[site]] += seconds
        blocks = {block: spent[block] for block in self._stacks if block in spent}
        around: dict[str, list[float]] = defaultdict(list)
        for block, seconds in blocks.items():
            around[self._stacks[block]].append(max(seconds - inner[block], 0.0))
        return _Timing(sites, around, max(spent[None] - sum(blocks.values()), 0.0))

    @staticmethod
    def _seconds(begin: Any, end: Any) -> float:
        return float(begin.elapsed_time(end)) / 1e3 if isinstance(begin, torch.cuda.Event) else float(end - begin)


@contextmanager
def _timed(lm: LM) -> Iterator[_Clock]:
    """Mark the begin and the end of every layer and site."""
    stacks: dict[int, str] = {}
    blocks: dict[Site, int] = {}
    handles = []
    clock = _Clock(lm.device, stacks, blocks)

    def watch(module: nn.Module, what: Any) -> None:
        handles.append(module.register_forward_pre_hook(lambda *_: clock.mark(what)))
        handles.append(module.register_forward_hook(lambda *_: clock.mark(what)))

    for stack in lm.layout.stacks:
        for layer in lm.layout.layers(stack):
            block, number = lm.block(stack, layer), len(stacks)
            stacks[number] = stack
            watch(block, number)
            for site in lm.layout:
                if (site.stack, site.layer) == (stack, layer):
                    blocks[site] = number
                    path = lm.family.slices(lm.settings, site)[0].module.rpartition(".")[0]
                    watch(block.get_submodule(path), site)
    try:
        yield clock
    finally:
        for handle in handles:
            handle.remove()


def _passes(lm: LM, tokens: torch.Tensor, phase: str, clock: _Clock, *, warm: bool) -> Iterator[_Timing]:
    """Timings of one prefill, or of some steps of decoding; with `warm`, after one that does not count."""

    def timed(run: Callable[[], speed.State]) -> tuple[speed.State, _Timing]:
        clock.mark(None)
        state = run()
        clock.mark(None)
        return state, clock.read()

    if warm or phase == "decode":
        state, _ = timed(lambda: speed.prefill(lm, tokens))
    if phase == "prefill":
        yield timed(lambda: speed.prefill(lm, tokens))[1]
        return
    for step in range(STEPS + 1):
        before = state
        state, timing = timed(lambda before=before: speed.decode(lm, before))  # type: ignore[misc]
        if step:
            yield timing


def _kinds(layout: Layout) -> dict[Kind, list[Site]]:
    found: dict[Kind, list[Site]] = defaultdict(list)
    for site in layout:
        found[site.stack, site.module].append(site)
    return dict(found)


def _copies(layout: Layout, sites: list[Site], sizes: int, repeats: float) -> int:
    """Copies in which every size has its turn `repeats` times on average, and once at least."""
    alike = len({layout[site].units for site in sites}) == 1  # otherwise a size may fit one site only
    return max(math.ceil(sizes * repeats / len(sites)), math.ceil(sizes / len(sites)) if alike else sizes)


def _widths(layout: Layout, kinds: dict[Kind, list[Site]], sizes: dict[Kind, list[int]], copy: int) -> dict[Site, int]:
    """Sizes of a copy's sites: with each copy every site moves on to the next size, and sites begin apart."""
    found = {}
    for kind, sites in kinds.items():
        order = np.random.default_rng(SEED).permutation(len(sites))
        for site, place in zip(sites, order.tolist(), strict=True):
            fitting = [size for size in sizes[kind] if size <= layout[site].units] or [layout[site].units]
            found[site] = fitting[(place * len(fitting) // len(sites) + copy) % len(fitting)]
    return {site: found[site] for site in layout}


def _plan(layout: Layout, widths: dict[Site, int]) -> PruningPlan:
    return PruningPlan({site: np.arange(width) for site, width in widths.items()}, layout, requested=0.5, gamma=1.0)


def _spread(timings: Any) -> float:
    """Median over the sizes of the interquartile range over the median of their timings."""
    shares = []
    for values in timings:
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        shares.append((high - low) / middle if middle else 0.0)
    return round(float(np.median(shares)), 4) if shares else 0.0


def _weight_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for name, tensor in module.state_dict().items() if not name.endswith("bias"))


def _check(lm: LM, batch: int, length: int, phase: str, repeats: int) -> None:
    if phase not in PHASES:
        raise ModelError(f"There is no phase {phase!r}.", f"Use {' or '.join(PHASES)}.")
    speed.check({lm.source.name: lm}, batch, length, STEPS + 2, repeats)
