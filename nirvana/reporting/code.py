"""Recipes as code: the steps of a page as Python script and command line."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pprint import pformat

from nirvana.calibration.corpora.mixture import part_names
from nirvana.jobs.tasks.export import ExportRequest
from nirvana.jobs.tasks.run import RunRequest
from nirvana.loss_curves import LEVELS, PROBE
from nirvana.options import words
from nirvana.recovery.options import RecoveryOptions
from nirvana.runs.options import option_words
from nirvana.runs.recipe import AllocationChoice, CalibrationChoice, PruneChoice, Recipe
from nirvana.runs.speed import SpeedRequest
from nirvana.studies.sweep_grid import DRAWN, Grid

WIDTH = 96
GENERATED = "self-generated"
SHOWN = ("sparsity", "gamma", "multiple_of")  # flags of the allocation that are shown also at their defaults
ALWAYS = ("--model", "--sparsity", "--gamma")
AROUND = ("multiple_of", "protected", "uniform", "rounds", "budget", "budget_phase", "budget_batch", "budget_length")
SWEPT = ("criteria", "sparsities", "seeds")  # of a sweep's grid, likewise


class Code(str):
    """An expression of a script, e.g. a variable, as opposed to a text."""


def python_code(recipe: Recipe, step: str, format: str = "", dtype: str = "auto") -> str:
    """A script of the steps up to `step` with the choices of `recipe`.

    It exports the last model in `format` and `dtype`, verified, or saves it without a format.
    """
    wanted = recipe.up_to(step)
    step = step if step in wanted else wanted[-1]
    lines = ["import nirvana as nv", ""]
    placement = recipe.model.to_json()
    name = placement.pop("name")
    lines.append(_call("lm = nv.load_model", _literal(name), **placement))
    if "calibration" in wanted:
        lines += _calibration(recipe)
    if "saliency" in wanted:
        lines.append(_call("scores = nv.score", "lm", "calibration", criterion=recipe.saliency.criterion))
    if "allocation" in wanted:
        lines += _allocation(recipe)
    made = "healed" if "recover" in wanted else "small"
    if "prune" in wanted:
        target = _literal(_output(recipe, step, format))
        settings = {"format": format} | ({} if dtype == "auto" else {"dtype": dtype})
        written = _call("nv.export", made, target, **settings) if format else f"nv.save({made}, {target})"
        lines += [*_pruning(recipe), *(_recovery(recipe) if "recover" in wanted else []), written]
    if "evaluate" in wanted:
        lines += _evaluation(recipe)
    last = {
        "model": "print(lm.layout.parameters, lm.layout.prunable)",
        "calibration": "print(calibration)",
        "saliency": 'print(scores[nv.Site("decoder", 0, "mlp")])',
        "allocation": "print(plan.sparsity)",
        "prune": "print(small)",
        "recover": "print(healed.history.best)",
    }
    return "\n".join([*lines, *([last[step]] if step in last else [])]) + "\n"


def _calibration(recipe: Recipe) -> list[str]:
    choice, default = recipe.calibration, CalibrationChoice()
    drawn = {"samples": choice.samples, "length": choice.length, "seed": choice.seed, **_task(recipe)}
    if choice.trials == 1:
        text = f"text = {_corpus(choice.corpus)}"
        return [text, _call("calibration = nv.sample_calibration", "lm", "text", **drawn)]
    several = len(choice.texts) > 1
    texts = f"texts = [{', '.join(map(_corpus, choice.texts))}]" if several else f"text = {_corpus(choice.corpus)}"
    names = ("mixtures", "trial_method", "trial_protected", "trial_normalisation")
    changed = {name: getattr(choice, name) for name in names if getattr(choice, name) != getattr(default, name)}
    selected = _call(
        "calibration = nv.select_calibration",
        "lm",
        "texts" if several else "text",
        candidates=choice.candidates,
        criterion=choice.trial_criterion,
        sparsity=choice.trial_sparsity,
        gamma=choice.trial_gamma,
        **{name.removeprefix("trial_"): value for name, value in changed.items()},
        **drawn,
        probe=Code("probe"),
    )
    winner = ["text = calibration.candidates[calibration.winner].text"] if several else []
    return [texts, _probe(recipe, "nv.mix(texts)" if several else "text"), selected, *winner]


def _allocation(recipe: Recipe) -> list[str]:
    choice, default, lines = recipe.allocation, AllocationChoice(), list[str]()
    named = {name: value for name, value in choice.one_round.items() if name in SHOWN or value != vars(default)[name]}
    if choice.method == "measured":
        lines += _loss_curves(recipe)
        named["sensitivity"] = Code("curves")
    if choice.budget == "latency":
        lines.append(_call("costs = nv.measure_costs", "lm", **choice.cost_protocol))
        named["costs"] = Code("costs")
    elif choice.budget == "bytes":
        named["costs"] = Code("nv.byte_costs(lm)")
    if choice.rounds == 1:
        return [*lines, _call("plan = nv.allocate", "scores", **named)]
    usual = PruneChoice()
    drawn = {"samples": usual.samples, "length": usual.length, "seed": usual.seed, **_task(recipe)}
    lines.append(_call("windows = nv.sample_calibration", "lm", "text", **drawn))
    rounds = _call(
        "plan = nv.prune_iteratively",
        "lm",
        "calibration",
        steps=choice.rounds,
        criterion=recipe.saliency.criterion,
        saliency=Code("scores"),
        compensation="least_squares",
        windows=Code("windows"),
        **named,
    )
    return [*lines, f"{rounds}.plan"]


def _loss_curves(recipe: Recipe) -> list[str]:
    usual, (samples, length) = PruneChoice(), PROBE
    drawn = {"samples": usual.samples, "length": usual.length, "seed": usual.seed, **_task(recipe)}
    probe = {"samples": samples, "length": length, "seed": recipe.calibration.probe_seed, **_task(recipe)}
    return [
        _call("reading = nv.sample_calibration", "lm", "text", **drawn),
        _call("probes = nv.sample_probe", "lm", "text", **probe),
        _call(
            "curves = nv.sensitivity",
            "lm",
            "scores",
            "probes",
            levels=LEVELS,
            compensation="least_squares",
            statistics=Code("nv.collect_statistics(lm, reading)"),
        ),
    ]


def _pruning(recipe: Recipe) -> list[str]:
    choice = recipe.prune
    if choice.compensation == "none":
        return ["small = nv.prune(lm, plan)"]
    drawn = {"samples": choice.samples, "length": choice.length, "seed": choice.seed, **_task(recipe)}
    means = {} if choice.compensation == "least_squares" else {"second_moments": False}
    return [
        _call("windows = nv.sample_calibration", "lm", "text", **drawn),
        _call("statistics = nv.collect_statistics", "lm", "windows", **means),
        f'small = nv.prune(lm, plan, compensation="{choice.compensation}", statistics=statistics)',
    ]


def _recovery(recipe: Recipe) -> list[str]:
    choice, default = recipe.recovery.options, RecoveryOptions()
    always = ("method", "minutes")
    named = {name: value for name, value in vars(choice).items() if name in always or value != vars(default)[name]}
    text = _corpus(recipe.recovery.corpus) if recipe.recovery.corpus else "text"
    return [_call("healed = nv.recover", "small", text, teacher=Code("lm"), **named)]


def _evaluation(recipe: Recipe) -> list[str]:
    choice = recipe.evaluation
    lines = [] if recipe.calibration.trials > 1 else [_probe(recipe)]
    made = [("pruned", "small"), *([("recovered", "healed")] if "recover" in recipe.steps else [])]
    models = f"(lm, {', '.join(name for _, name in made)})"
    if choice.corpora:
        sizes = f"window={choice.window}, max_tokens={choice.max_tokens}"
        sizes += "".join(f", {name}={_literal(value)}" for name, value in _task(recipe).items())
        corpora = ", ".join(_corpus(name) for name in choice.corpora)
        lines += [
            f"for evaluation in [{corpora}]:",
            f"    for model in {models}:",
            f"        print(nv.perplexity(model, evaluation, {sizes}))",
        ]
    lines += [f"print(nv.divergence(lm, {name}, probe).mean)" for _, name in made]
    if choice.zero_shot:
        items = f", items={choice.zero_shot_items}" if choice.zero_shot_items else ""
        tasks = ", ".join(map(_literal, choice.zero_shot))
        lines += [
            f"dense, {', '.join(title for title, _ in made)} = "
            f"(nv.zero_shot(model, [{tasks}]{items}) for model in {models})",
        ]
        for title, _ in made:
            lines += [
                f"for one, other in zip(dense.tasks, {title}.tasks):",
                "    print(one.task, one.value(), nv.paired_difference(one, other))",
            ]
    return lines


def _probe(recipe: Recipe, text: str = "text") -> str:
    choice = recipe.calibration
    sizes = {"samples": choice.probe_samples, "length": choice.probe_length, "seed": choice.probe_seed}
    return _call("probe = nv.sample_probe", "lm", text, **sizes, **_task(recipe))


def _task(recipe: Recipe) -> dict[str, str]:
    """The argument `task`, unless it is the model's default."""
    task = recipe.calibration.task
    return {} if task == "auto" else {"task": task}


def _corpus(name: str) -> str:
    if name == GENERATED:
        return "nv.generate_corpus(lm)"
    parts = part_names(name)
    if GENERATED in parts:  # load_corpus cannot generate it
        return f"nv.mix([{', '.join(map(_corpus, parts))}])"
    return f"nv.load_corpus({_literal(name)})"


def _call(start: str, *positional: str, **named: object) -> str:
    """A call on one line, or with one argument a line where that is too long."""
    arguments = [*positional, *(f"{name}={_literal(value)}" for name, value in named.items())]
    line = f"{start}({', '.join(arguments)})"
    return line if len(line) <= WIDTH else "\n".join([f"{start}(", *(f"    {part}," for part in arguments), ")"])


def _literal(value: object) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    return 'float("inf")' if isinstance(value, float) and math.isinf(value) else repr(value)


def command_line(recipe: Recipe, step: str, format: str = "", dtype: str = "auto") -> str:
    """The equivalent shell command for the steps up to `step`, without options at their defaults."""
    line = ["nirvana", "run", *option_words(recipe, ALWAYS), *words(RunRequest(until=step))]
    if step in ("prune", "recover", "evaluate"):
        line += ["--output", _output(recipe, step, format)]
        line += words(ExportRequest(format=format, dtype=dtype)) if format else []
    return shlex.join(line)


def speed_code(recipe: Recipe, protocol: Mapping[str, int], schemes: Sequence[str]) -> str:
    """Code that times both models and measures quality against bytes, to append to a script that defines `lm` and
    `small`.
    """
    lines = ['models = {"dense": lm, "pruned": small}']
    if schemes:
        lines += [
            f"for scheme in {_literal(list(schemes))}:",
            '    models[f"dense {scheme}"] = nv.quantise(lm, scheme)',
            '    models[f"pruned {scheme}"] = nv.quantise(small, scheme)',
        ]
    lines.append(_call("speeds = nv.measure_speed", "models", **protocol))
    lines += ['print(speeds.models["pruned"].decode, speeds.ratio("pruned", "decode"))']
    if schemes and recipe.evaluation.corpora:
        sizes = f"window={recipe.evaluation.window}, max_tokens={recipe.evaluation.max_tokens}"
        lines += [
            f"text = {_corpus(recipe.evaluation.corpora[0])}",
            "for name, model in models.items():",
            f"    print(name, model.weight_bytes, nv.perplexity(model, text, {sizes}))",
        ]
    return "\n".join(lines) + "\n"


def speed_command(run_id: str, protocol: Mapping[str, int], schemes: Sequence[str]) -> str:
    """The equivalent shell command for a stored run."""
    request = SpeedRequest(**protocol, schemes=tuple(schemes))
    return shlex.join(["nirvana", "speed", run_id, *words(request), *(["--sizes"] if schemes else [])])


def sweep_code(recipe: Recipe, grid: Grid) -> str:
    """A script for a sweep around `recipe`."""
    changed = _around(recipe, grid).changed()
    named = {name: value for name, value in vars(grid).items() if value != vars(Grid())[name] or name in SWEPT}
    return "\n".join(
        [
            "from nirvana import Recipe",
            "from nirvana.runs.store import Store",
            "from nirvana.studies.sweep import Grid, sweep",
            "",
            _call("recipe = Recipe.from_json", pformat(changed, width=WIDTH - 8)),
            _call("grid = Grid", **named),
            'base = Store().create(recipe, name="Sweep")',
            "for row in sweep(base, grid):",
            "    print(row.point.label, row.sparsity, row.failure or row.values)",
            "",
        ]
    )


def sweep_command(recipe: Recipe, grid: Grid) -> str:
    """The shell command of a sweep around `recipe`."""
    shown = ("--criterion", "--sparsity", "--seed")
    line = ["nirvana", "sweep", *option_words(_around(recipe, grid), ("--model",)), *words(grid, shown)]
    return shlex.join(line)


def _around(recipe: Recipe, grid: Grid) -> Recipe:
    """The values of a recipe that a sweep uses: the grid replaces some, and no calibration set is chosen by KL. Those
    of a recovery count where the grid has one.
    """
    default, kept = Recipe(), recipe.calibration
    made = recipe.with_values(saliency=default.saliency)
    drawn = {name: getattr(kept, name) for name in DRAWN}
    made = made.with_values(calibration=default.calibration.with_values(**drawn))
    allocation = {name: getattr(recipe.allocation, name) for name in AROUND}
    made = made.with_values(allocation=default.allocation.with_values(**allocation))
    trained = recipe.recovery.with_values(method=default.recovery.method) if set(grid.recoveries) - {"none"} else None
    made = made.with_values(recovery=trained or default.recovery)
    return made.change("prune", compensation=default.prune.compensation)


def _output(recipe: Recipe, step: str, format: str) -> str:
    """Output path of the last model: a folder or a file."""
    name = "recovered" if "recover" in recipe.up_to(step) else "pruned"
    return f"{name}.gguf" if format == "gguf" else name
