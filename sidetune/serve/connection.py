"""HTTP itself: what a caller can do to a connection before, or without ever, sending a request."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sidetune.serve.doors import Doors
from sidetune.serve.refusals import DRAIN_BYTES, DRAIN_SECONDS
from sidetune.serve.settings import Settings
from sidetune.wire.infer import build_error

SLOWEST = 1024
"""Bytes a second that a caller must take of its answer."""
MOST_READ = 2**16
"""Bytes that are taken from a connection at once: whoever is held back holds no more."""
SLICE = 2**12
"""Bytes that are parsed at once: a caller that makes them costly is noticed behind each."""
MAX_HEADERS, MAX_HEAD = 100, 2**15
"""Lines and bytes of a request's headers."""
LEAST_BODY, MAX_CHUNKING = 8, 2**13
"""Times as many bytes as its framing a chunked body must have, beyond so many."""
CRUMB, CRUMBS, CRUMB_PAUSE = 256, 64, 0.01
"""Bytes below which something that came is a crumb, how many of them a request may have, and the pause behind more."""
IDLE = 1.0
"""Seconds behind an answer before a connection is let go of: clients that read both at once lose the last word."""
TOLD = 64
"""Connections beyond the limit that are told so at one time."""
PROBE_SECONDS, PROBE = 0.2, b"HTTP/1.1 100 Continue\r\n\r\n"
"""How long an answer may take until a caller that closed its half is tested for being there, and what tells."""


class Refused(Exception):
    """Raised within the parser's callbacks: what the caller is told."""


class Flow(FlowControl):
    """uvicorn's, which tells when the app asks for more."""

    def __init__(self, transport: asyncio.Transport, resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self.resumed = resumed

    def resume_reading(self) -> None:
        super().resume_reading()
        self.resumed()


class Connection(HttpToolsProtocol):
    """uvicorn's, which leaves open how long headers may take and what they cost; a subclass is how it is told.

    Headers that drip in end in 408, what costs more to parse than it says in 400, callers that do not take their
    answer are cut off, malformed HTTP is refused in the protocol's form, and a caller that has sent all and closed its
    half still gets its answer.
    """

    def __init__(self, *, settings: Settings, doors: Doors, admitted: bool = False, **given: Any) -> None:
        """`admitted`: whether the doors have counted it already."""
        super().__init__(**given)
        self.settings, self.doors, self.admitted = settings, doors, admitted
        self.headers: list[tuple[bytes, bytes]] = []
        self.unparsed = memoryview(b"")
        """What came behind requests that are not answered yet."""
        self.unanswered: list[RequestResponseCycle] = []
        """Requests whose headers are read, in order; the first is being answered."""
        self.in_body = self.begun = False
        """Whether a request's headers are all here, or some of them."""
        self.held_back = False
        """Whether a body waits to be asked for: until then nothing more is read or parsed."""
        self.framing = self.payload = self.crumbs = 0
        """Bytes of the request that are none of its body, those that are, and how often few came at once."""
        self.headers_due: asyncio.TimerHandle | None = None
        self.answer_due: asyncio.TimerHandle | None = None
        self.probe_due: asyncio.TimerHandle | None = None
        self.crumbs_due: asyncio.TimerHandle | None = None
        self.rest_due: asyncio.TimerHandle | None = None
        """Until then the rest of a request may come that is answered already."""
        self.gone_due: asyncio.TimerHandle | None = None
        """Set once the caller was refused: what it still sends is thrown away until then."""
        self.thrown_away = 0
        self.leaving = False
        """Whether the service stops: every answer is the connection's last."""
        self.idle_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self.go_on)
        if hasattr(transport, "max_size"):
            transport.max_size = MOST_READ
        if not self.admitted:
            self.admitted = self.doors.enter(self.client)
        if self.admitted:
            self.expect_headers()
        elif len(self.connections) > self.settings.max_connections + TOLD:
            transport.abort()
        else:
            self.refuse(503, "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        for name in [name for name in vars(self) if name.endswith("_due")]:
            self.cancel(name)
        if self.admitted:
            self.doors.leave(self.client)
        self.unparsed = memoryview(b"")
        for cycle in self.unanswered:
            give_up(cycle)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.gone_due is not None:
            self.thrown_away += len(data)
            if self.thrown_away > DRAIN_BYTES:
                self.transport.abort()
            elif self.crumbs_due is None:  # what nobody reads has time
                self.transport.pause_reading()
                self.crumbs_due = self.loop.call_later(CRUMB_PAUSE, self.read_on)
            return
        self.slow_down(len(data))
        self.unparsed = memoryview(bytes(self.unparsed) + data if self.unparsed else data)
        self.parse()

    def slow_down(self, size: int) -> None:
        """Whoever sends crumbs is read less often, so that they come together."""
        self.crumbs += size < CRUMB
        if self.crumbs > CRUMBS and self.crumbs_due is None:
            self.transport.pause_reading()
            self.crumbs_due = self.loop.call_later(CRUMB_PAUSE, self.read_on)

    def read_on(self) -> None:
        self.crumbs_due = None
        if not self.flow.read_paused:
            self.transport.resume_reading()

    def parse(self) -> None:
        """All that came, up to the second request that has to wait for the first one's answer."""
        while self.unparsed and self.may_parse():
            piece, rest = self.unparsed[:SLICE], self.unparsed[SLICE:]
            self.framing += len(piece)
            try:
                self.parser.feed_data(piece)
                self.unparsed = rest
            except httptools.HttpParserUpgrade as e:  # which is offered in vain
                self.unparsed = self.unparsed[e.args[0] :]
            except httptools.HttpParserError as e:
                told = isinstance(e.__context__, Refused)
                self.refuse(400, str(e.__context__) if told else "this is no HTTP/1.1 request")
            else:
                self.check_cost()
        if self.unparsed or self.held_back:
            self.flow.pause_reading()
        if not self.in_body and not self.unanswered and self.headers_due is None and self.gone_due is None:
            self.expect_headers()

    def may_parse(self) -> bool:
        is_open = self.gone_due is None and not self.transport.is_closing()
        return is_open and len(self.unanswered) < 2 and not self.held_back

    def go_on(self) -> None:
        if self.held_back:
            self.held_back = False
            self.parse()

    def check_cost(self) -> None:
        if self.framing > (MAX_CHUNKING + self.payload // LEAST_BODY if self.in_body else MAX_HEAD):
            what = "chunks are too small for what is in them" if self.in_body else f"headers exceed {MAX_HEAD} bytes"
            self.refuse(400, f"the request's {what}")

    def on_message_begin(self) -> None:
        self.begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_body:  # a trailer, which nobody here reads
            return
        if len(self.headers) == MAX_HEADERS:
            raise Refused(f"the request has more than {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.cancel("headers_due")
        check_framing(self.headers, self.parser.get_http_version())
        if self.parser.should_upgrade() and body_follows(self.headers):
            raise Refused("this service changes no protocols; send the request without Upgrade")
        super().on_headers_complete()
        self.begun, self.in_body, self.held_back, self.framing = False, True, body_follows(self.headers), 0
        self.unanswered.append(self.cycle)
        if self.leaving:
            make_last(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Pass on what came once it is worth it, or all of it."""
        self.framing -= len(body)
        self.payload += len(body)
        if self.cycle.response_complete:
            if self.payload > DRAIN_BYTES:
                self.transport.abort()
            return
        self.cycle.body += body
        if len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        self.in_body = False
        self.cancel("rest_due")
        self.framing = self.payload = self.crumbs = 0
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.cancel("probe_due")
        self.idle_since = self.loop.time()
        self.unanswered = [c for c in self.unanswered if not c.response_complete]
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.in_body and not self.unanswered:
            self.rest_due = self.loop.call_later(DRAIN_SECONDS, self.transport.abort)
        if self.begun or self.unparsed:
            self._unset_keepalive_if_required()
            self.parse()

    def expect_headers(self) -> None:
        self.headers_due = self.loop.call_later(self.settings.header_timeout, self.headers_late)

    def headers_late(self) -> None:
        self.headers_due = None
        if not self.in_body and not self.unanswered and not self.transport.is_closing():
            self.refuse(408, f"the headers did not come within {self.settings.header_timeout:g} s")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The caller has closed its half, or is gone: which of the two, only writing tells."""
        if self.gone_due is not None or self.transport.is_closing() or self.scheme == "https":  # TLS has no halves
            return None
        if self.in_body or self.begun:
            self.refuse(400, "the request is cut off")
            return None
        if self.unanswered:
            self.cycle.keep_alive = False
            self.probe_due = self.loop.call_later(PROBE_SECONDS, self.probe)
            return True
        return None

    def probe(self) -> None:
        """Nothing is read any more, so that the system's word for a caller that is gone has to be asked for."""
        self.probe_due = None
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return self.transport.abort()
        if self.unanswered and not self.unanswered[0].response_started:
            self.transport.write(PROBE)
            self.probe_due = self.loop.call_later(PROBE_SECONDS / 4, self.probe)

    def refuse(self, status: int, message: str) -> None:
        """Answer in place of the app and close; not with bytes unread, since a reset would hide the answer."""
        self.cancel("headers_due")
        self.unparsed, self.held_back = memoryview(b""), False
        answerable = not self.unanswered or not self.unanswered[0].response_started
        for cycle in self.unanswered:
            give_up(cycle)
        if answerable:
            self.transport.write(refusal(status, message))
        self.gone_due = self.loop.call_later(DRAIN_SECONDS, self.transport.abort)
        if self.transport.can_write_eof():
            with suppress(OSError):  # of a caller that is gone
                self.transport.write_eof()
        self.flow.resume_reading()

    def retire(self) -> None:
        """Let go of a connection on which nothing is under way, or just was; a request that is, unseen, finds itself
        refused."""
        is_busy = self.unanswered or self.begun or self.loop.time() < self.idle_since + IDLE
        if self.gone_due is None and not is_busy and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.refuse(503, "the service is stopping")

    def leave(self) -> None:
        """Every answer from now on is the connection's last."""
        self.leaving = True
        for cycle in self.unanswered[-1:]:
            make_last(cycle)

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


def give_up(cycle: RequestResponseCycle) -> None:
    """Tell the app that its caller is gone."""
    cycle.disconnected = True
    cycle.message_event.set()


def make_last(cycle: RequestResponseCycle) -> None:
    """Let its answer be the connection's last, if that can still be said in it."""
    if not cycle.response_started:
        cycle.keep_alive = False
        cycle.default_headers = [*cycle.default_headers, CLOSE_HEADER]


def body_follows(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


def check_framing(headers: list[tuple[bytes, bytes]], version: str) -> None:
    """Raises Refused where two readers could differ on where the request ends, or on whom it is for."""
    if version not in ("1.0", "1.1"):
        raise Refused(f"this service speaks HTTP/1.1, not {version}")
    names = [name for name, _ in headers]
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and b"content-length" in names:
        raise Refused("the request has both Content-Length and Transfer-Encoding")
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise Refused("Transfer-Encoding can only be chunked, in HTTP/1.1")
    if names.count(b"content-length") > 1:
        raise Refused("the request has more than one Content-Length")
    if names.count(b"host") != 1 and (version != "1.0" or names.count(b"host")):
        raise Refused("the request needs one Host header")


def refusal(status: int, message: str) -> bytes:
    body = json.dumps(build_error(message)).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", "connection: close", *(["retry-after: 1"] if status == 503 else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


def connections(settings: Settings, doors: Doors | None = None) -> Any:
    """What uvicorn takes for a protocol's class."""
    return partial(Connection, settings=settings, doors=doors or Doors(settings.max_connections))
