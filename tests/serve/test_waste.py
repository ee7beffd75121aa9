"""Who sends much that must be refused is held back, but only while others ask; the clock is the test's."""

import asyncio

import pytest
from starlette.exceptions import HTTPException

from sidetune.serve.crowd import LATELY, Crowd
from sidetune.serve.hands import Hands
from sidetune.serve.waste import LEAST, PATIENCE, RATE, SAVED, WORST, Waste

BURST = int(RATE * SAVED)


class Time:
    def __init__(self):
        self.now, self.slept = 100.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def waste(time):
    made = Waste(Crowd(clock=time), clock=time, sleep=time.sleep)
    made.crowd.served("guest")
    return made


def slept(waste, who="flood"):
    before = len(waste.sleep.__self__.slept)
    asyncio.run(waste.passed(who))
    return waste.sleep.__self__.slept[before:]


def test_it_is_as_the_docs_say():
    assert (RATE, RATE // LEAST, BURST, PATIENCE, WORST) == (16 * 2**20, 64, 16 * 2**20, 2, 4)


def test_what_is_within_the_allowance_is_not_held_back(waste):
    waste.add("flood", BURST)
    assert slept(waste) == []


def test_debt_is_slept_off_and_paid_back_with_time(waste, time):
    waste.add("flood", BURST + RATE)
    assert slept(waste) == [pytest.approx(1)]
    time.now += 0.75
    assert slept(waste) == [pytest.approx(0.25)]
    time.now += 0.25
    assert slept(waste) == []


def test_only_the_one_in_debt_is_held_back(waste):
    waste.add("flood", BURST + RATE)
    assert slept(waste, "guest") == [] and slept(waste, "other") == []


@pytest.mark.parametrize("since, waits", [(LATELY - 0.01, True), (LATELY + 0.01, False)])
def test_nobody_is_held_back_where_no_other_was_answered_lately(waste, time, since, waits):
    time.now += since
    waste.add("flood", BURST + RATE)
    waste.crowd.served("flood")
    assert bool(slept(waste)) == waits


def test_short_requests_count_for_something_and_long_ones_by_their_size(waste):
    for _ in range(BURST // LEAST + 16):
        waste.add("flood", 10)
    assert slept(waste) == [pytest.approx(16 * LEAST / RATE)] == [pytest.approx(0.25)]
    waste.add("flood", 3 * LEAST)
    assert slept(waste) == [pytest.approx(19 * LEAST / RATE)]


def test_those_held_back_go_on_one_after_the_other(waste, time):
    async def three():
        async def forever(seconds):
            time.slept.append(seconds)
            await asyncio.Event().wait()

        waste.sleep = forever
        tasks = [asyncio.create_task(waste.passed("flood")) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        waste.sleep = time.sleep

    waste.add("flood", BURST + RATE)
    asyncio.run(three())
    assert time.slept == [pytest.approx(1 + i * LEAST / RATE) for i in range(3)]
    assert slept(waste) == [pytest.approx(1)], "what they stood for is given back"


def test_a_long_debt_is_refused_and_says_when_to_come_again(waste):
    waste.add("flood", BURST + int((PATIENCE + 1.5) * RATE))
    with pytest.raises(HTTPException, match="too much was sent that had to be refused") as refusal:
        asyncio.run(waste.passed("flood"))
    assert refusal.value.status_code == 429 and refusal.value.headers == {"Retry-After": "4"}
    assert waste.sleep.__self__.slept == [PATIENCE], "and not before it was waited for"


def test_no_more_than_some_requests_of_a_caller_are_held_back(waste, monkeypatch):
    monkeypatch.setattr("sidetune.serve.waste.MOST_HELD", 2)
    waste.add("flood", BURST + RATE)

    async def work():
        waste.sleep = lambda seconds: asyncio.Event().wait()
        held = [asyncio.create_task(waste.passed("flood")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match="too much was sent"):
            await waste.passed("flood")
        held.pop().cancel()
        await asyncio.sleep(0)
        held.append(asyncio.create_task(waste.passed("flood")))
        await asyncio.sleep(0)
        waiting = [not task.done() for task in held]
        for task in held:
            task.cancel()
        return waiting

    assert asyncio.run(work()) == [True, True]


def test_a_debt_never_grows_beyond_a_few_seconds(waste, time):
    for _ in range(10):
        waste.add("flood", 10 * RATE)
    assert waste.buckets["flood"].debt() == pytest.approx(WORST)
    time.now += WORST
    assert slept(waste) == []


def test_callers_that_are_kept_in_mind_are_bounded(waste, monkeypatch):
    monkeypatch.setattr("sidetune.serve.waste.MOST_CALLERS", 3)
    for i in range(5):
        waste.add(f"a{i}", 1)
    assert len(waste.buckets) <= 3


def test_hands_take_turns_by_caller():
    import threading

    order, go = [], threading.Event()

    async def work():
        hands = Hands(1)
        first = asyncio.create_task(hands.do(go.wait, "flood"))
        await asyncio.sleep(0)
        asked = [("flood", 1), ("flood", 2), ("guest", 3), ("flood", 4)]
        rest = [asyncio.create_task(hands.do(lambda i=i: order.append(i), who)) for who, i in asked]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, *rest)
        hands.close()

    asyncio.run(work())
    assert order == [1, 3, 2, 4] or order == [3, 1, 2, 4]


def test_what_fails_in_a_thread_leaves_its_place_to_the_next():
    async def work():
        hands = Hands(1)
        for _ in range(2):
            with pytest.raises(KeyError, match="no"):
                await hands.do(lambda: {}["no"], "a")
        assert await hands.do(lambda: 7, "a") == 7
        hands.close()

    asyncio.run(work())
