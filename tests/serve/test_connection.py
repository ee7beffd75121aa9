"""What callers can do to a connection, over real sockets."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidetune.serve.refusals import Lingering
from sidetune.serve.server import configure
from sidetune.serve.settings import Settings

LARGE = 30 * 2**20


async def echo(request):
    body = await request.body()
    await asyncio.sleep(0.1)
    return JSONResponse({"bytes": len(body)})


async def large(request):
    return Response(bytes(LARGE))


async def refuse(request):
    return JSONResponse({"error": "no"}, 413)


@contextmanager
def serving(**settings):
    """The address of a small app under the service's own connections."""
    app = Starlette(
        routes=[Route(p, f, methods=["GET", "POST"]) for p, f in (("/", echo), ("/large", large), ("/no", refuse))]
    )
    app.add_middleware(Lingering)
    server = uvicorn.Server(configure(app, Settings(**settings), host="127.0.0.1", port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join()


def answer_to(address, *parts, pause=0.0, half_close=False):
    """What comes back, up to the end of the connection, for bytes sent with pauses."""
    with socket.create_connection(address, timeout=10) as s:
        for part in parts:
            s.sendall(part)
            time.sleep(pause)
        if half_close:
            s.shutdown(socket.SHUT_WR)
        got = b""
        while chunk := s.recv(65536):
            got += chunk
        return got


def read(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def post(body, path="/", length=None, more=b""):
    length = len(body) if length is None else length
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s" % (path.encode(), length, more, body)


def test_headers_that_drip_in_end_in_408():
    with serving(header_timeout=0.5) as address:
        start = time.monotonic()
        status, said = read(answer_to(address, *(post(b"")[i : i + 1] for i in range(8)), pause=0.1))
        assert status == 408 and "0.5 s" in said["error"] and time.monotonic() - start < 5
        assert read(answer_to(address))[0] == 408  # who says nothing at all


def test_the_second_request_of_a_connection_may_not_drip_either():
    with serving(header_timeout=0.4) as address:
        first = post(b"abc")
        answers = answer_to(address, first, b"POST / HT", b"TP", pause=0.3)
        assert answers.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in answers


def test_a_slow_but_honest_request_is_answered():
    with serving(header_timeout=0.3) as address:
        whole = post(b"x" * 10, more=b"Connection: close\r\n")
        assert read(answer_to(address, whole[:-10], whole[-10:-5], whole[-5:], pause=0.4)) == (200, {"bytes": 10})


def test_a_caller_that_closed_its_half_gets_its_answer():
    with serving() as address:
        assert read(answer_to(address, post(b"x" * 10), half_close=True)) == (200, {"bytes": 10})


def test_a_request_cut_off_by_closing_is_refused():
    with serving() as address:
        for cut in (post(b"x" * 10, length=20), post(b"")[:20]):
            status, said = read(answer_to(address, cut, half_close=True, pause=0.1))
            assert status == 400 and list(said) == ["error"]
        assert read(answer_to(address, post(b""), half_close=True))[0] == 200


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS to a plain port",
        b"GET / HTTQ/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 3_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n: : :\r\n\r\n",
    ],
)
def test_malformed_http_is_refused_in_the_protocols_form(text):
    with serving() as address:
        status, said = read(answer_to(address, text, pause=0.1))
        assert status == 400 and list(said) == ["error"]
        assert read(answer_to(address, post(b""), half_close=True))[0] == 200


def test_a_refusal_is_heard_by_a_caller_that_goes_on_sending():
    with serving() as address:
        with socket.create_connection(address, timeout=10) as s:
            s.sendall(post(b"", "/no", length=5_000_000))
            for _ in range(50):
                s.sendall(bytes(100_000))
            got = b""
            while chunk := s.recv(65536):
                got += chunk
        assert read(got) == (413, {"error": "no"})


def test_a_caller_that_does_not_take_its_answer_is_cut_off():
    with serving(send_timeout=0.3) as address:
        with socket.create_connection(address, timeout=10) as s:
            s.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(1.5)
            got = 0
            with pytest.raises(ConnectionResetError):
                while chunk := s.recv(2**20):
                    got += len(chunk)
                raise ConnectionResetError  # closed; either way the answer is not whole
            assert got < LARGE


def test_a_caller_that_takes_its_answer_slowly_gets_it():
    with serving(send_timeout=0.5) as address:
        with socket.create_connection(address, timeout=10) as s:
            s.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            got = 0
            while chunk := s.recv(2**20):
                got += len(chunk)
                time.sleep(0.03)
        assert got > LARGE


def test_connections_above_the_limit_are_told_so():
    with serving(max_connections=2) as address:
        held = [socket.create_connection(address) for _ in range(2)]
        time.sleep(0.2)
        status, said = read(answer_to(address))
        assert status == 503 and said == {"error": "too many connections"}
        [s.close() for s in held]
        time.sleep(0.2)
        assert read(answer_to(address, post(b""), half_close=True))[0] == 200


def test_tls_needs_both_files():
    with pytest.raises(ValueError, match="both --tls-cert and --tls-key"):
        configure(Starlette(), Settings(), host="127.0.0.1", port=0, cert="cert.pem")
