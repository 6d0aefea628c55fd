"""Questions answered by workers of Dask, Ray and SLURM: the same bytes, also when one is killed on the way."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from asked import ALL, contents, leftovers, mortal, serially
from asked import named as named

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.parallel.driver import Crew, answer_all
from gradprobe.store.results import Store

SBATCH = """#!/bin/sh
# Run the script of a job in the background, as SLURM would on another machine.
for last; do :; done
cp "$last" "$JOBS/job.$$"
nohup sh "$JOBS/job.$$" > "$JOBS/job.$$.log" 2>&1 < /dev/null &
echo $! > "$JOBS/job.$$.pid"
echo "Submitted batch job $$"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$JOBS/cancelled"
pkill -P "$(cat "$JOBS/job.$1.pid")"
"""


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return contents(serially(ALL[:4], tmp_path_factory.mktemp("serial")))


def check_answers(cluster, jobs, serial, root):
    """All questions are answered with the same bytes, and the one that kills its worker as well."""
    store = Store(root)
    dies = mortal(deaths=1)
    assert answer_all([*ALL[:4], dies], [store], Crew(jobs, cluster)) == {}
    result = store.load(store.find(dies.question))
    assert result.environment["deaths"] == 1
    found = contents(root)
    assert {name: each for name, each in found.items() if not name.startswith("mortal/")} == serial
    assert leftovers(root) == []


def test_dask_with_two_workers_one_of_them_killed(named, serial, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        host, port = cluster.scheduler_address.removeprefix("tcp://").split(":")
        check_answers(f"dask://{host}:{port}", None, serial, tmp_path / "runs")


def test_dask_without_workers_is_told(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    from gradprobe.parallel import dask_pool

    monkeypatch.setattr(dask_pool, "PATIENCE", 0.5)
    with distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as cluster:
        address = cluster.scheduler_address.removeprefix("tcp://")
        with pytest.raises(GradprobeError, match="has no workers; start some on each machine: dask worker tcp://"):
            answer_all(ALL[:1], [Store(tmp_path)], Crew(cluster=f"dask://{address}"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ray_with_two_workers_one_of_them_killed(named, serial, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # no token is left in the home folder
    monkeypatch.setenv("RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", "120")  # its own 30 are few on a busy machine
    pytest.importorskip("grpc")
    pytest.importorskip("ray")
    gcs, server = _free_ports(2)
    start = [shutil.which("ray", path=Path(sys.executable).parent), "start", "--head", "--block", "--num-cpus=2"]
    start += ["--object-store-memory=100000000", "--include-dashboard=false", f"--port={gcs}"]
    folder = tempfile.mkdtemp(prefix="ray-")  # a socket's path has to be short
    start += [f"--temp-dir={folder}"]
    start += [f"--ray-client-server-port={server}", "--disable-usage-stats"]
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(start, stdout=log, stderr=log, start_new_session=True)
    try:
        _until_reached(server)
        check_answers(f"ray://127.0.0.1:{server}", None, serial, tmp_path / "runs")
    finally:
        head.terminate()  # and with it all that it started
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Programs that take SLURM's place, and the least that dask-jobqueue must be told."""
    pytest.importorskip("dask_jobqueue")
    import dask

    jobs = tmp_path / "jobs"
    jobs.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (jobs / name).write_text(text)
        (jobs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{jobs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(jobs))
    settings = {"cores": 1, "memory": "2GB", "processes": 1, "python": sys.executable, "local-directory": str(jobs)}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in settings.items()}):
        yield jobs


def test_slurm_with_two_jobs_one_of_them_killed(named, serial, queue, tmp_path):
    lines = []
    store, dies = Store(tmp_path / "runs"), mortal(deaths=1)
    assert answer_all([dies, mortal(seed=1)], [store], Crew(2, "slurm"), lambda *line: lines.append(line)) == {}
    assert store.load(store.find(dies.question)).environment["deaths"] == 1
    assert ("waiting for SLURM to start a worker", 0, 1) in lines
    assert len(list(queue.glob("job.*.pid"))) == 2
    assert (queue / "cancelled").exists()


def test_slurm_needs_its_settings_its_program_and_a_number_of_jobs(tmp_path, monkeypatch, queue):
    import dask

    with dask.config.set({"jobqueue.slurm.cores": None}), pytest.raises(UsageError, match=r"cores.*jobqueue\.yaml"):
        answer_all(ALL[:1], [Store(tmp_path / "runs")], Crew(1, "slurm"))
    with pytest.raises(UsageError, match="add --jobs"):
        answer_all(ALL[:1], [Store(tmp_path / "runs")], Crew(cluster="slurm"))
    monkeypatch.setenv("PATH", str(Path(tmp_path)))
    with pytest.raises(UsageError, match="needs sbatch, which is not on the PATH"):
        answer_all(ALL[:1], [Store(tmp_path / "runs")], Crew(1, "slurm"))


def _free_ports(count):
    """Ports that nothing listens at, beyond those that Ray gives its workers."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _until_reached(port):
    end = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.2)
