"""Registry of experiments. A new one is a file in this folder and an entry in `EXPERIMENTS`."""

from __future__ import annotations

from nirvana.errors import RunError
from nirvana.teaching.experiments.attention import ATTENTION
from nirvana.teaching.experiments.experiment import Experiment
from nirvana.teaching.experiments.gamma import GAMMA
from nirvana.teaching.experiments.healing import HEALING
from nirvana.teaching.experiments.lottery import LOTTERY
from nirvana.teaching.experiments.magnitude import MAGNITUDE

EXPERIMENTS = {each.name: each for each in (MAGNITUDE, GAMMA, LOTTERY, ATTENTION, HEALING)}


def find_experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        RunError: there is none.
    """
    if name not in EXPERIMENTS:
        raise RunError(f"There is no experiment {name!r}.", f"Experiments are {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
