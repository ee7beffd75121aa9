"""How far a service has come in stopping; who runs it says so, and the app answers accordingly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Stage:
    draining: bool = False
    """Not ready any more, so that nobody is sent here; who still comes is answered."""
    stopping: bool = False
    """What is accepted is answered, all else refused."""
