"""When a service wants to be asked again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 60.0
"""Seconds that are waited at a word; whoever says more is asked again after so many."""


def seconds_until(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` asks for, above 0 and at most LONGEST; None where it asks for nothing that can be read.

    A date is counted from the service's own `Date`, where it says one: a small device may have no clock.
    """
    said = headers.get("retry-after", "").strip()
    try:
        seconds = float(said)  # of any length: what is too large for it becomes infinite
    except ValueError:
        then, now = read_date(said), read_date(headers.get("date", "")) or datetime.now(UTC)
        seconds = (then - now).total_seconds() if then else 0.0
    return min(seconds, LONGEST) if seconds > 0 else None


def read_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
