"""HTTP as the device speaks it: connections kept, and every way a connection can fail told apart from an answer."""

import shutil
import socket
import ssl
import subprocess
import threading

import pytest

import sidetune
from sidetune.edge.http import Http
from sidetune.edge.transport import Unreachable


class Server:
    """Gives each connection the next of `answers`, a list of raw replies, and notes what it was sent."""

    def __init__(self, *answers, context=None):
        self.answers, self.context, self.heard = list(answers), context, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return f"http{'s' if self.context else ''}://127.0.0.1:{self.socket.getsockname()[1]}", self

    def __exit__(self, *_):
        self.socket.close()
        self.thread.join(5)

    def run(self):
        for replies in self.answers:
            connection, _ = self.socket.accept()
            try:
                with self.context.wrap_socket(connection, server_side=True) if self.context else connection as c:
                    for reply in replies:
                        self.heard.append(c.recv(65536).decode())
                        c.sendall(reply)
                    if not replies:
                        c.recv(65536)
            except OSError:
                pass


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Told: yes\r\n\r\nhi"


def test_one_connection_serves_several_requests_and_carries_the_key():
    with Server([OK, OK]) as (url, server):
        transport = Http(f"{url}/below", key="secret")
        assert transport.send("/v2").body == b"hi"
        reply = transport.send("/v2/x", b"body", {"A": "b"})
        assert reply.status == 200 and reply.headers["x-told"] == "yes"
        transport.connection().close()
    assert server.heard[0].startswith("GET /below/v2 ") and server.heard[1].startswith("POST /below/v2/x ")
    assert all("Authorization: Bearer secret" in heard for heard in server.heard) and "A: b" in server.heard[1]


@pytest.mark.parametrize(
    "replies",
    [
        [],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\ntoo short"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"],
        [b"no HTTP at all\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Len"],
    ],
)
def test_what_is_not_a_whole_answer_is_none_and_the_next_request_starts_afresh(replies):
    with Server(replies, [OK]) as (url, _):
        transport = Http(url)
        with pytest.raises(Unreachable):
            transport.send("/v2", b"x")
        assert transport.send("/v2", b"x").body == b"hi"
        transport.connection().close()


def test_a_server_that_says_nothing_is_not_waited_for_forever():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = Http(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
        with pytest.raises(Unreachable, match="timed out"):
            transport.send("/v2")


def test_an_answer_is_bounded(monkeypatch):
    monkeypatch.setattr("sidetune.edge.http.MAX_REPLY", 1)
    with Server([OK]) as (url, _), pytest.raises(Unreachable, match="larger than 1 bytes"):
        Http(url).send("/v2")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://10.0.0.7:8000", True),
        ("http://server", True),
        ("server:8000", True),
        ("http://[2001:db8::1]:8000", True),
        ("http://localhost.example.org", True),
        ("http://128.0.0.1", True),
        ("https://10.0.0.7:8000", False),
        ("http://localhost:8000", False),
        ("http://LOCALHOST.", False),
        ("http://api.localhost", False),
        ("http://127.0.0.1:8000", False),
        ("http://127.8.9.1", False),
        ("http://[::1]:8000", False),
        ("http://[::ffff:127.0.0.1]", False),
    ],
)
def test_a_key_is_shown_to_the_network_over_plain_http_to_another_machine_alone(url, shown):
    assert Http(url, key="secret").shows_key == shown
    assert not Http(url).shows_key


@pytest.mark.parametrize("key", ["", "secret\nline", "secret\r\nX-Other: 1", "secret\x00", "secret\u20ac"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_quoted(key):
    with pytest.raises(ValueError, match="an API key is one line of text") as refused:
        Http("http://x", key=key)
    assert "secret" not in str(refused.value)


def test_the_device_says_who_it_is():
    with Server([OK]) as (url, server):
        transport = Http(url)
        transport.send("/v2")
        transport.connection().close()
    assert f"User-Agent: sidetune/{sidetune.__version__}\r\n" in server.heard[0]


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://me:pass@x", "http://x?q=1"])
def test_addresses_that_are_none_are_refused(url):
    with pytest.raises(ValueError, match="a server is http://HOST:PORT"):
        Http(url)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_is_checked_and_its_authority_can_be_given(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, *subject]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with Server([OK], [OK], context=context) as (url, _):
        with pytest.raises(ValueError, match="is not trusted.*--ca-file"):
            Http(url).send("/v2")
        transport = Http(url, ca_file=cert)
        assert transport.send("/v2").body == b"hi"
        transport.connection().close()
