"""Processes that decode what may take long: each has a deadline, and ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from PIL import Image

from sidetune.data.geometry import Geometry
from sidetune.serve.coder import PAIR, request
from sidetune.wire.message import WireError

COMMAND = (sys.executable, "-m", "sidetune.serve.coder")


NICENESS = 10
"""The backbone and the answers of others come first."""


class Coders:
    """Lives on one event loop. A process is started when it is first needed, and again after it was killed."""

    def __init__(self, number: int, *, timeout: float, max_pixels: int) -> None:
        self.timeout, self.max_pixels = timeout, max_pixels
        self.all = tuple(Coder() for _ in range(number))
        self.idle: asyncio.LifoQueue[Coder] = asyncio.LifoQueue()  # the one that runs already comes first
        for coder in self.all:
            self.idle.put_nowait(coder)
        self.threads = ThreadPoolExecutor(number, thread_name_prefix="coder")

    async def decode(self, data: bytes | memoryview, geometry: Geometry) -> Image.Image:
        """What is seen of an image file, in RGB. For as many callers at once as there are processes.

        Who cancels ends the work. Raises WireError for what cannot be read, or not in time.
        """
        coder = await self.idle.get()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self.threads, coder.decode, data, self.max_pixels, geometry)
        work.add_done_callback(lambda done: self.let_go(coder, done))
        try:
            async with asyncio.timeout(self.timeout):
                return await asyncio.shield(work)
        except TimeoutError:
            loop.run_in_executor(None, coder.kill)  # which may wait for a process that is being started
            raise WireError(f"it takes longer than {self.timeout:g} s to decode") from None
        except asyncio.CancelledError:
            loop.run_in_executor(None, coder.kill)
            raise

    def let_go(self, coder: Coder, work: asyncio.Future[Image.Image]) -> None:
        self.idle.put_nowait(coder)
        if not work.cancelled():
            work.exception()  # whoever waits has seen it

    def close(self) -> None:
        """Ends everything at once."""
        for coder in self.all:
            coder.is_closed = True
            coder.kill()
        self.threads.shutdown()  # nothing is left that they could wait for
        for coder in self.all:
            coder.end()


class Coder:
    """One process, used by one thread at a time; `kill` is for any."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.is_closed = self.is_killed = False
        self.lock = threading.Lock()

    def started(self) -> subprocess.Popen[bytes]:
        with self.lock:
            if self.is_closed:
                raise WireError("it could not be decoded: the service is stopping")
            if self.process is None or self.is_killed or self.process.poll() is not None:
                self.end()
                self.is_killed = False
                self.process = subprocess.Popen(
                    COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                )
                with suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)
            return self.process

    def decode(self, data: bytes | memoryview, max_pixels: int, geometry: Geometry) -> Image.Image:
        process = self.started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request(data, max_pixels, geometry))
            process.stdin.write(data)
            process.stdin.flush()
            width, height = PAIR.unpack(process.stdout.read(PAIR.size))
            if not width:
                raise WireError(process.stdout.read(height).decode())
            return Image.frombytes("RGB", (width, height), process.stdout.read(width * height * 3))
        except WireError:
            raise
        except Exception:  # the process is gone: killed, or out of memory
            self.kill()
            raise WireError("it could not be decoded") from None

    def kill(self) -> None:
        with self.lock:
            if self.process is not None:
                self.is_killed = True  # its pipes close before it is seen to be gone
                self.process.kill()

    def end(self) -> None:
        """Close what an ended process leaves."""
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                with suppress(OSError):  # what was not written yet is lost with it
                    assert pipe is not None
                    pipe.close()
            self.process.wait()
            self.process = None
