"""No caller has more than some requests worked on while others ask; alone it has as many as it likes."""

import asyncio

import pytest

from sidetune.serve.crowd import AT_ONCE, LATELY, Crowd


class Clock:
    now = 50.0

    def __call__(self):
        return self.now


def run(work):
    async def whole():
        crowd = Crowd(clock=Clock())
        gates, inside = {}, []

        async def one(who, name):
            async with crowd.place(who):
                inside.append(name)
                gates[name] = asyncio.Event()
                await gates[name].wait()
                inside.remove(name)

        async def ask(who, *names):
            tasks = [asyncio.create_task(one(who, name)) for name in names]
            await settle()
            return tasks

        async def settle():
            for _ in range(6):
                await asyncio.sleep(0)

        async def end(*names):
            for name in names:
                gates[name].set()
            await settle()

        await work(crowd, ask, end, inside)
        for _ in range(30):
            await end(*inside)
        assert not crowd.inside and not crowd.outside, "nothing is left of those who are gone"

    asyncio.run(whole())


FLOOD = range(AT_ONCE + 3)


def test_beside_others_a_caller_has_some_at_once_in_order_and_the_others_have_theirs():
    async def work(crowd, ask, end, inside):
        crowd.served("guest")
        await ask("flood", *FLOOD)
        assert inside == list(range(AT_ONCE))
        await ask("guest", "g")
        assert inside[-1] == "g"
        await end(1)
        assert inside == [0, *range(2, AT_ONCE), "g", AT_ONCE]

    run(work)


@pytest.mark.parametrize("since, free", [(LATELY - 0.1, False), (LATELY + 0.1, True)])
def test_alone_it_has_all(since, free):
    async def work(crowd, ask, end, inside):
        crowd.served("guest")
        crowd.clock.now += since
        crowd.served("flood")
        await ask("flood", *FLOOD)
        assert len(inside) == (len(FLOOD) if free else AT_ONCE)

    run(work)


def test_those_outside_come_in_when_the_others_are_gone():
    async def work(crowd, ask, end, inside):
        crowd.served("guest")
        await ask("flood", *FLOOD)
        crowd.clock.now += LATELY + 1
        await end(0)
        assert inside == list(FLOOD)[1:]

    run(work)


def test_who_leaves_before_or_at_the_door_takes_no_place():
    async def work(crowd, ask, end, inside):
        crowd.served("guest")
        tasks = await ask("flood", *FLOOD)
        tasks[AT_ONCE].cancel()
        await end(0)
        assert inside == [*range(1, AT_ONCE), AT_ONCE + 1]
        leave = crowd.leave
        crowd.leave = lambda who: (leave(who), tasks[AT_ONCE + 2].cancel())  # in the moment it is let in
        await end(1)
        crowd.leave = leave
        assert inside == [*range(2, AT_ONCE), AT_ONCE + 1] and crowd.inside["flood"] == AT_ONCE - 1

    run(work)


def test_it_is_as_the_docs_say():
    assert (AT_ONCE, LATELY) == (4, 5.0)


def test_whom_it_keeps_in_mind_is_bounded(monkeypatch):
    monkeypatch.setattr("sidetune.serve.crowd.MOST_CALLERS", 3)
    crowd = Crowd(clock=Clock())
    for who in ("a", "b", "c", "a", "d", "e"):
        crowd.served(who)
    assert list(crowd.answered) == ["a", "d", "e"]
