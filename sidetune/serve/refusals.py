"""Every refusal in the protocol's form, and heard by the caller even if its body was not read."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidetune.serve.waste import Waste
from sidetune.wire.infer import build_error

DRAIN_SECONDS, DRAIN_BYTES = 2.0, 64 * 2**20
PASS_SECONDS, PASS_PAUSE, PASSING = 5.0, 0.003, 4
"""How long the rest of a refused body may take, what is waited behind each piece of it, and of how many at once: others
come first."""
PACKED = 100
"""What a compressed body counts in place of one."""


def error(message: str, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(build_error(message), status, headers)


async def on_refusal(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    return error(exc.detail, exc.status_code, dict(exc.headers or {}))


async def on_failure(request: Request, exc: Exception) -> JSONResponse:
    """What went wrong is in the service's log; the caller learns that it was not its fault."""
    return error("the service failed on this request", 500)


class Lingering:
    """Answers with an error before all of the body came: says so at once, then lets the rest pass by for a moment.

    Closing a connection with unread bytes resets it, and the caller would see that in place of the answer.
    """

    def __init__(self, app: ASGIApp, waste: Waste) -> None:
        self.app, self.waste, self.passing = app, waste, asyncio.Semaphore(PASSING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        linger, size, status = False, 0, 0

        async def received() -> Message:
            nonlocal unread, size
            message = await receive()
            size += len(message.get("body", b""))
            unread = unread and message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            nonlocal linger, status
            status = message.get("status", status)
            if message["type"] == "http.response.start" and unread and message["status"] >= 400:
                linger = b"expect" not in headers
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not (last and linger):
                return await send(message)
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(PASS_SECONDS), self.passing:
                    await pass_by(received)
            await send({"type": "http.response.body"})

        await self.app(scope, received, sent)
        if (who := scope.get("state", {}).get("who")) is None:
            return
        if status == 200:
            self.waste.crowd.served(who)
        elif 400 <= status < 500 and status != 429:
            self.waste.add(who, size * (PACKED if b"content-encoding" in headers else 1))


async def pass_by(receive: Receive) -> None:
    """Let a body come in and forget it, up to a size."""
    size = 0
    while size < DRAIN_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            return
        await asyncio.sleep(PASS_PAUSE)
