"""The seam between the device and whatever computes features: one method, a request of the protocol for its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int
    """As in HTTP."""
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""


class Unreachable(Exception):
    """No whole answer came; asking again is safe, since requests change nothing at the other side."""


class Transport(Protocol):
    def send(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """GET `path`, or POST `body` to it. Called from several threads. Raises Unreachable."""
        ...
