"""HTTP itself: what a caller can do to a connection before, or without ever, sending a request."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sidetune.serve.refusals import DRAIN_SECONDS
from sidetune.serve.settings import Settings
from sidetune.wire.infer import build_error

SLOWEST = 1024
"""Bytes a second that a caller must take of its answer."""


class Connection(H11Protocol):
    """uvicorn's, which leaves it open how long headers may take and answers may wait; a subclass is how it is told.

    Headers that drip in end in 408, callers that do not take their answer are cut off, malformed HTTP is refused in
    the protocol's form, and a caller that has sent all and closed its half still gets its answer.
    """

    def __init__(self, *, settings: Settings, **given: Any) -> None:
        super().__init__(**given)
        self.settings = settings
        self.headers_due: asyncio.TimerHandle | None = None
        self.answer_due: asyncio.TimerHandle | None = None
        self.gone_due: asyncio.TimerHandle | None = None
        """Set once the caller was refused: what it still sends is thrown away until then."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self.refuse(503, "too many connections")
        else:
            self.expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.cancel("headers_due")
        self.cancel("answer_due")
        self.cancel("gone_due")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.gone_due is not None:
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self.cancel("headers_due")
        elif self.headers_due is None:
            self.expect_headers()

    def expect_headers(self) -> None:
        self.headers_due = self.loop.call_later(self.settings.header_timeout, self.headers_late)

    def headers_late(self) -> None:
        self.headers_due = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.refuse(408, f"the headers did not come within {self.settings.header_timeout:g} s")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is not h11.IDLE:
            self.cancel("headers_due")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The caller has closed its half."""
        if self.gone_due is not None or self.transport.is_closing() or self.scheme == "https":  # TLS has no halves
            return None
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and not self.cycle.more_body:
            self.cycle.keep_alive = False
            return True
        if answering or self.conn.trailing_data[0]:
            super().data_received(b"")  # tells the parser, which refuses what is cut off
        return None

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, msg)

    def refuse(self, status: int, message: str) -> None:
        """Answer in place of the app and close; not with bytes unread, since a reset would hide the answer."""
        self.cancel("headers_due")
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(build_error(message)).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
                *([("retry-after", "1")] if status == 503 else []),
            ]
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.gone_due = self.loop.call_later(DRAIN_SECONDS, self.transport.abort)
            self.flow.resume_reading()
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.expect_reading()

    def resume_writing(self) -> None:
        self.cancel("answer_due")
        super().resume_writing()

    def expect_reading(self) -> None:
        left, seconds = self.transport.get_write_buffer_size(), self.settings.send_timeout
        self.answer_due = self.loop.call_later(seconds, self.answer_stuck, left - SLOWEST * seconds)

    def answer_stuck(self, at_most: float) -> None:
        """Go on waiting only if enough was taken since."""
        if self.transport.get_write_buffer_size() > at_most:
            self.transport.abort()
        else:
            self.expect_reading()

    def cancel(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


def connections(settings: Settings) -> Any:
    """What uvicorn takes for a protocol's class."""
    return partial(Connection, settings=settings)
