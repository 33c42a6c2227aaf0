"""Points of a study on the devices of a Ray cluster, or of this machine. Ray is an optional dependency."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nirvana.environment import set_thread_policy, unchanged_environment
from nirvana.errors import NirvanaError, RunError
from nirvana.progress import Progress, ProgressCallback
from nirvana.runs.transfer import Packed, pack_run
from nirvana.studies.journal import Journal
from nirvana.studies.parallel import Ended, measure_with
from nirvana.studies.point_worker import PointWorker, Result
from nirvana.studies.points import RowCallback
from nirvana.studies.study import Study, Work

LOOK = 5.0  # seconds between looks for new nodes
CLOSING = 5.0  # seconds in which workers delete their files


class RayExecutor:
    """Measures points with one worker on each GPU of a cluster or, for a model on the CPU, on each node.

    A worker keeps its results in a folder of its own and sends them here, so no disk is shared: the nodes need this
    package, the model and the texts under the same names. Nodes may come and go.
    """

    def __init__(self, address: str = "") -> None:
        """`address`: of a running cluster, e.g. "auto" or "10.0.0.1:6379"; empty for the devices of this machine.

        Raises:
            RunError: Ray is not installed.
        """
        self.address, self._ray = address, _import_ray()

    def measure_points(
        self,
        work: Work,
        journal: Journal,
        *,
        progress: ProgressCallback | None = None,
        on_row: RowCallback | None = None,
    ) -> list[Any]:
        """As `nirvana.studies.study.measure_points`, with rows in order of completion.

        Raises:
            RunError: the cluster cannot be reached, or none of its nodes can measure points.
        """
        with self._connected():
            crew = _Crew(self._ray, work)
            try:
                return measure_with(crew, work, journal, progress=progress, on_row=on_row)
            finally:
                crew.close()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """A connection to the cluster, unless the program has one."""
        if self._ray.is_initialized():
            yield
            return
        with unchanged_environment():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                _knock(self.address)
                self._ray.init(
                    address=self.address or "local", log_to_driver=False, configure_logging=False, logging_level="ERROR"
                )
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                where = f"The cluster at {self.address}" if self.address else "Ray"
                raise RunError(
                    f"{where} cannot be used: {error}", "Check the address, and that the cluster runs the same Ray."
                ) from error
        try:
            yield
        finally:
            self._ray.shutdown()


def _knock(address: str) -> None:
    """Check that something listens at an address of host and port: Ray itself would wait for it for minutes.

    Raises:
        OSError: nothing does.
        ValueError: the port is not a number.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CLOSING).close()


class RayWorker:
    """A `PointWorker` in a process of the cluster."""

    def open(self, study: Study[Any], base: Packed, request: dict[str, Any]) -> tuple[str, str] | None:
        """Load model and texts; the message and hint of the error if they cannot be used on this node."""
        set_thread_policy()
        try:
            self._worker = PointWorker(study, base, request)
        except NirvanaError as error:
            return error.message, error.hint
        return None

    def prepare(self, point: Any) -> Result:
        return self._worker.prepare(point)

    def measure(self, point: Any, donor: Packed | None, rows: list[dict[str, Any]]) -> Result:
        return self._worker.measure(point, donor, rows)

    def state(self) -> Progress:
        return self._worker.state()

    def close(self) -> None:
        self._worker.close()


@dataclass(eq=False)
class _Worker:
    """An actor, its pending call, and the number of its job; 0 while it opens the study, None while it is idle."""

    actor: Any
    node: str
    call: Any
    job: int | None = 0


class _Crew:
    """The workers of one study. See `nirvana.studies.parallel.Crew`."""

    def __init__(self, ray: ModuleType, work: Work) -> None:
        self._ray, self._work, self._base = ray, work, pack_run(work.run)
        self._workers: list[_Worker] = []
        self._known: set[str] = set()  # nodes that were given workers
        self._refused: dict[str, tuple[str, str]] = {}  # node -> why it cannot measure points
        self._looked = -LOOK
        self._look()

    def idle(self) -> bool:
        return any(worker.job is None for worker in self._workers)

    def start(self, number: int, method: str, *arguments: Any) -> None:
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job, worker.call = number, getattr(worker.actor, method).remote(*arguments)

    def ended(self, seconds: float) -> Sequence[Ended]:
        self._look()
        calls = {worker.call: worker for worker in self._workers if worker.job is not None}
        if not self._workers:
            raise self._nothing_left()
        ready, _ = self._ray.wait(list(calls), num_returns=1, timeout=seconds) if calls else ([], [])
        return [ended for call in ready if (ended := self._end(calls[call])) is not None]

    def states(self) -> Sequence[Progress]:
        asked = [worker.actor.state.remote() for worker in self._workers if worker.job]
        with suppress(self._ray.exceptions.RayError):  # a lost worker is found by `ended`
            found: list[Progress] = self._ray.get(asked, timeout=CLOSING)
            return found
        return ()

    def close(self) -> None:
        """End all workers, and delete their files."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.get([worker.actor.close.remote() for worker in self._workers if worker.job != 0], timeout=CLOSING)
        for worker in self._workers:
            self._ray.kill(worker.actor)

    def _end(self, worker: _Worker) -> Ended | None:
        """Take the result of a finished call; None for one that opened the study."""
        job, worker.job = worker.job, None
        errors = self._ray.exceptions
        try:
            found = self._ray.get(worker.call)
        except errors.RayTaskError:
            raise  # a fault of this program
        except errors.RayError:
            self._workers.remove(worker)
            self._known.discard(worker.node)  # it gets another worker if it is still there
            return Ended(job, None) if job else None
        if job:
            return Ended(job, found)
        if found is not None:
            self._refused[worker.node] = found
            self._ray.kill(worker.actor)
            self._workers.remove(worker)
        return None

    def _look(self) -> None:
        """Start workers on new nodes."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        for node in self._ray.nodes():
            name = node["NodeID"]
            if node["Alive"] and name not in self._known and name not in self._refused:
                self._known.add(name)
                for needs in self._devices(node["Resources"]):
                    self._add(name, needs)

    def _devices(self, resources: dict[str, float]) -> list[dict[str, float]]:
        """The resources that each worker of a node reserves."""
        processors, cards = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        device = self._work.run.recipe.model.device
        if device.startswith("cuda") or (device == "auto" and cards):
            return [{"num_gpus": 1, "num_cpus": processors // cards}] * cards
        return [{"num_cpus": processors}] if processors else []

    def _add(self, node: str, needs: dict[str, float]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node, soft=False)
        kind = self._ray.remote(RayWorker).options(max_concurrency=2, scheduling_strategy=place, **needs)
        actor, work = kind.remote(), self._work
        self._workers.append(_Worker(actor, node, actor.open.remote(work.study, self._base, work.request)))

    def _nothing_left(self) -> RunError:
        if self._refused:
            message, hint = next(iter(self._refused.values()))
            return RunError(f"No node can measure points. {message}", hint)
        return RunError(
            "The cluster has no device for the points.", "Start a node, or choose another device in the recipe."
        )


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise RunError("Ray is not installed.", 'Install it: pip install "nirvana-studio[ray]"') from error
    module: ModuleType = ray
    return module
