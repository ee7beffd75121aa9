"""Decoding as work that is metered: what a file's head says, processes with a deadline, turns, shares."""

import asyncio
import io
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from sidetune.data.geometry import Geometry
from sidetune.serve.coders import Coders
from sidetune.serve.decoding import decoded, is_cheap
from sidetune.serve.lane import Allowance, Lane
from sidetune.serve.look import START_OF_SCAN, look, size_of
from sidetune.serve.settings import Settings
from sidetune.wire.ask import Ask
from sidetune.wire.infer import build_request
from sidetune.wire.message import WireError

SUM = Ask(k=4)
SEEN = Geometry(size=(24, 32), resize=40)


def saved(size, kind, mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size, 7).save(file, kind, **options)
    return file.getvalue()


def noise(size, kind="JPEG", **options):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "kind, options",
    [("JPEG", {}), ("JPEG", {"progressive": True, "comment": b"x" * 9000}), ("PNG", {}), ("WEBP", {})]
    + [("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\0\0"}), ("WEBP", {"mode": "RGBA"})],
)
def test_the_head_says_the_size_that_the_decoder_finds(kind, options):
    for size in ((31, 17), (640, 33)):
        assert (size_of(data := saved(size, kind, **options)).width, size_of(data).height) == size


def test_scans_are_counted_and_a_thousand_refused():
    plain, layered = noise((64, 64)), noise((64, 64), progressive=True)
    assert size_of(plain).scans == 1 and 3 < size_of(layered).scans < 20
    at = layered.rindex(START_OF_SCAN)
    end = layered.rindex(b"\xff\xd9")
    bomb = layered[:end] + layered[at:end] * 1000 + b"\xff\xd9"
    with pytest.raises(WireError, match="a JPEG of 10.. scans, at most 64 are decoded"):
        look(bomb, Settings())


@pytest.mark.parametrize(
    "data, message",
    [
        (b"\xff\xd8\xff\xfe\x00\x02abc", "does not begin where"),
        (b"\xff\xd8" + b"\xff\xfe\x00\x02" * 5000, "no frame begins within 1000 segments"),
        (b"\xff\xd8\xff", "its head is cut off"),
        (b"\x89PNG\r\n\x1a\n", "its head is cut off"),
        (b"RIFF\x00\x00\x00\x00WEBPXXXX", "none of JPEG, PNG, WEBP"),
    ],
)
def test_heads_that_say_nothing_are_refused_without_a_decoder(data, message):
    with pytest.raises(WireError, match=message):
        look(data, Settings())


def test_the_service_reads_as_local_code_does(tmp_path):
    from sidetune.data.images import open_image

    deep = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "deep.png": Image.fromarray(deep),
        "turned.jpg": Image.fromarray(np.arange(40 * 48 * 3, dtype=np.uint8).reshape(40, 48, 3)),
        "clear.png": Image.new("LA", (40, 40), (90, 100)),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name, **({"exif": exif} if name == "turned.jpg" else {}))
        data = (tmp_path / name).read_bytes()
        assert np.array_equal(decoded(data, 10**6), open_image(tmp_path / name)), name


def with_coders(work, number=1, timeout=20.0, max_pixels=32_000_000):
    async def run():
        coders = Coders(number, timeout=timeout, max_pixels=max_pixels)
        try:
            return await work(coders)
        finally:
            coders.close()

    return asyncio.run(run())


def test_a_process_decodes_what_a_thread_would_and_goes_on_after_damage():
    whole, cut = noise((300, 200)), noise((300, 200))[:9000]

    async def work(coders):
        first = await coders.decode(whole, SEEN)
        with pytest.raises(WireError, match="it is damaged or cannot be read"):
            await coders.decode(cut, SEEN)
        process = coders.all[0].process
        again = await coders.decode(memoryview(whole), SEEN)
        return first, again, process is coders.all[0].process

    first, again, same = with_coders(work)
    expected = SEEN(decoded(whole, 10**6))
    assert np.array_equal(first, expected) and np.array_equal(again, expected) and same


def stopped(coder):
    """A process that is there and does nothing."""
    process = coder.started()
    os.kill(process.pid, signal.SIGSTOP)
    return process


def test_a_deadline_ends_the_process_and_the_next_image_has_a_new_one():
    async def work(coders):
        process = stopped(coders.all[0])
        with pytest.raises(WireError, match="takes longer than 0.2 s to decode"):
            await coders.decode(noise((64, 64)), SEEN)
        coders.timeout = 30
        picture = await coders.decode(noise((64, 64)), SEEN)
        return process.poll(), picture.size

    assert with_coders(work, timeout=0.2) == (-signal.SIGKILL, (32, 24))


def test_who_leaves_ends_the_work():
    async def work(coders):
        process = stopped(coders.all[0])
        waiting = asyncio.create_task(coders.decode(noise((64, 64)), SEEN))
        while not coders.idle.empty():
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return process.wait(10)

    assert with_coders(work) == -signal.SIGKILL


def test_closing_waits_for_nothing():
    async def work(coders):
        process = stopped(coders.all[0])
        waiting = asyncio.create_task(coders.decode(noise((64, 64)), SEEN))
        await asyncio.sleep(0)
        start = time.monotonic()
        coders.close()
        assert time.monotonic() - start < 5 and process.poll() == -signal.SIGKILL
        with pytest.raises(WireError, match="could not be decoded"):
            await waiting

    with_coders(work)


def test_large_images_go_through_processes_and_many_of_them_are_refused(talk, monkeypatch):
    large = noise((2000, 1500), quality=30)
    seen = []

    async def decode(self, data, geometry):
        seen.append(len(data))
        return geometry(decoded(data, 10**8))

    monkeypatch.setattr(Coders, "decode", decode)

    async def work(client):
        got = await client.infer([large, noise((50, 50))], [SUM])
        refused = await client.post(*build_request([large] * 3, [SUM]))
        return got, refused

    got, refused = talk(work, max_request_pixels=8_000_000)
    assert seen == [len(large)] and got["sum.4"].shape[0] == 2
    assert refused.status_code == 413 and "images have 9000000 pixels, at most 8000000 are decoded" in refused.text


def test_cheap_is_small_in_bytes_and_in_pixels_times_scans():
    small = noise((100, 100))
    assert is_cheap(small, size_of(small))
    assert not is_cheap(small + bytes(2**18), size_of(small))
    wide = saved((2000, 1100), "PNG")
    assert not is_cheap(wide, size_of(wide))
    layered = noise((600, 600), progressive=True, quality=10)
    assert size_of(layered).pixels < 2_000_000 and not is_cheap(layered, size_of(layered))


def turns(work):
    return asyncio.run(work())


def test_callers_take_turns_however_many_wait():
    async def work():
        lane, order = Lane(1, 100), []

        async def one(caller):
            async with lane.turn(caller, 1):
                order.append(caller)
                await asyncio.sleep(0)

        async with lane.turn("first", 1):
            tasks = [asyncio.create_task(one("flood")) for _ in range(5)]
            await asyncio.sleep(0)
            tasks += [asyncio.create_task(one("guest")) for _ in range(2)]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return order, lane.slots, lane.left

    assert turns(work) == (["flood", "guest", "flood", "guest", "flood", "flood", "flood"], 1, 100)


def test_what_does_not_fit_lets_others_pass_and_large_work_leaves_a_slot():
    async def work():
        lane, order = Lane(3, 100), []
        release = asyncio.Event()

        async def one(caller, cost, large=False):
            async with lane.turn(caller, cost, large=large):
                order.append((caller, cost))
                await release.wait()

        tasks = [asyncio.create_task(one(*given)) for given in (("a", 80), ("b", 30), ("c", 10, True))]
        await asyncio.sleep(0.01)
        first = list(order)
        tasks.append(asyncio.create_task(one("d", 1, True)))
        tasks.append(asyncio.create_task(one("e", 1, True)))
        await asyncio.sleep(0.01)
        second = order[len(first) :]
        release.set()
        await asyncio.gather(*tasks)
        return first, second, sorted(order[3:]), (lane.slots, lane.left, lane.large_slots)

    first, second, rest, left = turns(work)
    assert first == [("a", 80), ("c", 10)] and second == [("d", 1)]
    assert rest == [("b", 30), ("e", 1)] and left == (3, 100, 2)


def test_a_turn_that_nobody_waits_for_is_passed_over_and_nothing_is_lost():
    async def work():
        lane = Lane(1, 10)

        async def one(caller):
            async with lane.turn(caller, 10):
                return caller

        async with lane.turn("x", 10):
            gone, stays = asyncio.create_task(one("gone")), asyncio.create_task(one("stays"))
            await asyncio.sleep(0)
            gone.cancel()
        return await stays, lane.slots, lane.left, dict(lane.waiting)

    assert turns(work) == ("stays", 1, 10, {})


def test_one_caller_may_hold_the_limit_and_leaves_room_for_the_next():
    shares = Allowance(100)
    assert shares.take("a", 100) and not shares.take("a", 1)
    assert shares.take("b", 30) and not shares.take("b", 10)
    assert shares.total == 130
    shares.give_back("a", 100)
    assert shares.take("b", 70) and shares.held == {"b": 100}
    shares.give_back("b", 100)
    assert not shares.held
