"""Pools of workers by joblib: processes of this machine, Dask, Ray, and SLURM by Dask.

A pool is asked questions and yields an outcome for each, in any order. `Broken` says that workers were killed:
the pool has been left, and what has no outcome may be asked again.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from gradprobe.parallel.calls import Call, Outcome, shipped


@dataclass(frozen=True)
class Pool:
    """Workers that are there.

    Attributes:
        ask: ``(calls, lone) -> outcomes``; lone: one at a time.
        streams: whether outcomes come as they are made, and not all at the end.
    """

    ask: Callable[[Sequence[Call], bool], Iterator[Outcome]]
    streams: bool = True


class Broken(Exception):
    """Pool whose workers were killed."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    from joblib import cpu_count

    return int(cpu_count())


@contextmanager
def processes(jobs: int) -> Iterator[Pool]:
    """Open a pool of processes on this machine, which share its cores out among them; it stays warm afterwards."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    threads = max(1, cores() // jobs)

    def ask(calls: Sequence[Call], lone: bool) -> Iterator[Outcome]:
        own = [call | {"driver": os.getpid(), "threads": threads} for call in calls]
        # joblib runs a pool of one in this process, where a worker that is killed would take the driver with it
        settings = {"backend": "loky", "n_jobs": max(2, jobs), "inner_max_num_threads": 1}
        with raised_as_broken(BrokenProcessPool):
            yield from outcomes(own, settings, at_once=1 if lone else jobs)

    yield Pool(ask)


def outcomes(calls: Sequence[Call], settings: dict[str, Any], at_once: int, stream: bool = True) -> Iterator[Outcome]:
    """Run calls by joblib and yield what they return.

    Args:
        calls: to run.
        settings: of `joblib.parallel_config`.
        at_once: calls that are given to workers at a time.
        stream: yield each as it comes; some backends can only return all together.
    """
    from joblib import Parallel, delayed, parallel_config

    work = delayed(shipped())
    with warnings.catch_warnings(), parallel_config(**settings):
        # an early end is told by other means, and a worker that is replaced for its memory loses nothing
        for words in ("A worker stopped while some jobs", ".*tasks (which were|have been)"):
            warnings.filterwarnings("ignore", words, UserWarning)
        parallel = Parallel(return_as="generator_unordered" if stream else "list", batch_size=1, pre_dispatch=at_once)
        results = parallel(work(call) for call in calls)
        if not stream:
            yield from results
            return
        with closing(results):
            yield from results


@contextmanager
def raised_as_broken(
    *kinds: type[BaseException], but: Callable[[BaseException], BaseException | None] = lambda error: None
) -> Iterator[None]:
    """Turn a library's errors of workers that were killed into `Broken`.

    Args:
        kinds: of errors.
        but: returns the error that is meant where one of them is something else.
    """
    try:
        yield
    except kinds as error:
        if other := but(error):
            raise other from None
        raise Broken(" ".join(str(error).split())[:200]) from error


def stop_processes() -> None:
    """End the warm processes of this machine."""
    from joblib.externals.loky import reusable_executor

    if reusable_executor._executor is not None:  # the public function would start new ones first
        reusable_executor._executor.shutdown(wait=True, kill_workers=True)
