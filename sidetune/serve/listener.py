"""A socket that is listened on: connections count from the first packet, and shake hands in time or are dropped."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from sidetune.serve.connection import Connection
from sidetune.serve.doors import Doors
from sidetune.serve.settings import Settings

log = logging.getLogger("sidetune.serve")
AT_ONCE = 16
"""Connections taken before others have their turn."""
FULL_PAUSE = 0.2
"""Seconds until the next try where the system has no room for another connection."""
CLOSE_SECONDS = 2.0
"""For the last words of TLS."""


class Listener:
    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[bool], Connection],
        doors: Doors,
        settings: Settings,
        context: ssl.SSLContext | None,
    ) -> None:
        """`make` a connection, told whether the doors have counted it."""
        self.sock, self.make, self.doors, self.settings, self.context = sock, make, doors, settings, context
        self.loop = asyncio.get_running_loop()
        self.opening: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self.loop.add_reader(self.sock, self.accept)

    def accept(self) -> None:
        for _ in range(AT_ONCE):
            if not self.accept_one():
                return

    def accept_one(self) -> bool:
        """Take a connection that waits, if one does."""
        try:
            sock, address = self.sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as e:  # no more descriptors
            log.warning("a connection cannot be taken: %s", e)
            self.loop.remove_reader(self.sock)
            self.loop.call_later(FULL_PAUSE, self.restart)
            return False
        sock.setblocking(False)
        client = address[:2] if isinstance(address, tuple) else None
        task = self.loop.create_task(self.open(sock) if self.context is None else self.shake_hands(sock, client))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)
        return True

    def restart(self) -> None:
        if self.sock.fileno() != -1:
            self.start()

    async def open(self, sock: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: self.make(False), sock)
        except OSError:  # gone before it was looked at
            sock.close()

    async def shake_hands(self, sock: socket.socket, client: tuple[str, int] | None) -> None:
        """In TLS; nothing can be said to a caller before it is done."""
        if not self.doors.enter(client):
            return sock.close()
        made: list[Connection] = []

        def make() -> Connection:
            made.append(self.make(True))
            return made[0]

        try:
            await self.loop.connect_accepted_socket(
                make,
                sock,
                ssl=self.context,
                ssl_handshake_timeout=self.settings.header_timeout,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except (OSError, asyncio.CancelledError):
            pass  # many a scanner, and many a device that trusts another certificate
        finally:
            if not made or made[0].transport is None:  # otherwise the connection leaves by itself
                self.doors.leave(client)
                sock.close()

    async def close(self) -> None:
        """Take all who have knocked, then nobody any more."""
        while self.accept_one():
            pass
        self.loop.remove_reader(self.sock)
        self.sock.close()
        if self.opening:
            _, late = await asyncio.wait(self.opening, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
