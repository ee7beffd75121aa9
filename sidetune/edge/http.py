"""The protocol over HTTP with the standard library: a connection for each thread, kept open."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sidetune import __version__
from sidetune.edge.transport import Reply, Unreachable

TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as lost."""
MAX_REPLY = 256 * 2**20


class Http:
    """Requests to one server, with the key if there is one."""

    def __init__(
        self, url: str, *, key: str | None = None, ca_file: Path | None = None, timeout: float = TIMEOUT
    ) -> None:
        """Raises ValueError for a URL that is not http://HOST[:PORT] or https://..., or a key that no header can carry,
        OSError for a bad `ca_file`.

        `ca_file` holds the certificate to trust, where no authority that the system knows has signed the server's.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise ValueError(f"a server is http://HOST:PORT or https://HOST:PORT, got {url!r}")
        self.host, self.port, self.prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self.timeout = timeout
        self.headers = {"User-Agent": f"sidetune/{__version__}"}
        if key is not None:
            self.headers["Authorization"] = f"Bearer {check_key(key)}"
        self.context = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self.of_thread = threading.local()

    @property
    def shows_key(self) -> bool:
        """Whether the key would cross a network as it is: over plain HTTP, to an address other than this machine's."""
        return "Authorization" in self.headers and self.context is None and not is_this_machine(self.host)

    def send(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        connection = self.connection()
        try:
            connection.request(
                "GET" if body is None else "POST", self.prefix + path, body, {**self.headers, **(headers or {})}
            )
            response = connection.getresponse()
            if response.length is None and not response.chunked:
                raise Unreachable("the answer does not say how long it is, so that its end could be missing")
            data = response.read(MAX_REPLY + 1)
            if response.length or len(data) > MAX_REPLY:
                raise Unreachable(f"the answer is cut off or larger than {MAX_REPLY:,} bytes")
            return Reply(status=response.status, body=data, headers={k.lower(): v for k, v in response.headers.items()})
        except ssl.SSLCertVerificationError as e:
            connection.close()
            raise ValueError(
                f"the certificate of {self.host} is not trusted: {e.verify_message}; give its authority by --ca-file"
            ) from e
        except (OSError, http.client.HTTPException) as e:
            connection.close()
            raise Unreachable(f"{self.host}: {e or type(e).__name__}") from e
        except BaseException:
            connection.close()
            raise

    def connection(self) -> http.client.HTTPConnection:
        """This thread's; a closed one opens again by itself."""
        if not hasattr(self.of_thread, "connection"):
            if self.context is None:
                made = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
            else:
                made = http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout, context=self.context)
            self.of_thread.connection = made
        return self.of_thread.connection


def check_key(key: str) -> str:
    """Raises ValueError, without quoting the key, for one that no header can carry."""
    if not key or not key.isprintable() or any(ord(c) > 255 for c in key):
        raise ValueError("an API key is one line of text; this one is empty or holds what no header can carry")
    return key


def is_this_machine(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
