"""Batches by themselves: who shares one, who is next, who is left out."""

import asyncio
import threading
import time

import pytest

from sidetune.serve.batcher import MOST_TURNS, Batcher, Pace


class Gate:
    """A backbone that computes a batch when it is let, and remembers what it was given."""

    def __init__(self):
        self.batches, self.fails = [], False

    def __call__(self, items, kind):
        self.batches.append((kind, list(items)))
        if self.fails:
            raise RuntimeError("broken")
        return [f"{item}!" for item in items]


def run(work, max_batch=4, max_delay=0.0):
    async def inside():
        gate, told = Gate(), []
        batcher = Batcher(gate, max_batch=max_batch, max_delay=max_delay, on_batch=lambda n, s: told.append(n))
        try:
            return await work(batcher, gate, told)
        finally:
            batcher.thread.shutdown()

    return asyncio.run(inside())


async def put(batcher, *items):
    """Tasks for items (name, kind, caller), in this order, all waiting."""
    tasks = [asyncio.create_task(batcher.submit(*item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def until_done(batcher, tasks):
    running = asyncio.create_task(batcher.run())
    done = await asyncio.gather(*tasks, return_exceptions=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return done


def test_items_of_one_kind_share_a_batch_in_order_up_to_its_size():
    async def work(batcher, gate, told):
        done = await until_done(batcher, await put(batcher, *((i, "a") for i in range(6))))
        return gate.batches, told, [result for result, _ in done]

    batches, told, results = run(work)
    assert batches == [("a", [0, 1, 2, 3]), ("a", [4, 5])] and told == [4, 2]
    assert results == [f"{i}!" for i in range(6)]


def test_callers_take_turns_within_a_batch_and_between_batches():
    async def work(batcher, gate, told):
        for n in (1, 4):
            batcher.pace.add(n, 1 + 0.1 * n)
        flood = [(f"f{i}", "a", "flood") for i in range(7)]
        await until_done(batcher, await put(batcher, *flood, ("g0", "a", "guest"), ("g1", "a", "guest")))
        return gate.batches

    batches = run(work)
    assert batches[0] == ("a", ["f0", "g0", "f1", "g1"])
    assert [item for _, batch in batches for item in batch][4:] == ["f2", "f3", "f4", "f5", "f6"]


@pytest.mark.parametrize("one, each, most", [(0.01, 0.01, 1), (0.1, 0.0021, 24), (0.03, 0.01, 2)])
def test_as_many_share_a_pass_with_others_as_take_half_as_long_again_as_one(one, each, most):
    pace = Pace()
    for n in (4, 1, 7, 2, 3):
        pace.add(n, one - each + each * n)
    assert pace.short() == most


def test_without_guests_batches_are_full_and_with_them_short():
    async def work(batcher, gate, told):
        for n in (1, 2, 4, 8, 3):
            batcher.pace.add(n, 0.01 * n)
        alone = batcher.most(["a"])
        batcher.guests["b"] = time.monotonic()
        shared, unserved = batcher.most(["a"]), batcher.most(["a", "c"])
        batcher.guests["b"] -= 60
        return alone, shared, unserved, batcher.most(["a"])

    assert run(work, max_batch=32) == (32, 1, 1, 32)


def test_a_kind_that_only_a_guest_wants_does_not_wait_for_all_of_a_flood():
    async def work(batcher, gate, told):
        flood = [(f"f{i}", "a", "flood") for i in range(12)]
        await until_done(batcher, await put(batcher, *flood, ("g", "b", "guest")))
        return [kind for kind, _ in gate.batches]

    assert run(work)[:2] == ["a", "b"]


def test_of_one_caller_the_kind_that_waited_longest_is_next():
    async def work(batcher, gate, told):
        await until_done(batcher, await put(batcher, *((i, "xyz"[i % 3]) for i in range(9))))
        return gate.batches

    assert run(work) == [("x", [0, 3, 6]), ("y", [1, 4, 7]), ("z", [2, 5, 8])]


def test_what_nobody_waits_for_any_more_is_not_computed():
    async def work(batcher, gate, told):
        tasks = await put(batcher, (0, "a"), (1, "a"), (2, "b"))
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.sleep(0)
        done = await until_done(batcher, tasks)
        return gate.batches, done[1][0]

    assert run(work) == ([("a", [1])], "1!")


def test_a_failure_is_its_batchs_alone():
    async def work(batcher, gate, told):
        gate.fails = True
        failed = await until_done(batcher, await put(batcher, (0, "a"), (1, "a")))
        return failed, told

    failed, told = run(work)
    assert [str(e) for e in failed] == ["broken", "broken"] and told == []


@pytest.mark.parametrize("num, waits", [(4, False), (3, True)])
def test_a_full_batch_waits_for_nobody_and_another_for_its_delay(num, waits):
    async def work(batcher, gate, told):
        await put(batcher, *((i, "a") for i in range(num)))
        following = asyncio.create_task(batcher.next_kind())
        done, _ = await asyncio.wait({following}, timeout=0.02)
        following.cancel()
        return not done

    assert run(work, max_delay=30.0) == waits


def test_the_kind_is_next_that_somebody_wants_who_was_served_longest_ago():
    async def work(batcher, gate, told):
        batcher.turns, batcher.number = {"x": 5, "z": 3}, 6
        await until_done(batcher, await put(batcher, ("z0", "b", "z"), ("x0", "a", "x"), ("y0", "a", "y")))
        return gate.batches

    assert run(work, max_batch=1)[0] == ("a", ["y0"])


def test_no_more_callers_are_remembered_than_a_bound():
    async def work(batcher, gate, told):
        batcher.turns = {str(i): i for i in range(MOST_TURNS + 1)}
        batcher.guests = dict.fromkeys(batcher.turns, 0.0)
        await until_done(batcher, await put(batcher, (0, "a", "new")))
        return list(batcher.turns), list(batcher.guests)

    assert run(work) == (["new"], ["new"])


def test_ending_does_not_wait_for_a_batch_in_work():
    begun, let = threading.Event(), threading.Event()

    async def inside():
        def compute(items, kind):
            begun.set()
            let.wait()
            return items

        batcher = Batcher(compute, max_batch=1, max_delay=0, on_batch=lambda n, s: None)
        (task,) = await put(batcher, (0, "a"))
        running = asyncio.create_task(batcher.run())
        await asyncio.to_thread(begun.wait)
        rescue = threading.Timer(20, let.set)  # so that a batcher that waits fails rather than hangs
        rescue.start()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        ended_first = not let.is_set()
        rescue.cancel()
        let.set()
        task.cancel()
        return ended_first

    assert asyncio.run(inside())


def test_a_kind_has_waited_as_long_as_the_first_of_its_callers(monkeypatch):
    async def work(batcher, gate, told):
        tasks = []
        for at, item in ((100.0, ("x", "a", "x")), (105.0, ("z", "b", "z")), (110.0, ("y", "a", "y"))):
            monkeypatch.setattr("sidetune.serve.batcher.time.monotonic", lambda at=at: at)
            tasks += await put(batcher, item)
        await until_done(batcher, tasks)
        return [kind for kind, _ in gate.batches]

    assert run(work) == ["a", "b"]


def test_who_was_never_served_is_before_who_was():
    async def work(batcher, gate, told):
        batcher.turns = {"old": 0}
        await until_done(batcher, await put(batcher, ("old", "a", "old"), ("new", "a", "new")))
        return gate.batches

    assert run(work, max_batch=1) == [("a", ["new"]), ("a", ["old"])]


def test_a_batch_with_too_few_results_fails_for_all():
    async def inside():
        batcher = Batcher(lambda items, kind: items[:1], max_batch=4, max_delay=0, on_batch=lambda n, s: None)
        tasks = await put(batcher, (0, "a"), (1, "a"))
        running = asyncio.create_task(batcher.run())
        done, waiting = await asyncio.wait(tasks, timeout=10)
        running.cancel()
        for task in waiting:
            task.cancel()
        await asyncio.gather(running, *waiting, return_exceptions=True)
        return [type(task.exception()) for task in done], len(waiting)

    assert asyncio.run(inside()) == ([ValueError, ValueError], 0)
