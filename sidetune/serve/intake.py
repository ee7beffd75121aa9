"""A request's body, read within limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import Request

from sidetune.serve.bucket import busy
from sidetune.serve.inflate import CODINGS, collect, count, inflate
from sidetune.serve.lane import Allowance
from sidetune.wire.message import HEADER_LENGTH, MAX_HEADER

TYPES = ("application/json", "application/octet-stream", "")


class Intake:
    """All bodies that are held at once; they share a budget."""

    def __init__(self, max_bytes: int, timeout: float) -> None:
        self.timeout, self.held = timeout, Allowance(max_bytes)

    @asynccontextmanager
    async def body(self, request: Request, limit: int, caller: str = "") -> AsyncIterator[bytearray]:
        """The body, unpacked and held until the block ends, on the caller's account.

        Raises 413 as soon as it is too large, 408 if it is too slow, 415 for a coding that is not known here.
        """
        coding = coding_of(request)
        announced = request.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
            raise too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self.timeout):
                async for chunk in request.stream():
                    self.take(body, chunk, limit, caller)
            if coding is not None:
                body = await self.unpacked(body, coding, limit, caller)
            yield body
        except TimeoutError:
            raise HTTPException(408, f"the body did not come within {self.timeout:g} s") from None
        finally:
            self.held.give_back(caller, len(body))

    async def unpacked(self, packed: bytearray, coding: str, limit: int, caller: str) -> bytearray:
        """What a compressed body holds, in its place; raises as reading one does, and WireError if it is damaged.

        It is unpacked twice, first to be counted: what is too large never takes room, nor anyone's place.
        """
        size = await asyncio.to_thread(count, inflate(packed, coding), limit)
        self.reserve(size, size, limit, caller)
        try:
            body = await asyncio.to_thread(collect, inflate(packed, coding), size)
        except BaseException:
            self.held.give_back(caller, size)
            raise
        self.held.give_back(caller, len(packed))
        return body

    def take(self, body: bytearray, chunk: bytes, limit: int, caller: str) -> None:
        self.reserve(len(chunk), len(body) + len(chunk), limit, caller)
        body += chunk

    def reserve(self, more: int, together: int, limit: int, caller: str) -> None:
        if together > limit:
            raise too_large(limit)
        if not self.held.take(caller, more):
            raise busy("the service holds as many requests as it can", 1)


def too_large(limit: int) -> HTTPException:
    return HTTPException(
        413,
        f"the request has more than the {limit} bytes allowed; send fewer images at once"
        + (", and as bytes rather than in JSON" if limit == MAX_HEADER else ""),
    )


def header_length(request: Request) -> int | None:
    """Where the tensors begin. Raises 415 for bodies that are no message of the protocol, 400 for a wrong number."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in TYPES:
        raise HTTPException(415, f"content type {kind!r} is not known here; send {TYPES[0]} or {TYPES[1]}")
    said = request.headers.getlist(HEADER_LENGTH)
    if not said:
        return None
    if len(said) > 1 or not (said[0].isascii() and said[0].isdigit() and len(said[0]) < 12):
        raise HTTPException(400, f"{HEADER_LENGTH} must be one whole number, got {', '.join(said)[:80]!r}")
    return int(said[0])


def coding_of(request: Request) -> str | None:
    """How the body is compressed, if it is. Raises 415, naming what is known, for anything else."""
    coding = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
    if coding in CODINGS:
        return coding
    if coding in ("", "identity"):
        return None
    known = "gzip, deflate"
    raise HTTPException(
        415,
        f"content encoding {coding[:80]!r} is not known here; send {known}, or the body as it is",
        {"Accept-Encoding": known},
    )
