"""Workers of a Ray cluster, reached through its client server."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.joblib import register_ray

from gradprobe.errors import GradprobeError, brief
from gradprobe.parallel.calls import Call, Outcome
from gradprobe.parallel.pools import Pool, outcomes, raised_as_broken

LATE = "Initialization failure from server"  # of a client's own process, for which a busy machine may be too slow


@contextmanager
def open_ray(host: str, port: int, jobs: int | None) -> Iterator[Pool]:
    """Open the workers of a cluster, one a core or ``jobs``.

    Raises:
        GradprobeError: no cluster answers there.
    """
    address = f"ray://{f'[{host}]' if ':' in host else host}:{port}"
    logging.getLogger("ray.util.multiprocessing.pool").setLevel(logging.ERROR)  # a warning that joblib causes
    ours = not ray.is_initialized()
    try:
        if ours:
            _connect(address)
        there = int(ray.cluster_resources().get("CPU", 0))
    except (OSError, RuntimeError, ValueError, RayError, grpc.RpcError) as error:
        raise GradprobeError(
            f"no Ray answers at {address}: {brief(error)}; if it asks for a token: export RAY_AUTH_MODE=token"
        ) from None
    try:
        if not there:
            raise GradprobeError(f"the cluster at {address} has no cores; start a node: ray start --address=HOST:6379")
        yield Pool(_asking(min(jobs or there, there), there), streams=False)
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str) -> None:
    """Connect as a client; once more where the process that a cluster starts for each client is late."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Ray Client connection timed out", UserWarning)  # the error says so
        for again in (True, True, False):
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
                return
            except (RuntimeError, ConnectionError) as error:
                if not again or LATE not in str(error):
                    raise
                ray.shutdown()


def _asking(most: int, there: int) -> Any:
    """Return the function that asks questions of so many actors."""
    register_ray()
    actors = max(2, most)  # joblib works in this process with one
    remote: dict[str, Any] = {"num_cpus": min(1.0, there / actors)}

    def ask(calls: Sequence[Call], lone: bool) -> Iterator[Outcome]:
        settings = {"backend": "ray", "n_jobs": actors, "ray_remote_args": remote}
        with raised_as_broken(RayError, but=_own_error):
            yield from outcomes(calls, settings, at_once=1 if lone else most, stream=False)

    return ask


def _own_error(error: BaseException) -> BaseException | None:
    """Return the error that a question raised, where no worker was killed."""
    return error.cause if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError) else None
