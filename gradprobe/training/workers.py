"""Thread pool whose threads each run torch on one thread, so that results do not depend on their number.

On a CPU, two threads with micro-batches of 8, which fit the cache, are faster than one large batch on torch's own two.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import copy_context  # a thread's checks are those of the block it works for
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from gradprobe.core import Batch, RaggedBatch, Task
from gradprobe.errors import UsageError, out_of_memory
from gradprobe.training.memory import Limit, OutOfMemory, rows_for

ROWS = {"cpu": 8, "cuda": 64}  # images in a piece of a resumable run

Item = TypeVar("Item")
Result = TypeVar("Result")


def groups_of(batch: Batch | RaggedBatch, rows: int | None = None) -> list[Batch]:
    """Split a batch into micro-batches of at most ``rows`` images (None: `rows_for`), all of one number of tokens."""
    if isinstance(batch, RaggedBatch):
        return [group for part in batch.parts for group in groups_of(part, rows)]
    patches = batch.tokens.patches
    rows = rows or rows_for(patches.device, patches.shape[1])
    return [batch.subset(slice(i, i + rows)) for i in range(0, len(batch.ids), rows)]


def numbered_groups(batch: Batch) -> list[Batch]:
    """Split a batch into the pieces of a resumable run; whatever memory is free, a number means the same images."""
    return groups_of(batch, ROWS.get(batch.tokens.patches.device.type, 64))


def workers_for(task: Task, workers: int | None = None) -> int:
    """Return the number of threads: ``workers`` if given, else as many as torch has on a CPU, and one on a GPU.

    Raises:
        UsageError: ``workers`` is below 1.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers} is not possible; give a whole number of at least 1")
    device = next(task.scorer.parameters()).device.type
    return workers or (torch.get_num_threads() if device == "cpu" else 1)


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """Map a function over items on threads, yielding results in order; closed early, it drops work not yet begun.

    Args:
        work: Function, called with torch on one thread.
        items: Items; of an iterator at most two for each thread are taken ahead.
        workers: Number of threads.

    Example:
        >>> list(in_threads(lambda x: x * x, range(8), workers=2))
        [0, 1, 4, 9, 16, 25, 36, 49]
    """
    walk = iter(items)
    with one_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(copy_context().run, work, item) for item in islice(walk, 2 * workers)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(copy_context().run, work, item) for item in islice(walk, 1)]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def over_groups(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, limit: Limit | None = None
) -> Iterator[tuple[Item, Result]]:
    """Map a function over micro-batches on threads, yielding each with its result, in order; halve them if need be.

    Where memory runs out, this micro-batch and all later ones are split; so the micro-batches that are yielded may be
    smaller than those that were given, but together they are the same images.

    Args:
        work: Function, called with torch on one thread. It may be called again for the same images.
        items: Batches; or tuples with one batch in them, whose tensors have a row for each of its images and are split
            with it, while everything else in them is repeated.
        workers: Number of threads.
        limit: Limit known from earlier work, lowered where memory runs out; give the same to each of many calls. None:
            there was none.

    Raises:
        OutOfMemory: A single image does not fit.

    Example:
        >>> from gradprobe.core import Batch, Tokens
        >>> x = torch.arange(3.0).reshape(3, 1, 1)
        >>> batch = Batch((0, 1, 2), Tokens(x, x), torch.zeros(3))
        >>> work = lambda item: item[0] * float(item[1].tokens.patches.sum())
        >>> [(r, group.ids, y) for (r, group), y in over_groups(work, [(1, batch), (2, batch)], workers=1)]
        [(1, (0, 1, 2), 3.0), (2, (0, 1, 2), 6.0)]
    """
    limit = Limit() if limit is None else limit
    coming, waiting, taken = iter(items), deque[Item](), deque[Item]()

    def pieces() -> Iterator[Item]:
        while True:
            waiting.extend(() if waiting else islice(coming, 1))
            if not waiting:
                return
            item, *rest = _split(waiting.popleft(), limit.rows)
            waiting.extendleft(reversed(rest))
            taken.append(item)
            yield item

    def guarded(item: Item) -> Result | _Full:
        try:
            return work(item)
        except Exception as error:  # torch and numpy raise several kinds
            if not out_of_memory(error) or isinstance(error, OutOfMemory):
                raise
        return _Full()  # the error is gone, and with it the tensors of its frames

    while True:
        full = False
        with closing(in_threads(guarded, pieces(), workers)) as walk:  # closed, it waits for what is under way
            for result in walk:
                if full := isinstance(result, _Full):
                    break
                item = taken.popleft()
                limit.tell(_batch_in(item).tokens.patches.device)
                yield item, result
        if not full:
            return
        batch = _batch_in(taken[0])
        limit.halve(len(batch.ids), batch.tokens.patches.device)
        waiting.extendleft(reversed(taken))
        taken.clear()


class _Full:
    """Result of work that ran out of memory."""


def _batch_in(item: Any) -> Batch:
    return item if isinstance(item, Batch) else next(part for part in item if isinstance(part, Batch))


def _split(item: Any, rows: int | None) -> list[Any]:
    """Split an item of `over_groups` into parts of at most ``rows`` images."""
    size = len(_batch_in(item).ids)
    if rows is None or size <= rows:
        return [item]
    return [_part(item, slice(i, i + rows)) for i in range(0, size, rows)]


def _part(item: Any, which: slice) -> Any:
    if isinstance(item, tuple):
        return tuple(_part(part, which) for part in item)
    return item.subset(which) if isinstance(item, Batch) else item[which] if isinstance(item, Tensor) else item


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside; restore the number of threads afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
