"""Words for a crew, ``--jobs`` and ``--cluster``: checked before any work, then opened as a pool."""

import importlib.util
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.parallel.pools import Pool, processes, stop_processes
from gradprobe.ranges import check_number

SLURM = "slurm"
NEEDS = {"dask": ("dask", "distributed"), "ray": ("ray", "grpc"), SLURM: ("dask", "distributed", "dask_jobqueue")}
POSSIBLE = "dask://HOST:PORT, ray://HOST:PORT or slurm"
REACH = 5.0  # seconds for a scheduler to accept a connection

Report = Callable[[str, int, int], None]


def check_crew(jobs: int | None, cluster: str | None) -> None:
    """Refuse a crew that is not possible on this machine.

    Raises:
        UsageError: a number of jobs below 1, an unknown scheme, or a package or program that is not there.
    """
    if jobs is not None:
        check_number("jobs", jobs)
    if cluster is None:
        return
    scheme = scheme_of(cluster)
    if missing := [name for name in NEEDS[scheme] if importlib.util.find_spec(name) is None]:
        raise UsageError(f'--cluster {cluster} needs {", ".join(missing)}; type: pip install "gradprobe[cluster]"')
    if scheme == SLURM and jobs is None:
        raise UsageError("--cluster slurm needs the number of batch jobs to submit; add --jobs 8")
    if scheme == SLURM and shutil.which("sbatch") is None:
        raise UsageError("--cluster slurm needs sbatch, which is not on the PATH; type it on a login node")


def scheme_of(cluster: str) -> str:
    """Return ``dask``, ``ray`` or ``slurm``.

    Raises:
        UsageError: something else, or an address without host and port.

    Example:
        >>> scheme_of("dask://node3:8786"), scheme_of("slurm")
        ('dask', 'slurm')
    """
    if cluster == SLURM:
        return SLURM
    scheme = cluster.partition("://")[0]
    if scheme not in ("dask", "ray") or None in address_of(cluster):
        raise UsageError(f"--cluster {cluster} is not possible; give {POSSIBLE}")
    return scheme


def address_of(cluster: str) -> tuple[str, int] | tuple[None, None]:
    """Return host and port; None and None if the text has none.

    Example:
        >>> address_of("dask://node3:8786"), address_of("dask://node3")
        (('node3', 8786), (None, None))
    """
    try:
        parts = urlsplit(cluster)
        host, port = parts.hostname, parts.port
    except ValueError:  # no number, or one that no port has
        return None, None
    plain = parts.path in ("", "/") and not parts.query and not parts.fragment and not parts.username
    return (host, port) if host and port and plain else (None, None)


@contextmanager
def opened(jobs: int | None, cluster: str | None, progress: Report | None) -> Iterator[Pool]:
    """Open the pool of a crew that `check_crew` let pass.

    Raises:
        GradprobeError: no scheduler can be reached, or no worker comes.
    """
    if cluster is None:
        assert jobs is not None
        try:
            with processes(jobs) as pool:
                yield pool
        except BaseException:
            stop_processes()
            raise
        return
    scheme = scheme_of(cluster)
    if scheme == SLURM:
        from gradprobe.parallel.dask_pool import open_slurm

        assert jobs is not None
        with open_slurm(jobs, progress) as pool:
            yield pool
        return
    host, port = address_of(cluster)
    assert host is not None and port is not None
    _check_reachable(cluster, host, port)
    if scheme == "dask":
        from gradprobe.parallel.dask_pool import open_dask

        with open_dask(host, port, jobs) as pool:
            yield pool
    else:
        from gradprobe.parallel.ray_pool import open_ray

        with open_ray(host, port, jobs) as pool:
            yield pool


def _check_reachable(cluster: str, host: str, port: int) -> None:
    """Refuse an address where nothing listens, sooner than the libraries do."""
    try:
        socket.create_connection((host, port), REACH).close()
    except OSError as error:
        reason = error.strerror or str(error)
        started = "dask scheduler" if cluster.startswith("dask") else "ray start --head --ray-client-server-port=10001"
        raise GradprobeError(
            f"there is no scheduler at {cluster} ({reason}); start one there: {started}, or give another --cluster"
        ) from None
