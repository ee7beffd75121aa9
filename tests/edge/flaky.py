"""A service in this process that can be made to fail."""

import functools
import threading

from conftest import tiny_backbone

from sidetune.edge.transport import Reply
from sidetune.serve.local import Local


class Flaky:
    """A transport that counts, and does what `faults` says of the next requests for features: raise, or answer."""

    def __init__(self, inner, faults=()):
        self.inner, self.faults, self.sent, self.lock = inner, list(faults), [], threading.Lock()

    def send(self, path, body=None, headers=None):
        with self.lock:
            fault = self.faults.pop(0) if path.endswith("/infer") and self.faults else None
            self.sent.append(path)
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, Reply):
            return fault
        return self.inner.send(path, body, headers)

    @property
    def num_asked(self):
        return sum(path.endswith("/infer") for path in self.sent)


@functools.cache
def tiny_service():
    return Local(tiny_backbone("vit"), transform="vtab", name="tiny")
