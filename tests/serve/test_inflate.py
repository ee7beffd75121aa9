"""Compressed bodies: read as they are meant, refused by size before they are held."""

import gzip
import json
import random
import zlib

import numpy as np
import pytest

from sidetune.serve import intake
from sidetune.serve.inflate import PIECE, inflate
from sidetune.wire.ask import Ask
from sidetune.wire.infer import build_request, parse_response
from sidetune.wire.message import HEADER_LENGTH, WireError

SUM = Ask(k=4)
MIB = 2**20


def bare(data):
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


NOISE = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
PACKERS = [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", bare)]


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
@pytest.mark.parametrize("data", [b"", b"x", NOISE, bytes(3 * PIECE), bytes(PIECE), NOISE + bytes(2 * PIECE + 1)])
def test_what_was_packed_comes_out_in_pieces_of_bounded_size(coding, pack, data):
    pieces = list(inflate(bytearray(pack(data)), coding))
    assert b"".join(pieces) == data and all(0 < len(p) <= PIECE for p in pieces)


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_a_damaged_stream_is_refused_and_says_how(coding, pack):
    packed = pack(NOISE)
    for length in (1, 5, len(packed) // 2, len(packed) - 1):
        with pytest.raises(WireError, match=f"the body's {coding} is cut off"):
            list(inflate(packed[:length], coding))
    for behind in (b"x", bytes(70_000), packed):
        with pytest.raises(WireError, match=f"something follows the end of the body's {coding}"):
            list(inflate(packed + behind, coding))
    with pytest.raises(WireError, match=f"not the {coding} that its Content-Encoding says"):
        list(inflate(b"\xff" * 100, coding))
    with pytest.raises(WireError, match="cut off"):
        list(inflate(b"", coding))


def test_a_checksum_that_does_not_fit_is_noticed():
    for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        packed = bytearray(pack(NOISE))
        packed[-6 if coding == "gzip" else -2] ^= 1
        with pytest.raises(WireError, match="incorrect data check"):
            list(inflate(packed, coding))


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_a_packed_request_is_answered_as_the_plain_one(talk, picture, coding, pack):
    body, length = build_request([picture(1)], [SUM])

    async def work(client):
        plain = await client.post(body, length)
        return plain, await client.post(pack(body), length, headers={"Content-Encoding": coding})

    plain, packed = talk(work)
    assert packed.status_code == 200
    features = [
        parse_response(a.content, int(a.headers[HEADER_LENGTH]), [SUM]).answers["sum.4"].features(0)
        for a in (plain, packed)
    ]
    assert np.array_equal(*features)


@pytest.mark.parametrize("coding", ["", "identity", " GZIP "])
def test_names_of_codings_are_read_as_http_has_them(talk, picture, coding):
    body, length = build_request([picture(1)], [SUM])
    sent = gzip.compress(body) if "GZIP" in coding else body
    answer = talk(lambda c: c.post(sent, length, headers={"Content-Encoding": coding}))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, deflate", "gzip, identity", "compress"])
def test_codings_that_are_not_known_are_refused_with_those_that_are(talk, coding):
    answer = talk(lambda c: c.post(b"{}", headers={"Content-Encoding": coding}))
    assert answer.status_code == 415 and answer.headers["accept-encoding"] == "gzip, deflate"
    assert repr(coding) in answer.json()["error"] and "send gzip, deflate" in answer.json()["error"]


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_a_bomb_is_refused_before_more_of_it_is_unpacked_than_is_allowed(talk, picture, monkeypatch, coding, pack):
    bomb, taken, held = pack(bytes(64 * MIB)), [], []
    assert len(bomb) < MIB

    def watched(data, coding):
        for piece in inflate(data, coding):
            taken.append(len(piece))
            yield piece

    monkeypatch.setattr(intake, "inflate", watched)
    monkeypatch.setattr(intake, "collect", lambda *_: held.append("something"))

    async def work(client):
        refused = await client.post(bomb, headers={"Content-Encoding": coding})
        await client.infer([picture(1)], [SUM])
        return refused

    refused = talk(work, max_body=4 * MIB, max_receiving=MIB)
    assert refused.status_code == 413 and "more than the 4194304 bytes allowed" in refused.json()["error"]
    assert 4 * MIB < sum(taken) <= 4 * MIB + PIECE and not held


def test_what_is_unpacked_counts_towards_what_the_service_holds_and_is_let_go_again(talk, picture):
    async def work(client):
        many = [
            await client.post(gzip.compress(bytes(3 * MIB)), headers={"Content-Encoding": "gzip"}) for _ in range(4)
        ]
        await client.infer([picture(1)], [SUM])
        return many

    answers = talk(work, max_body=4 * MIB, max_receiving=2 * MIB)
    assert [a.status_code for a in answers] == [503] * 4 and answers[0].headers["retry-after"]


def test_packed_json_is_bounded_as_plain_json_is(talk):
    large = json.dumps({"inputs": [], "id": "x" * 5 * MIB}).encode()
    for body, headers in ((large, {}), (gzip.compress(large), {"Content-Encoding": "gzip"})):
        answer = talk(lambda c, body=body, headers=headers: c.post(body, headers=headers))
        assert answer.status_code == 413 and "more than the 4194304 bytes allowed" in answer.json()["error"]


def test_a_body_that_is_not_in_the_coding_it_claims_is_a_fault_of_the_caller(talk, picture):
    body, length = build_request([picture(1)], [SUM])
    answer = talk(lambda c: c.post(body, length, headers={"Content-Encoding": "gzip"}))
    assert answer.status_code == 400 and "not the gzip that its Content-Encoding says" in answer.json()["error"]


def test_random_damage_to_a_packed_request_never_hurts_the_service(talk, picture):
    body, length = build_request([picture(1, size=(16, 16))], [SUM])
    rng = random.Random(0)

    def damaged(packed):
        data = bytearray(packed)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: rng.choice((len(data), rng.randrange(len(data))))]) + bytes(rng.choice((0, 0, 3)))

    async def work(client):
        answers = []
        for number in range(200):
            coding, pack = PACKERS[number % len(PACKERS)]
            answers.append(await client.post(damaged(pack(body)), length, headers={"Content-Encoding": coding}))
        return answers, await client.infer([picture(1)], [SUM])

    answers, _ = talk(work)
    statuses = [a.status_code for a in answers]
    assert set(statuses) <= {200, 400} and statuses.count(400) > 100
    assert all(list(a.json()) == ["error"] for a in answers if a.status_code == 400)
