"""The structure of the package: no import cycles, imports point downwards, and modules can be imported in any order."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import product

from tests.structure import ROOT, cycles, imports, modules

# From the bottom up; each folder imports from those before it. Modules directly in nirvana/ that carry no torch are the
# base, the other ones are named.
ENGINE = (
    "models",
    "calibration",
    "forward",
    "compensation",
    "saliency",
    "allocation",
    "surgery",
    "evaluation",
    "recovery",
    "checkpoints",
    "iterative",
    "selection",
)
LAYERS = (
    *ENGINE,
    "runs",
    "estimation",
    "studies",
    "jobs",
    "reporting",
    "teaching",
    "dashboard",
    "commands",
    "cli",
    "__main__",
)
SIDE_BY_SIDE = ("dashboard", "commands")
TORCH_FREE = [
    name
    for name in sorted(modules())
    if name.startswith(("nirvana.allocation.", "nirvana.calibration.corpora.", "nirvana.reporting.", "nirvana.runs.re"))
]


def layer(name: str) -> str:
    part = name.split(".")[1] if "." in name else ""
    return part if part in LAYERS else "base"


def test_no_files_import_each_other_in_a_circle() -> None:
    assert cycles(imports()) == []


def test_circles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert cycles({"p": {"p.x"}, "p.x": set()}) == [["p", "p.x"]]  # a package that imports its own module


def test_imports_point_downwards() -> None:
    order = {"base": -1, **{name: place for place, name in enumerate(LAYERS)}}
    upward = [
        (name, target)
        for name, targets in imports().items()
        for target in targets
        if target != "nirvana"
        and (order[layer(target)] > order[layer(name)] or {layer(name), layer(target)} == set(SIDE_BY_SIDE))
    ]
    assert upward == []


def test_a_package_imports_none_of_its_own_modules() -> None:
    graph, files = imports(), modules()
    packages = [name for name, file in files.items() if file.name == "__init__.py" and name != "nirvana"]
    assert [name for name in packages if any(target.startswith(f"{name}.") for target in graph[name])] == []


def test_any_two_modules_can_be_imported_at_once() -> None:
    """Two threads import one module each from a fresh interpreter, so that neither finds the other's work done."""
    known = [("nirvana.allocation.allocate", "nirvana.allocation.rules")]
    known += [("nirvana.calibration.corpora.registry", "nirvana.calibration.corpora.mixture")]
    pairs = random.Random(0).sample([(one, two) for one, two in product(TORCH_FREE, repeat=2) if one != two], 30)
    program = """
import importlib, sys, threading
def both(names):
    for name in [name for name in sys.modules if name.partition(".")[0] == "nirvana"]:
        del sys.modules[name]
    barrier, failures = threading.Barrier(2), []
    def load(name):
        barrier.wait()
        try:
            importlib.import_module(name)
        except BaseException as error:
            failures.append(f"{name}: {error!r}")
    threads = [threading.Thread(target=load, args=(name,)) for name in names]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    return failures + [f"{names} hang" for thread in threads if thread.is_alive()]
sys.setswitchinterval(1e-5)
pairs = [line.split() for line in sys.stdin]
print([failure for names in pairs for failure in both(names)])
"""
    lines = "\n".join(" ".join(pair) for pair in [*known * 10, *pairs])
    run = subprocess.run([sys.executable, "-c", program], input=lines, capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


def test_modules_with_torch_can_be_imported_beside_their_folder() -> None:
    """Four threads of one fresh interpreter, since each interpreter needs seconds for torch."""
    program = """
import importlib, threading
names = ["nirvana.surgery", "nirvana.saliency.score", "nirvana.runs.pipeline", "nirvana.models.loading"]
barrier, failures = threading.Barrier(len(names)), []
def load(name):
    barrier.wait()
    try:
        importlib.import_module(name)
    except BaseException as error:
        failures.append(f"{name}: {error!r}")
threads = [threading.Thread(target=load, args=(name,), daemon=True) for name in names]
[thread.start() for thread in threads]
[thread.join(120) for thread in threads]
print(failures + ["hangs" for thread in threads if thread.is_alive()])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
