"""Requests that went wrong somewhere: a good one, changed at random."""

import json
import random

from sidetune.wire.message import HEADER_LENGTH

VALUES = (
    None,
    True,
    -1,
    0,
    1,
    3.5,
    2**31,
    2**64,
    10**40,
    "",
    "x",
    "sum.12",
    "BYTES",
    "FP32",
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
)


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, cut off, put in or doubled."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0 if at < len(data):
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randrange(1, 200)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 50))
            case _:
                data[at:at] = data[at : at + rng.randrange(1, 200)]
    return bytes(data)


def changed_json(value: object, rng: random.Random) -> object:
    """One place of a JSON value replaced, taken away or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.15:
            return [*value, value[at]]
        return [*value[:at], changed_json(value[at], rng), *value[at + 1 :]]
    return rng.choice(VALUES)


def changed_request(body: bytes, length: int, rng: random.Random) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request that is probably not one any more."""
    headers = {HEADER_LENGTH: str(length), "Content-Type": "application/octet-stream"}
    match rng.randrange(6):
        case 0:
            body = changed_bytes(body, rng)
        case 1:
            headers[HEADER_LENGTH] = rng.choice(
                ("", "-1", "0", "1e3", "x", "9" * 30, str(length + rng.randrange(-20, 20)))
            )
        case 2:
            headers.pop(HEADER_LENGTH)
        case 3:
            headers["Content-Type"] = rng.choice(
                ("text/html", "multipart/form-data", "application/json", "/", "image/png")
            )
            body = changed_bytes(body, rng)
        case 4:  # the image itself
            body = body[:length] + changed_bytes(body[length:], rng)
        case _:
            text = json.dumps(changed_json(json.loads(body[:length]), rng)).encode()
            body, headers[HEADER_LENGTH] = text + body[length:], str(len(text))
    return body, headers
