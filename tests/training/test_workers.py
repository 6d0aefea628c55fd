"""Work on threads: in order, complete, with its errors, and torch's number of threads restored."""

import threading
import time

import pytest
import torch
from toy import Toy

from gradprobe.errors import UsageError
from gradprobe.training.workers import ROWS, groups_of, in_threads, one_thread, workers_for


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_results_come_in_the_order_of_the_items_and_all_of_them(workers, count):
    def work(i):
        time.sleep(0.004 * ((7 * i) % 3))  # the first ones are not the fastest
        return i * i

    assert list(in_threads(work, iter(range(count)), workers)) == [i * i for i in range(count)]


def test_each_piece_runs_on_one_torch_thread_and_at_most_so_many_at_once():
    busy, most, lock = [0], [0], threading.Lock()

    def work(_):
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.01)
        with lock:
            busy[0] -= 1
        return torch.get_num_threads()

    assert set(in_threads(work, range(12), 3)) == {1}
    assert most[0] == 3


def test_two_items_a_thread_are_taken_ahead_and_no_more():
    taken = []

    def items():
        for i in range(50):
            taken.append(i)
            yield i

    walk = in_threads(lambda i: i, items(), 2)
    for done in range(1, 5):
        next(walk)
        assert len(taken) <= 4 + done - 1
    walk.close()


@pytest.mark.parametrize(("where", "yielded"), [("work", [0, 1, 2, 3, 4]), ("items", [0, 1])])  # items: 4 are ahead
def test_an_exception_comes_after_the_results_before_it(where, yielded):
    def items():
        for i in range(9):
            if where == "items" and i == 5:
                raise KeyError("five")
            yield i

    def work(i):
        if where == "work" and i == 5:
            raise KeyError("five")
        return i

    results = []
    with pytest.raises(KeyError, match="five"):
        for result in in_threads(work, items(), 2):
            results.append(result)  # noqa: PERF402  # what came before the exception
    assert results == yielded


def test_stopped_early_what_has_not_begun_is_dropped():
    begun = []

    def work(i):
        begun.append(i)
        time.sleep(0.1 * min(i, 1))
        return i

    walk = in_threads(work, range(1000), 2)  # four are taken ahead
    assert next(walk) == 0
    walk.close()
    assert 0 in begun and 3 not in begun  # two may be under way, the last one waits


def test_one_thread_is_undone_after_an_exception():
    with pytest.raises(ValueError), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError


@pytest.mark.parametrize("count", [1, 8, 9, 20])
def test_groups_are_the_batch_in_order(count):
    (batch,) = Toy().batches(1, count, 0)
    groups = groups_of(batch)
    assert [i for g in groups for i in g.ids] == list(batch.ids)
    assert all(len(g.ids) == ROWS["cpu"] for g in groups[:-1]) and 1 <= len(groups[-1].ids) <= ROWS["cpu"]
    assert torch.equal(torch.cat([g.tokens.patches for g in groups]), batch.tokens.patches)
    assert torch.equal(torch.cat([g.target for g in groups]), batch.target)


def test_as_many_workers_as_asked_for_or_as_torch_has():
    assert workers_for(Toy()) == 3 and workers_for(Toy(), 5) == 5
    for few in (0, -1):
        with pytest.raises(UsageError, match=f"--workers {few} is not possible"):
            workers_for(Toy(), few)
