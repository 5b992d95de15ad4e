"""How long to wait before another try. Knows nothing of HTTP clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom

__all__ = ["LONGEST_WAIT", "Backoff", "retry_after"]

# seconds: what a server may ask for with Retry-After, and where the back-off stops growing
LONGEST_WAIT = 60.0


def _jitter(low: float, high: float) -> float:
    # waits of workers that fail together must differ, and they touch no result: so these numbers
    # descend neither from a run's seed nor from the generators that others draw from
    return SystemRandom().uniform(low, high)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first` seconds to `longest`, each shortened by up to a half."""

    first: float = 0.5
    longest: float = LONGEST_WAIT
    uniform: Callable[[float, float], float] = _jitter

    def wait(self, attempt: int, asked: float | None = None) -> float:
        """Seconds after the `attempt`-th try (from 1); at least what the server `asked` for."""
        full = min(self.longest, self.first * 2.0 ** min(attempt - 1, 60))
        return max(asked or 0.0, self.uniform(full / 2, full))


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds from a Retry-After header, a number or a date (RFC 9110, 10.2.3); None otherwise."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:  # a header that means nothing is as good as none
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
