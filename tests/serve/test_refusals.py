"""Everything a caller can get wrong: an error in the protocol's form, and the service goes on."""

import asyncio
import json
import random
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidetune.serve.worker import Worker
from sidetune.wire.ask import Ask
from sidetune.wire.infer import build_request

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

SUM = Ask(k=4)


def bomb(width=50_000, height=50_000):
    """A PNG of a few bytes that says it is huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


async def until(ask, is_right):
    """The first answer that is right."""
    async with asyncio.timeout(20):
        while not is_right(answer := await ask()):
            await asyncio.sleep(0.01)
    return answer


def refused(talk, picture, send, *workers, **settings):
    """What the service said to a request; it must still answer a good one."""

    async def work(client):
        answer = await send(client)
        await client.infer([picture(99)], [SUM])
        return answer

    answer = talk(work, *workers, **settings)
    assert list(answer.json()) == ["error"] and isinstance(answer.json()["error"], str)
    return answer.status_code, answer.json()["error"], answer.headers


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: b"", "none of JPEG, PNG, WEBP"),
        (lambda f: b"GIF89a" + f, "none of JPEG, PNG, WEBP"),
        (lambda f: f[:100], "damaged"),
        (lambda f: f[:-200], "damaged"),
        (lambda f: bomb(), "50000 wide and 50000 high|more than the"),
        (lambda f: bomb(10_000, 4_000), "10000 wide and 4000 high, at most 32000000"),
        (lambda f: bomb(10_000, 1), "10000 wide and 1 high; one side may be at most 20 times the other"),
        (lambda f: bomb(2**31 - 1, 2**31 - 1), ""),
        (lambda f: bomb(0, 5), ""),
    ],
)
def test_images_that_cannot_be_read_are_named(talk, picture, damage, message):
    import re

    files = [picture(1), damage(picture(2)), picture(3)]
    status, error, _ = refused(talk, picture, lambda c: c.post(*build_request(files, [SUM])))
    assert status == 400 and error.startswith("image 1: it ") and re.search(message, error)


def test_images_above_the_limits_are_refused_before_they_are_decoded(talk, picture):
    def send(images):
        return lambda client: client.post(*build_request(images, [SUM]))

    limits = {"max_image_bytes": 10_000, "max_pixels": 40 * 48, "max_images": 3}
    status, error, _ = refused(talk, picture, send([picture(1, size=(80, 80))]), **limits)
    assert status == 400 and "bytes, at most 10000 are allowed" in error
    status, error, _ = refused(talk, picture, send(np.zeros((1, 41, 48, 3), np.uint8)), **limits)
    assert status == 400 and "48 wide and 41 high, at most 1920" in error
    status, error, _ = refused(talk, picture, send([picture(1)] * 4), **limits)
    assert status == 413 and "4 images in one request; at most 3" in error


def test_answers_that_would_be_too_large_are_refused_before_anything_is_computed(talk, picture):
    send = build_request([picture(i) for i in range(3)], [Ask(gather="stack")])
    status, error, _ = refused(talk, picture, lambda c: c.post(*send), max_response=5 * 17 * 48 * 4 * 3 - 1)
    assert status == 413 and "at most 48959; ask for less" in error


def test_bodies_above_the_limit_are_refused_by_what_they_say_and_by_what_they_are(talk, picture):
    taken = 0

    async def endless():
        nonlocal taken
        for _ in range(100):
            taken += 10_000
            yield bytes(10_000)

    by_length = refused(talk, picture, lambda c: c.post(bytes(60_000)), max_body=50_000)
    streamed = refused(talk, picture, lambda c: c.post(endless()), max_body=50_000)
    assert by_length[0] == streamed[0] == 413 and "50000 bytes allowed" in streamed[1] and taken > 50_000


def test_a_body_that_does_not_come_is_given_up(talk, picture):
    async def drips():
        for _ in range(50):
            yield b"{"
            await asyncio.sleep(0.05)

    status, error, _ = refused(talk, picture, lambda c: c.post(drips()), body_timeout=0.2)
    assert status == 408 and "did not come within 0.2 s" in error


def test_all_bodies_together_stay_within_a_budget(talk, picture):
    async def work(client):
        held, release = asyncio.Event(), asyncio.Event()

        async def slow():
            yield bytes(40_000)
            held.set()  # more is asked for
            await release.wait()
            yield b"x"

        slow_one = asyncio.create_task(client.post(slow()))
        await held.wait()
        other = await client.post(bytes(40_000))
        release.set()
        await slow_one
        return other, await client.post(*build_request([picture(1)], [SUM]))

    other, later = talk(work, max_receiving=60_000)
    assert other.status_code == 503 and int(other.headers["retry-after"]) >= 1 and later.status_code == 200


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Content-Type": "text/html"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Encoding": "br"}, 415),
        ({"Content-Encoding": "gzip, gzip"}, 415),
        ({"Inference-Header-Content-Length": "-1"}, 400),
        ({"Inference-Header-Content-Length": "1e3"}, 400),
        ({"Inference-Header-Content-Length": "²"}, 400),
        ({"Inference-Header-Content-Length": "9" * 5000}, 400),
        ({"Inference-Header-Content-Length": "0"}, 400),
        ({"Inference-Header-Content-Length": "99999999"}, 400),
    ],
)
def test_headers_that_do_not_fit_are_refused(talk, picture, headers, status):
    body, _ = build_request([picture(1)], [SUM])
    said = {k: v.encode() if not v.isascii() else v for k, v in headers.items()}
    assert refused(talk, picture, lambda c: c.post(body, headers=said))[0] == status


def test_places_that_do_not_exist_are_said_not_to(talk, picture):
    body, length = build_request([picture(1)], [SUM])
    assert refused(talk, picture, lambda c: c.post(body, length, model="other"))[0] == 404
    assert refused(talk, picture, lambda c: c.get("/v2/models/other"))[0] == 404
    assert refused(talk, picture, lambda c: c.get("/"))[0] == 404
    assert refused(talk, picture, lambda c: c.get("/v2/models/tiny/infer"))[0] == 405


def test_outputs_the_backbone_does_not_have_are_refused(talk, picture, worker_of, vit):
    ask = build_request([picture(1)], [Ask(k=5)])
    status, error, _ = refused(talk, picture, lambda c: c.post(*ask))
    assert status == 400 and "4 blocks, so k is at most that; got 5" in error


def test_a_caller_that_trained_on_other_weights_is_refused(talk, picture, worker_of, vit):
    worker = worker_of(vit)
    card = worker.card

    def ask(c):
        return c.post(*build_request([picture(1)], [SUM], fingerprint=replace(card, digest="0").fingerprint))

    status, error, _ = refused(talk, picture, ask, worker)
    assert status == 409 and card.fingerprint in error


class Held(Worker):
    """Computes nothing until it is let go."""

    def compute(self, images, kind):
        assert self.go.wait(10)
        return super().compute(images, kind)


def test_a_full_queue_says_when_to_come_again(talk, picture, worker_of, vit):
    import threading

    worker = worker_of(vit, worker=Held)
    worker.go = threading.Event()

    async def work(client):
        accepted = [asyncio.create_task(client.infer([picture(i), picture(i + 50)], [SUM])) for i in range(4)]
        full = 'sidetune_queue_images{model="tiny"} 8.0'
        await until(lambda: client.get("/metrics"), lambda told: full in told.text)
        too_many = await client.post(*build_request([picture(9)], [SUM]))
        worker.go.set()
        return too_many, await asyncio.gather(*accepted), await client.infer([picture(9)], [SUM])

    too_many, accepted, _ = talk(work, worker, queue=8, max_batch=4)
    assert too_many.status_code == 503 and 1 <= int(too_many.headers["retry-after"]) <= 60
    assert "8 images waiting" in too_many.json()["error"] and len(accepted) == 4


def test_random_damage_never_hurts_the_service(talk, picture):
    from fuzz import changed_request

    body, length = build_request([picture(1, size=(16, 16)), picture(2, size=(16, 16), kind="JPEG")], [SUM], id="1")
    rng = random.Random(0)

    async def work(client):
        statuses = []
        for _ in range(300):
            changed, headers = changed_request(body, length, rng)
            answer = await client.post(changed, headers=headers)
            statuses.append(answer.status_code)
            assert answer.status_code == 200 or list(json.loads(answer.content)) == ["error"]
        return statuses, await client.infer([picture(3)], [SUM])

    statuses, _ = talk(work)
    assert set(statuses) <= {200, 400, 409, 413, 415} and statuses.count(400) > 150


@pytest.mark.parametrize(
    "text, status",
    [
        (b'{"inputs": [' + b"[]," * 300_000 + b"1]}", 413),
        (b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aaaa"]}], "id": "\\ud800"}', 400),
        (b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aaaa"]}], '
         b'"parameters": {"fingerprint": "\\udfff"}}', 400),
        (b'{"inputs": [{"name": "\\ud800", "datatype": "BYTES", "shape": [1]}]}', 400),
        (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [' + b"9" * 4000
         + b', 1, 1, 3], "data": [1]}]}', 400),
        (b'{"inputs": [{"name": "' + b"x" * 3_000_000 + b'", "shape": [1]}]}', 400),
    ],
)  # fmt: skip
def test_json_that_is_made_to_hurt_is_refused(talk, picture, text, status):
    said, error, _ = refused(talk, picture, lambda c: c.post(text))
    assert said == status and len(error) < 1000
