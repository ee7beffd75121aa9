"""What callers can do to a connection, over real sockets."""

import asyncio
import http.client
import json
import select
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.server import ServerState

from sidetune.serve import connection
from sidetune.serve.crowd import Crowd
from sidetune.serve.doors import Doors, origin
from sidetune.serve.refusals import Lingering
from sidetune.serve.server import Server, bind, configure
from sidetune.serve.settings import Settings
from sidetune.serve.waste import Waste

LARGE = 30 * 2**20
GONE, LATER = [], threading.Event()


async def echo(request):
    body = await request.body()
    await asyncio.sleep(0.1)
    return JSONResponse({"bytes": len(body)})


async def large(request):
    return Response(bytes(LARGE))


async def refuse(request):
    return JSONResponse({"error": "no"}, 413)


async def early(request):
    return JSONResponse({})  # whatever still comes


async def wait(request):
    """Until the caller is gone, which is noted."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    GONE.append(time.monotonic())
    return JSONResponse({})


async def later(request):
    """Reads the body when the test says so."""
    while not LATER.is_set():
        await asyncio.sleep(0.01)
    return await echo(request)


def started(cert=None, key=None, **settings):
    """A small app under the service's own connections: its server, the thread it runs in and its address."""
    paths = (("/", echo), ("/large", large), ("/no", refuse), ("/wait", wait), ("/early", early), ("/later", later))
    app = Starlette(routes=[Route(p, f, methods=["GET", "POST"]) for p, f in paths])
    app.add_middleware(Lingering, waste=Waste(Crowd()))
    limits, sockets = Settings(**{"drain_timeout": 0, **settings}), bind("127.0.0.1", 0)
    sockets[0].listen(100)
    sockets[0].setblocking(False)
    server = Server(configure(app, limits, host="127.0.0.1", port=0, cert=cert, key=key), limits, sockets)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    return server, thread, sockets[0].getsockname()


@contextmanager
def serving(**settings):
    """The address of such an app."""
    server, thread, address = started(**settings)
    try:
        yield address
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
        answers = answer_to(address, first, b"POST / HT", b"TP", pause=0.1)
        assert answers.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in answers


def test_a_slow_but_honest_request_is_answered():
    with serving(header_timeout=0.3) as address:
        whole = post(b"x" * 10, more=b"Connection: close\r\n")
        assert read(answer_to(address, whole[:-10], whole[-10:-5], whole[-5:], pause=0.2)) == (200, {"bytes": 10})


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
    server, thread, address = started(send_timeout=0.3)
    try:
        with socket.create_connection(address, timeout=10) as s:
            s.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            s.recv(1)  # it is being answered
            until(lambda: not server.server_state.connections)
            got = 1
            with pytest.raises(ConnectionResetError):
                while chunk := s.recv(2**20):
                    got += len(chunk)
                raise ConnectionResetError  # closed; either way the answer is not whole
            assert got < LARGE
    finally:
        server.should_exit = True
        thread.join()


def test_a_caller_that_takes_its_answer_slowly_gets_it():
    with serving(send_timeout=0.5) as address:
        with socket.create_connection(address, timeout=10) as s:
            s.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            got = 0
            while chunk := s.recv(2**20):
                got += len(chunk)
                time.sleep(0.03)
        assert got > LARGE


def until(is_so):
    """Wait for what another thread does."""
    late = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < late
        time.sleep(0.01)


def test_connections_above_the_limit_are_told_so():
    server, thread, address = started(max_connections=2)
    try:
        held = [socket.create_connection(address) for _ in range(2)]
        until(lambda: len(server.server_state.connections) == 2)
        status, said = read(answer_to(address))
        assert status == 503 and said == {"error": "too many connections"}
        [s.close() for s in held]
        until(lambda: not server.server_state.connections)
        assert read(answer_to(address, post(b""), half_close=True))[0] == 200
    finally:
        server.should_exit = True
        thread.join()


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"Content-Length: 0, 0\r\n\r\n",
        HEAD + b"Content-Length: +0\r\n\r\n",
        HEAD + b"Content-Length: 0_0\r\n\r\n",
        HEAD + b"Content-Length:\r\n 0\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Host: y\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/2.0\r\nHost: x\r\n\r\n",
        CHUNKED + b"\r\n0 \r\n\r\n",
        CHUNKED + b"\r\n-1\r\n\r\n",
        CHUNKED + b"\r\nffffffffffffffffff\r\n\r\n",
        HEAD + b"A: b\0c\r\n\r\n",
        HEAD + b"A: b\rContent-Length: 9\r\n\r\n",
        HEAD + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nx",
    ],
)
def test_a_request_that_two_could_read_differently_ends_its_connection(text):
    with serving() as address:
        answer = answer_to(address, text + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
        status, said = read(answer)
        assert status == 400 and list(said) == ["error"] and b"\r\nconnection: close\r\n" in answer


def test_an_offer_to_change_protocols_is_not_taken_up():
    with serving() as address:
        offer = b"GET /early HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        assert answer_to(address, offer + offer, half_close=True).count(b"HTTP/1.1 200") == 2


def test_trailers_are_no_headers():
    with serving() as address:
        text = CHUNKED + b"\r\n1\r\na\r\n0\r\nExpect: 100-continue\r\nX: y\r\n\r\n"
        assert answer_to(address, text + text, half_close=True).count(b'{"bytes":1}') == 2


@pytest.mark.parametrize(
    "body",
    [
        b"1\r\nx\r\n" * 500_000,
        b"10\r\n0123456789abcdef\r\n" * 100_000,
        b"1;" + b"e" * 100_000 + b"\r\nx\r\n",
        b"1\r\nx\r\n0\r\n" + b"X: y\r\n" * 50_000,
    ],
)
def test_bodies_that_are_all_framing_are_refused_before_they_end(body):
    with serving() as address:
        status, said = read(answer_to(address, CHUNKED + b"\r\n" + body))
        assert status == 400 and "chunks are too small" in said["error"]


@pytest.mark.parametrize("size", [64, 1000, 70_000])
def test_chunks_of_usual_sizes_are_put_together(size):
    with serving() as address:
        body = b"%x\r\n%s\r\n" % (size, b"x" * size) * (200_000 // size)
        whole = CHUNKED + b"Connection: close\r\n\r\n" + body + b"0\r\n\r\n"
        assert read(answer_to(address, whole)) == (200, {"bytes": 200_000 // size * size})


@pytest.mark.parametrize(
    "headers, message", [(b"A: b\r\n" * 100, "more than 100 headers"), (b"A: " + b"x" * 33_000, "exceed 32768 bytes")]
)
def test_headers_have_a_limit(headers, message):
    with serving() as address:
        status, said = read(answer_to(address, HEAD + headers + b"\r\n"))
        assert status == 400 and message in said["error"]


def test_a_connection_is_not_held_by_empty_lines():
    with serving(header_timeout=0.3) as address:
        for before in (b"", b"GET /early HTTP/1.1\r\nHost: x\r\n\r\n"):
            answer = answer_to(address, before, *[b"\r\n"] * 8, pause=0.05)
            assert read(answer[answer.rindex(b"HTTP/1.1 ") :])[0] == 408


def test_requests_sent_all_at_once_are_answered_in_order():
    with serving() as address:
        many = b"".join(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" % p for p in (b"/early", b"/no") * 500
        )
        answers = answer_to(address, many, half_close=True)
        assert answers.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 413" in answers  # which ends the connection
        many = b"GET /early HTTP/1.1\r\nHost: x\r\n\r\n" * 3000
        assert answer_to(address, many, half_close=True).count(b"HTTP/1.1 200 OK") == 3000


def test_the_rest_of_a_request_that_is_answered_does_not_come_for_ever(monkeypatch):
    monkeypatch.setattr(connection, "DRAIN_SECONDS", 0.2)
    with serving() as address, socket.create_connection(address, timeout=10) as s:
        s.sendall(b"GET /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        with pytest.raises(OSError):
            for _ in range(200):
                s.sendall(b"x" * 300)
                time.sleep(0.05)


def test_a_request_in_crumbs_is_answered():
    with serving() as address:
        whole = post(b"x" * 100, more=b"Connection: close\r\n")
        with socket.create_connection(address, timeout=10) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i in range(len(whole)):
                s.sendall(whole[i : i + 1])
            got = b""
            while chunk := s.recv(65536):
                got += chunk
        assert read(got) == (200, {"bytes": 100})


def test_a_caller_that_is_gone_is_noticed_and_one_that_only_closed_its_half_is_not(monkeypatch):
    monkeypatch.setattr(connection, "PROBE_SECONDS", 0.02)
    GONE.clear()
    with serving() as address:
        got = answer_to(address, post(b"abc"), half_close=True)
        assert read(got[got.rindex(b"HTTP/1.1 ") :]) == (200, {"bytes": 3}) and b"HTTP/1.1 100" in got
        with socket.create_connection(address) as s:
            s.sendall(post(b"", "/wait"))
            time.sleep(0.1)
        until(lambda: GONE)


def test_a_body_is_neither_read_nor_parsed_before_the_app_asks_for_it():
    server, thread, address = started()
    LATER.clear()
    try:
        with socket.create_connection(address, timeout=10) as s:
            s.sendall(post(b"x" * 200_000, "/later", more=b"Connection: close\r\n"))
            until(lambda: any(c.held_back for c in list(server.server_state.connections)))
            held = [c for c in server.server_state.connections if c.held_back]
            assert held[0].payload <= connection.SLICE and len(held[0].unparsed) <= connection.MOST_READ
            assert held[0].flow.read_paused
            LATER.set()
            got = b""
            while chunk := s.recv(65536):
                got += chunk
        assert read(got) == (200, {"bytes": 200_000})
    finally:
        server.should_exit = True
        thread.join()


def test_refusing_a_caller_that_is_gone_is_no_failure():
    class Gone:
        def __init__(self):
            self.written = []

        def __getattr__(self, name):
            return lambda *_: name == "can_write_eof"

        def write(self, data):
            self.written.append(data)

        def write_eof(self):
            raise OSError("not connected")

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        limits = Settings()
        caller = connection.Connection(
            settings=limits,
            doors=Doors(8),
            admitted=True,
            config=configure(Starlette(), limits, host="127.0.0.1", port=0),
            server_state=ServerState(),
            app_state={},
        )
        caller.transport, caller.flow = Gone(), connection.Flow(Gone(), lambda: None)
        caller.refuse(400, "the request is cut off")
        assert b"the request is cut off" in caller.transport.written[0] and caller.gone_due is not None
        caller.gone_due.cancel()
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_connections_of_one_place_leave_some_to_others():
    with serving(max_connections=8) as address:
        held = [socket.create_connection(address) for _ in range(8)]
        assert read(answer_to(address))[0] == 503
        with socket.create_connection(address, timeout=10, source_address=("127.0.0.2", 0)) as s:
            s.sendall(post(b"", more=b"Connection: close\r\n"))
            assert s.recv(65536).startswith(b"HTTP/1.1 200")
        [s.close() for s in held]


@pytest.mark.parametrize(
    "client, place",
    [
        (("10.0.0.7", 1), "10.0.0.7"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::"),
        (("::ffff:10.0.0.7", 1), "10.0.0.7"),
        (("fe80::1%eth0", 1), "fe80::"),
        (None, ""),
    ],
)
def test_a_place_is_an_address_or_a_network_of_one_subscriber(client, place):
    assert origin(client) == place


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*made, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl makes the certificate")
    return {"cert": cert, "key": key}


def secured(address):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(address, timeout=10))


def test_connections_count_before_they_have_shaken_hands_and_are_dropped_in_time(certificate):
    with serving(**certificate, max_connections=4, header_timeout=0.5) as address:
        held = [socket.create_connection(address, timeout=10) for _ in range(3)]
        held[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a greeting
        time.sleep(0.1)
        with pytest.raises(OSError):
            secured(address)
        assert [s.recv(100) for s in held[1:]] == [b"", b""]
        with secured(address) as s:
            s.sendall(post(b"abc", more=b"Connection: close\r\n"))
            got = b""
            while chunk := s.recv(65536):
                got += chunk
            assert read(got) == (200, {"bytes": 3})
        [s.close() for s in held]


def test_what_is_no_tls_is_dropped_and_counts_no_longer(certificate):
    with serving(**certificate, max_connections=4) as address:
        for _ in range(20):
            assert not answer_to(address, post(b""), half_close=True).startswith(b"HTTP")
        with secured(address) as s:
            s.sendall(post(b""))
            assert s.recv(65536).startswith(b"HTTP/1.1 200")


def ask_on(address, fresh, done, stop):
    """Request after request, until nobody listens; notes what became of each that was sent."""
    caller = http.client.HTTPConnection(*address, timeout=10)
    while not stop.is_set():
        try:
            caller.connect() if caller.sock is None else None
        except ConnectionRefusedError:
            return
        try:
            caller.request("POST", "/", b"abc", {"Connection": "close"} if fresh else {})
            answer = caller.getresponse()
            answer.read()
            done.append(answer.status)
        except OSError as e:
            done.append(type(e).__name__)
            caller.close()


@pytest.mark.parametrize("drain", [0, 0.3])
def test_sixty_four_callers_are_answered_or_refused_while_the_service_stops(drain):
    server, thread, address = started(drain_timeout=drain, max_connections=1000)
    done, stop = [], threading.Event()
    callers = [threading.Thread(target=ask_on, args=(address, i % 2, done, stop)) for i in range(64)]
    [c.start() for c in callers]
    while len(done) < 200:
        time.sleep(0.01)
    server.should_exit = True
    [c.join(20) for c in callers]
    stop.set()
    thread.join(20)
    assert set(done) <= {200, 503} and done.count(200) > 200 and not thread.is_alive()


def test_a_port_that_is_taken_is_told():
    with serving() as address, pytest.raises(ValueError, match=f"port {address[1]} of 127.0.0.1 cannot be listened on"):
        bind(*address)


def test_tls_needs_both_files():
    with pytest.raises(ValueError, match="both --tls-cert and --tls-key"):
        configure(Starlette(), Settings(), host="127.0.0.1", port=0, cert="cert.pem")


def test_tls_files_that_are_none_are_told_in_a_line(certificate, tmp_path):
    (tmp_path / "text.pem").write_text("no certificate")
    for cert, why in (
        (tmp_path / "nowhere.pem", "No such file"),
        (tmp_path / "text.pem", "no certificate and its key"),
    ):
        with pytest.raises(ValueError, match=why):
            configure(Starlette(), Settings(), host="127.0.0.1", port=0, cert=cert, key=certificate["key"])


def test_a_connection_that_was_just_answered_is_not_let_go_of_and_its_next_answer_is_its_last(monkeypatch):
    """Clients read what comes behind an answer together with it, and lose it."""
    monkeypatch.setattr("sidetune.serve.connection.IDLE", 1e6)
    server, thread, address = started()
    with socket.create_connection(address, timeout=10) as s:
        s.sendall(post(b"abc"))
        got = b""
        while not got.endswith(b"}"):
            got += s.recv(65536)
        assert got.startswith(b"HTTP/1.1 200")
        server.should_exit = True
        while not server.stage.stopping:
            time.sleep(0.01)
        assert not select.select([s], [], [], 0.15)[0]
        s.sendall(post(b"abc"))
        assert b"connection: close" in s.recv(65536)
    thread.join(20)
    assert not thread.is_alive()
