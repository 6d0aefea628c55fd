"""Workers of Dask, of a scheduler that is there or of batch jobs that SLURM starts."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from dask import config as dask_config
from dask_jobqueue import SLURMCluster
from distributed import CancelledError, Client
from distributed.scheduler import KilledWorker
from joblib._dask import DaskDistributedBackend

from gradprobe.errors import GradprobeError, UsageError, brief
from gradprobe.parallel.calls import Call, Outcome
from gradprobe.parallel.pools import Pool, outcomes, raised_as_broken

PATIENCE = 60.0  # seconds for a worker to join a scheduler
GONE = "what was answered is stored, and the same command goes on"


class _Backend(DaskDistributedBackend):
    """joblib's, without two gaps: it works in this process where it sees one core, and waits for ever after a kill."""

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return at least 2."""
        return max(2, super().effective_n_jobs(n_jobs))

    def submit(self, func: Any, callback: Any = None) -> Any:
        """Submit a call whose errors, too, reach the callback."""
        future = super().submit(func, callback)
        future.add_done_callback(lambda done: callback(done.exception()) if done.exception() else None)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the result of a call, or raise its error."""
        if isinstance(out, BaseException):
            raise out
        return super().retrieve_result_callback(out)


@contextmanager
def open_dask(host: str, port: int, jobs: int | None) -> Iterator[Pool]:
    """Open the workers of a scheduler.

    Raises:
        GradprobeError: no scheduler of Dask answers there, or it has no workers.
    """
    name = f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
    with ExitStack() as held:
        client = held.enter_context(_connected(name))
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise GradprobeError(
                f"the scheduler at {name} has no workers; start some on each machine: dask worker {name} --nthreads 1"
            ) from None
        yield _pool(client, jobs)


@contextmanager
def open_slurm(jobs: int, progress: Callable[[str, int, int], None] | None) -> Iterator[Pool]:
    """Submit batch jobs as the configuration of dask-jobqueue says, and open their workers; cancel them at the end.

    Raises:
        UsageError: the configuration lacks something.
        GradprobeError: a job cannot be submitted.
    """
    with ExitStack() as held:
        _check_settings()
        try:
            cluster = held.enter_context(SLURMCluster())
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"--cluster slurm: {brief(error)}; write it in ~/.config/dask/jobqueue.yaml (docs/parallel.md)"
            ) from None
        client = held.enter_context(_connected(cluster))
        each = max(1, len(cluster.new_spec.get("group", ())) or 1)  # workers of a job
        cluster.scale(jobs=jobs)
        waiting = "waiting for SLURM to start a worker"
        if progress is not None:
            progress(waiting, 0, 1)
        _until_one_works(client, cluster)
        if progress is not None:
            progress(waiting, 1, 1)
        yield _pool(client, jobs * each, growing=True)


def _check_settings() -> None:
    """Refuse a configuration without the size of a job, sooner than a half-made cluster does."""
    missing = [name for name in ("cores", "memory") if dask_config.get(f"jobqueue.slurm.{name}", None) is None]
    if missing:
        words = " and ".join(missing)
        raise UsageError(f"--cluster slurm: write {words} of a job in ~/.config/dask/jobqueue.yaml (docs/parallel.md)")


def _until_one_works(client: Client, cluster: SLURMCluster) -> None:
    """Wait for the first worker, as long as the queue may take.

    Raises:
        GradprobeError: jobs cannot be submitted.
    """
    while True:
        try:
            client.wait_for_workers(1, timeout=2.0)
            return
        except TimeoutError:
            if cluster.status.name == "failed":
                raise GradprobeError("SLURM takes no jobs; the lines above say why") from None


@contextmanager
def _connected(address: Any) -> Iterator[Client]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\n*Mismatched versions found")  # of no matter for what is sent here
        try:
            client = Client(address, timeout=10.0, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise GradprobeError(f"no scheduler of Dask answers at {address}: {brief(error)}") from None
    with client:
        yield client


def _pool(client: Client, jobs: int | None, growing: bool = False) -> Pool:
    """Return the pool of a client, with as many questions under way as workers, however many threads these have."""

    def ask(calls: Sequence[Call], lone: bool) -> Iterator[Outcome]:
        if client.status != "running":
            raise GradprobeError(f"the scheduler is gone; {GONE}")
        there = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        most = there if jobs is None else jobs if growing else min(jobs, there)
        settings = {"backend": _Backend(client=client), "n_jobs": most}
        with raised_as_broken(KilledWorker, CancelledError):
            yield from outcomes(calls, settings, at_once=1 if lone else most)

    return Pool(ask)
