"""Environment variables: programs set the spin policy of threads; the library changes none.

A waiting OpenMP thread spins before it sleeps: about 20 ms with GNU's runtime, 200 ms with LLVM's and Intel's. Beside
other busy processes the spinning threads take processors from the threads that they wait for, and a pass takes tens of
times as long. A short spin costs nothing on an idle machine and yields on a busy one; see `benchmarks.contention`. The
runtimes read these variables once, when torch is loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

POLICY = {
    "GOMP_SPINCOUNT": "1000",  # GNU's libgomp: rounds of the waiting loop
    "KMP_BLOCKTIME": "0",  # LLVM's libomp and Intel's libiomp5: milliseconds
}
RELATED = (*POLICY, "OMP_WAIT_POLICY", "KMP_LIBRARY")  # a user who set any of them has chosen a policy


def thread_policy(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for the environment of a process that will load torch; empty where the user has set any."""
    return {} if any(name in environment for name in RELATED) else dict(POLICY)


def set_thread_policy() -> None:
    """Add the policy to this process's environment, unless torch is loaded already."""
    if "torch" not in sys.modules:
        os.environ.update(thread_policy(os.environ))


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """Restore the environment after the block, such as an import that changes it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
