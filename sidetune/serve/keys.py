"""Who may ask, and how much: API keys from a file, each with its own limits.

The file is TOML, one table a caller:

    [greenhouse]
    key = "at least 16 characters that nobody guesses"
    rate = 50           # images a second, optional
    max_body = 1048576  # bytes of a request, optional
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from sidetune.serve.bucket import Bucket
from sidetune.serve.refusals import error
from sidetune.serve.settings import Settings

log = logging.getLogger("sidetune.serve")
SHORTEST = 16
LOOK_SECONDS = 1.0
"""Between looks at the file."""
OPEN = ("/v2/health/live", "/v2/health/ready")
"""What whoever looks after the machine asks; tells no more than that the service runs."""
ANYONE = "anyone"
FIELDS = {"key": str, "rate": (int, float), "max_body": int}


@dataclass(frozen=True, kw_only=True)
class Caller:
    name: str
    digest: bytes = field(repr=False)
    max_body: int
    bucket: Bucket
    has_key: bool = True

    @property
    def label(self) -> str:
        """Its name in metrics, which others may read: a digest of it."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:12] if self.has_key else self.name


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Those who may ask; without any, everyone is one caller."""

    callers: tuple[Caller, ...]
    open: bool
    """Whether no key is needed."""

    def find(self, authorization: str) -> Caller | None:
        """The caller of an `Authorization: Bearer KEY`; every key is compared, each in constant time."""
        if self.open:
            return self.callers[0]
        scheme, _, key = authorization.partition(" ")
        digest = digest_of(key.strip() if scheme.lower() == "bearer" else "")
        found = [c for c in self.callers if hmac.compare_digest(c.digest, digest)]
        return found[0] if found else None


class KeyFile:
    """The callers of a file, which is read again when it was changed: a key is given out or taken back without a stop.

    A file that cannot be used any more is told of in the log, and those who might ask before still may.
    """

    def __init__(self, path: Path, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError or OSError for a file that cannot be used."""
        self.path, self.settings, self.clock = path, settings, clock
        self.keys, self.stamp, self.looked = from_file(path, settings), stamp_of(path), clock()

    def find(self, authorization: str) -> Caller | None:
        if self.clock() - self.looked >= LOOK_SECONDS:
            self.looked = self.clock()
            self.look()
        return self.keys.find(authorization)

    def look(self) -> None:
        try:
            if (stamp := stamp_of(self.path)) == self.stamp:
                return
            self.stamp = stamp
            keys = from_file(self.path, self.settings)
        except (ValueError, OSError) as e:
            log.error("the keys stay as they were: %s", e)
            return
        before = {c.digest: c.bucket for c in self.keys.callers}
        kept = [(c, before.get(c.digest)) for c in keys.callers]
        callers = (replace(c, bucket=b) if b is not None and b.rate == c.bucket.rate else c for c, b in kept)
        self.keys = replace(keys, callers=tuple(callers))
        log.info("read %s again: %d keys", self.path, len(self.keys.callers))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "looked": 0.0}  # on another machine clocks differ


def stamp_of(path: Path) -> tuple[int, int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size, about.st_ino


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: Path | None, settings: Settings) -> Keys | KeyFile:
    """Who may ask. Raises ValueError naming the caller, never the key, for a file that cannot be used."""
    if path is None:
        return Keys(callers=(replace(caller(ANYONE, {"key": ""}, settings), has_key=False),), open=True)
    return KeyFile(path, settings)


def from_file(path: Path, settings: Settings) -> Keys:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):  # whose messages may quote the file
        raise ValueError(f"{path} is not TOML with one table for each caller: [name], key = '...'") from None
    for name, table in tables.items():
        if not isinstance(table, dict) or not isinstance(table.get("key"), str) or len(table["key"]) < SHORTEST:
            raise ValueError(f"{path}: [{name}] needs key = '...' of at least {SHORTEST} characters")
        if wrong := [k for k, v in table.items() if k not in FIELDS or not isinstance(v, FIELDS[k])]:  # type: ignore[arg-type]
            raise ValueError(f"{path}: [{name}] has an unknown or wrong {', '.join(wrong)}; known: {', '.join(FIELDS)}")
    callers = tuple(caller(name, table, settings) for name, table in tables.items())
    if not callers or len({c.digest for c in callers}) < len(callers):
        raise ValueError(f"{path} holds no key, or one key twice")
    return Keys(callers=callers, open=False)


def caller(name: str, table: dict[str, Any], settings: Settings) -> Caller:
    bucket = Bucket(rate=table.get("rate", settings.rate))
    max_body = min(table.get("max_body", settings.max_body), settings.max_body)
    return Caller(name=name, digest=digest_of(table["key"]), max_body=max_body, bucket=bucket)


class Guard:
    """Lets nobody without a key past, and puts who is asking into the request's state."""

    def __init__(self, app: ASGIApp, keys: Keys | KeyFile) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            sent = [v for k, v in scope["headers"] if k == b"authorization"]
            found = self.keys.find(sent[0].decode("latin-1") if len(sent) == 1 else "")
            if found is None:
                refusal = error("a valid API key is needed", 401, {"WWW-Authenticate": "Bearer"})
                return await refusal(scope, receive, send)
            scope.setdefault("state", {})["caller"] = found
        await self.app(scope, receive, send)
