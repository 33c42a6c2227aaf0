"""A sweep on a real local Ray cluster of two nodes, one of which is removed while it measures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from nirvana.errors import RunError
from nirvana.jobs.execute import execute
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.studies.ray_executor import RayExecutor
from nirvana.studies.sweep import sweep
from nirvana.studies.sweep_rows import FILE, read_rows
from tests.reporter import Reporter
from tests.sweeps import grid_of

pytest.importorskip("ray", reason="ray is not installed: pip install ray")
GRID = grid_of(("nirvana", "magnitude"), ("shared",), tuple(round(0.02 * step, 2) for step in range(5, 17)), (0,))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    found: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    yield found
    found.shutdown()


class Removes(Reporter):
    """Removes a node while both nodes measure."""

    def __init__(self, cluster: Any, node: Any) -> None:
        super().__init__()
        self.cluster, self.node = cluster, node

    def progress(self, progress: Any) -> None:
        super().progress(progress)
        if self.node is not None and "2 at once" in progress.stage:
            self.cluster.remove_node(self.node)
            self.node = None


def test_a_node_that_is_removed_loses_no_point(small_recipe: Recipe, cluster: Any) -> None:
    store = Store()
    base = store.create(small_recipe, name="Base")
    removes = Removes(cluster, cluster.add_node(num_cpus=1, num_gpus=0))
    found = execute(base, "sweep", GRID.to_json(), removes, executor=RayExecutor(cluster.address))
    assert removes.node is None, "both nodes were measuring when one was removed"
    assert found == {"points": 24, "failed": 0}
    lines = [json.loads(line) for line in (base.folder / FILE).read_text().splitlines()]
    points = [json.dumps(line["row"]["point"]) for line in lines if "row" in line]
    assert len(points) == len(set(points)) == 24 and len(store.children(base.id)) == 24, "none twice"
    alone = {row.point: (row.weights, row.sizes, row.values) for row in sweep(store.create(base.recipe), GRID)}
    assert {row.point: (row.weights, row.sizes, row.values) for row in read_rows(base)} == alone


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "127.0.0.1:many", "nowhere.invalid:6379"])
def test_a_cluster_that_cannot_be_reached_is_named(small_recipe: Recipe, address: str) -> None:
    base = Store().create(small_recipe)
    with pytest.raises(RunError, match=f"cluster at {address} cannot be used") as caught:
        execute(base, "sweep", GRID.to_json(), Reporter(), executor=RayExecutor(address))
    assert caught.value.hint and read_rows(base) == []
